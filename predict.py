"""Read handwritten digits with a trained network: in pictures, in a browser, in your own program.

    python predict.py photo.jpg row.png                    what the pictures show
    python predict.py sheet.jpg --crops my_digits/train    also keep every digit as a 28x28 image
    python predict.py --test my_digits/test                loss and accuracy on labelled images
    python predict.py --page docs/index.html               a web page to draw on
    python predict.py --export lenet5.onnx                 a file for ONNX runtimes

The shipped weights in data/weights/ read them, or those of a run of yours: --run NAME.
"""

from utils.command import run_command  # isort: split

import argparse
import functools
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from comparison.analysis import confusion
from comparison.plots import plot_confusion
from comparison.stats import format_interval, proportion_interval
from dataset import MNIST, Split
from model import MODELS, TITLES
from reading import page, plots
from reading.classifier import Classifier, classify, load_classifier
from reading.onnx import export_onnx
from reading.photos import Digit, find_digits, open_picture
from utils.archives import SUFFIXES, decode_member, list_images, parse_name, read_archive
from utils.checkpoint import find_weights
from utils.files import PLOTS, UserError, acquire_lock, atomic_write, write_all
from utils.settings import Parser, check_choice

DATA = Path(__file__).parent / "data"  # what this repository ships
WEIGHTS = DATA / "weights"


def classify_digits(classifier: Classifier, digits: list[Digit]) -> np.ndarray:
    """Return the probabilities float32 [N, 10] of digits found in a picture."""
    images = torch.from_numpy(np.stack([digit.image for digit in digits]))
    return classify(classifier, images).softmax(dim=1).numpy()


# --- Pictures ---------------------------------------------------------------------------------


def read_picture(classifier: Classifier, path: Path) -> tuple[Image.Image, list[Digit], np.ndarray]:
    """Return a picture, its digits, and their probabilities float [N, 10].

    Raises:
        UserError: if it can't be opened, or shows no digits or too many.
    """
    picture = open_picture(path)
    try:
        reading = find_digits(
            picture,
            lambda images: classify(classifier, torch.from_numpy(images)).softmax(1).numpy(),
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    for warning in reading.warnings:
        print(f"{path}: {warning}", file=sys.stderr)
    digits = reading.digits
    return picture, digits, classify_digits(classifier, digits)


def describe_picture(path: Path, digits: list[Digit], shares: np.ndarray, as_json: bool) -> str:
    """Return the line for a picture: path: digits (probability of the least certain one)."""
    text = "".join(str(digit) for digit in shares.argmax(axis=1))
    if not as_json:
        return f"{path}: {text} ({100 * shares.max(axis=1).min():.1f} %)"
    boxes = [digit.box for digit in digits]
    probabilities = shares.astype(float).round(6).tolist()
    return json.dumps(
        {"picture": str(path), "digits": text, "boxes": boxes, "probabilities": probabilities}
    )


def write_crops(folder: Path, digits: list[Digit], shares: np.ndarray) -> str:
    """Write digits as {ID}_{Label}.png, labelled as they were read, with IDs the folder lacks.

    Returns:
        Which files these are, and of which digit the network was least certain.
    """
    names = list_images(folder)
    first = parse_name(names[-1])[0] + 1 if names else 0
    files = {}
    for number, (digit, label) in enumerate(zip(digits, shares.argmax(axis=1), strict=True), first):
        content = io.BytesIO()
        Image.fromarray(digit.image).save(content, "png")
        files[folder / f"{number:05d}_{label}.png"] = content.getvalue()
    write_all(files)
    written = [path.name for path in files]
    doubtful = written[shares.max(axis=1).argmin()]
    return f"{folder}: {written[0]} to {written[-1]}, least certain {doubtful}"


def read_pictures(classifier: Classifier, flags: argparse.Namespace) -> None:
    """Read all pictures, print a line for each, draw them; exits with 2 if one can't be read."""
    shown: list[tuple[str, np.ndarray, list[Digit], np.ndarray]] = []
    failed = 0
    # Held to the end, so that another process does not take the same IDs.
    _lock = acquire_lock(flags.crops, timeout=-1) if flags.crops else None
    for path in flags.pictures:
        try:
            picture, digits, shares = read_picture(classifier, path)
        except UserError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        print(describe_picture(path, digits, shares, flags.json), flush=True)
        if flags.crops:
            written = write_crops(flags.crops, digits, shares)
            print(written, file=sys.stderr if flags.json else sys.stdout)
        if len(shown) < plots.MAX_PICTURES:
            shown.append((path.name, np.asarray(picture), digits, shares))
    if shown:
        path = PLOTS / "predictions.png"
        atomic_write(path, plots.plot_predictions(shown))
        count = len(flags.pictures) - failed
        if not flags.json:
            more = f" (the first {len(shown)} of {count})" if count > len(shown) else ""
            print(f"{path}{more}")
    if failed:
        sys.exit(2)


# --- Labelled images --------------------------------------------------------------------------


def load_images(source: Path) -> Split:
    """Return the labelled images of a folder, or of an archive without extracting it.

    Raises:
        UserError: if there is nothing to read, or a file is not as it should be.
    """
    if not source.is_file():
        folder = MNIST(source)
        return Split(folder.images, folder.labels)
    suffix = max((end for end in SUFFIXES if source.name.endswith(end)), key=len, default="")
    if not suffix:
        raise UserError(f"{source}: neither a folder nor an archive ({', '.join(SUFFIXES)})")
    members = sorted(
        (*parse_name(name), decode_member(source, name, content))
        for name, content in read_archive(source, source.name.removesuffix(suffix))
    )
    _, labels, images = zip(*members, strict=True)
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(labels))


def test_images(classifier: Classifier, source: Path, name: str) -> None:
    """Print loss and accuracy on labelled images, and draw the confusion matrix."""
    images, labels = load_images(source)
    logits = classify(classifier, images)
    predictions = logits.argmax(dim=1)
    hits = int((predictions == labels).sum())
    counts = confusion(predictions.unsqueeze(0).numpy(), labels.numpy())
    print(
        f"{name} on {source}: {len(labels):,} images, loss "
        f"{F.cross_entropy(logits, labels).item():.4f}, accuracy {100 * hits / len(labels):.2f} % "
        f"{format_interval(proportion_interval(hits, len(labels)), 2)}"
    )
    path = PLOTS / f"confusion_matrix_{name}.png"
    atomic_write(path, plot_confusion(TITLES[classifier.model_type], counts, 1))
    print(path)


# --- Page and ONNX ----------------------------------------------------------------------------


@functools.cache
def shipped_test_images() -> Split:
    """Return MNIST's 10,000 test images from this repository's archive."""
    return load_images(DATA / "test.tar.xz")


def write_page(path: Path, run: str | None) -> None:
    """Write a web page that holds all three networks; a run takes the place of its network."""
    classifiers = {name: load_classifier(WEIGHTS / f"{name}.pt") for name in page.LAYERS}
    if run is not None:
        own = load_classifier(run)
        classifiers[own.model_type] = own
    images, labels = shipped_test_images()
    predictions = {
        name: classify(one, images).argmax(dim=1).numpy() for name, one in classifiers.items()
    }
    chosen = page.pick_samples(labels.numpy(), predictions)
    networks = {
        name: (TITLES[name], one.deskewed, one.network.state_dict())
        for name, one in classifiers.items()
    }
    text = page.render_page(networks, images.numpy()[chosen], labels.numpy()[chosen])
    atomic_write(path, text.encode())
    print(path)


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> argparse.Namespace:
    """Return the flags; exactly one thing to do is among them."""
    parser = Parser(description=__doc__)
    parser.add_argument("pictures", nargs="*", type=Path, help="photographs or scans of digits")
    parser.add_argument("--model_type", help=f"whose shipped weights: {', '.join(MODELS)}")
    parser.add_argument("--run", help="a run of yours, or a file of weights, in place of these")
    parser.add_argument("--json", action="store_true", help="a JSON object per picture")
    parser.add_argument("--crops", type=Path, metavar="FOLDER", help="add the digits found to it")
    parser.add_argument(
        "--test", type=Path, metavar="FOLDER", help="folder or archive of labelled images"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the web page")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write an ONNX file")
    flags = parser.parse_args()
    given = [flags.pictures, flags.test, flags.page, flags.export]
    if sum(1 for one in given if one) != 1:
        parser.error("give pictures, or one of --test, --page, --export")
    if not flags.pictures and (flags.crops or flags.json):
        parser.error("--crops and --json are for pictures")
    if flags.model_type is not None and (flags.page or flags.run is not None):
        parser.error("--model_type is for pictures, --test and --export with shipped weights")
    flags.model_type = flags.model_type or "LeNet5"
    check_choice("model_type", flags.model_type, MODELS)
    return flags


def main() -> None:
    """Do what the flags say."""
    flags = parse_flags()
    if flags.page:
        write_page(flags.page, flags.run)
        return
    shipped = WEIGHTS / f"{flags.model_type}.pt"
    if flags.run is None and not shipped.is_file():
        raise UserError(f"{shipped}: no such weights are shipped; pass --run with a run of yours")
    source = find_weights(str(shipped) if flags.run is None else flags.run)
    classifier = load_classifier(source)
    if flags.test:
        name = source.resolve().parent.name if source.name == "checkpoint.pt" else source.stem
        test_images(classifier, flags.test, name)
    elif flags.export:
        export_onnx(classifier, source, flags.export, shipped_test_images().images[:1000])
    else:
        read_pictures(classifier, flags)


if __name__ == "__main__":
    run_command(main)
