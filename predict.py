"""Read handwritten digits with a trained network: in pictures, in a browser, in your own program.

    python predict.py photo.jpg sheet.jpg                  what the pictures show
    python predict.py sheet.jpg --crops my_digits/train    also keep every digit as a 28x28 image
    python predict.py --test my_digits/test                accuracy on labelled images
    python predict.py --page docs/index.html               a web page to draw on
    python predict.py --export lenet5.onnx                 a file for ONNX runtimes

The shipped weights in data/weights/ read them, or those of a run of yours: --run NAME.

A picture's line says how many digits were found and which of them is least certain:
sheet.jpg: 48 digits, 0123... (least certain: 8 at line 3, 65 %). Below 50 % a digit is shown as ?,
with its guess in --json. Warnings on stderr name what may be missing. A sheet of six digits or more
that lies on its side is turned first: boxes are in the turned picture. plots/predictions.png shows
every digit, unless --json is given.
"""

from utils.command import run_command  # isort: split

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dataset import MNIST, Split
from model import MODELS, TITLES
from reading import page, plots
from reading.classifier import Classifier, classify, load_classifier, name_digit, probabilities
from utils.archives import (
    decode_files,
    encode_png,
    find_archives,
    list_images,
    parse_name,
    read_archive,
    warn_of_paper,
)
from utils.classes import CLASSES
from utils.distributed import warn
from utils.files import PLOTS, UserError, acquire_lock, atomic_write, named, write_all
from utils.settings import Parser

# matplotlib, scipy and onnxruntime take longer to import than PyTorch: where they are needed.

DATA = Path(__file__).parent / "data"  # what this repository ships
WEIGHTS = DATA / "weights"
MAX_LISTED = 20  # misclassified images


# --- Pictures ---------------------------------------------------------------------------------


def read_picture(classifier: Classifier, path: Path) -> tuple[Image.Image, Any]:
    """Return a picture, upright, and its Reading.

    Raises:
        UserError: if it can't be opened, or shows no digits or too many.
    """
    from reading.photos import find_digits
    from reading.pictures import open_picture

    picture = open_picture(path)
    pages = picture.info["pages"]
    hints = [f"this is the first of {pages} pages; save the others as pictures"] * (pages > 1)
    try:
        reading = find_digits(picture, lambda images: probabilities(classifier, images))
    except ValueError as error:
        raise UserError("; ".join([f"{path}: {error}", *hints])) from error
    reading.warnings.extend(hints)
    if reading.turned:
        picture = picture.rotate(reading.turned, expand=True)
    return picture, reading


def describe_picture(path: Path, reading: Any) -> str:
    """Return the line for a picture: what was read, and which digit is least certain."""
    shares = reading.shares
    names = [name_digit(row) for row in shares]
    worst = shares.max(axis=1).argmin()
    percent = 100 * shares[worst].max()
    if len(names) == 1:
        return f"{path}: {names[0]} ({percent:.1f} %)"
    # Rounded down, as only certainty is 100 %, and only what is ? below 50 %.
    least = f"{names[worst]} at line {reading.digits[worst].line}, {int(percent)} %"
    return f"{path}: {len(names)} digits, {join_names(names)} (least certain: {least})"


def join_names(names: list[str]) -> str:
    """Return classes as one text: digits and letters as they are, words parted by spaces."""
    return ("" if max(map(len, names)) == 1 else " ").join(names)


def to_json(path: Path, reading: Any) -> str:
    """Return a picture's JSON object; its digits are the best guesses, the uncertain ones too."""
    shares = reading.shares
    content = {
        "picture": str(path),
        "digits": join_names([CLASSES[label] for label in shares.argmax(axis=1)]),
        "uncertain": [i for i, row in enumerate(shares) if name_digit(row) == "?"],
        "lines": [digit.line for digit in reading.digits],
        "turned": reading.turned,
        "boxes": [[int(edge) for edge in digit.box] for digit in reading.digits],
        "probabilities": shares.astype(float).round(6).tolist(),
        "warnings": reading.warnings,
    }
    return json.dumps(content)


def write_crops(folder: Path, reading: Any) -> str:
    """Write digits as {ID}_{Label}.png, labelled as they were read, with IDs the folder lacks.

    Returns:
        Which files these are, and of which digit the network was least certain.
    """
    names = list_images(folder)
    first = parse_name(names[-1])[0] + 1 if names else 0
    files = {}
    for number, digit in enumerate(reading.digits, first):
        files[folder / f"{number:05d}_{digit.shares.argmax()}.png"] = encode_png(digit.image)
    try:
        write_all(files)
    except BaseException:  # all of a picture's digits or none
        for path in files:
            path.unlink(missing_ok=True)
        raise
    written = [path.name for path in files]
    doubtful = written[reading.shares.max(axis=1).argmin()]
    return f"{folder}: {written[0]} to {written[-1]}, least certain {doubtful}"


def read_pictures(classifier: Classifier, flags: argparse.Namespace) -> None:
    """Read all pictures, print a line for each, draw them; exits with 2 if one can't be read."""
    previews: list[plots.Preview] = []
    read = 0
    # Held to the end, so that another process does not take the same IDs.
    _lock = acquire_lock(flags.crops, timeout=-1) if flags.crops else None
    for path in flags.pictures:
        try:
            picture, reading = read_picture(classifier, path)
        except UserError as error:
            print(error, file=sys.stderr)
            continue
        read += 1
        for warning in reading.warnings:
            warn(f"{path}: {warning}")
        describe = to_json if flags.json else describe_picture
        print(describe(path, reading), flush=True)
        if flags.crops:
            written = write_crops(flags.crops, reading)
            print(written, file=sys.stderr if flags.json else sys.stdout)
        if len(previews) < plots.MAX_PICTURES:
            previews.append(plots.make_preview(path.name, picture, reading.digits))
    if previews and not flags.json:
        plot = PLOTS / "predictions.png"
        atomic_write(plot, plots.plot_predictions(previews))
        note = f" (the first {len(previews)} of {read})" if read > len(previews) else ""
        print(f"{plot}{note}")
    if read < len(flags.pictures):
        sys.exit(2)


# --- Labelled images --------------------------------------------------------------------------


def load_images(source: Path) -> tuple[list[str], Split]:
    """Return names and images of a folder, or of an archive without extracting it.

    Raises:
        UserError: if there is nothing to read, or a file is not as it should be.
    """
    if not source.exists() and not find_archives(source):
        raise UserError(f"{source}: no such folder or archive of images {{ID}}_{{Label}}.png")
    if not source.is_file():
        folder = MNIST(source)
        return folder.names, Split(folder.images, folder.labels)
    _, files = read_archive(source)
    images, labels = decode_files(source, files)
    warn_of_paper(source, images)
    return list(files), Split(torch.from_numpy(images), torch.from_numpy(labels))


def evaluate_images(classifier: Classifier, source: Path) -> None:
    """Print loss, accuracy and misclassified images; draw these and the confusion matrix."""
    from comparison.analysis import confusion
    from comparison.stats import format_interval, proportion_interval

    source = named(source)
    names, (images, labels) = load_images(source)
    logits = classify(classifier, images)
    shares, predictions = logits.softmax(dim=1).numpy(), logits.argmax(dim=1).numpy()
    wrong = np.flatnonzero(predictions != labels.numpy())
    wrong = wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")]
    hits = len(labels) - len(wrong)
    print(
        f"{classifier.name} on {source}: {len(labels):,} images, loss "
        f"{F.cross_entropy(logits, labels).item():.4f}, accuracy {100 * hits / len(labels):.2f} % "
        f"{format_interval(proportion_interval(hits, len(labels)), 2)}"
    )
    for index in wrong[:MAX_LISTED]:
        guess = f"{CLASSES[predictions[index]]} ({100 * shares[index].max():.1f} %)"
        print(f"misclassified: {names[index]} as {guess}")
    if len(wrong) > MAX_LISTED:
        print(f"misclassified: {len(wrong) - MAX_LISTED:,} more, with lower probabilities")

    from comparison.plots import plot_confusion, plot_misclassified  # after the results: slow

    name = f"{classifier.name}_{re.sub(r'[/:]+', '-', source.as_posix())[-60:]}.png"
    title, counts = TITLES[classifier.model_type], confusion(predictions[None], labels.numpy())
    pictures = {PLOTS / f"confusion_matrix_{name}": plot_confusion(title, counts, 1)}
    if len(wrong):
        data = images.numpy() / 255, labels.numpy(), shares
        pictures[PLOTS / f"misclassified_{name}"] = plot_misclassified(title, *data)
    write_all(pictures)
    print(*pictures, sep="\n")


# --- Page and ONNX ----------------------------------------------------------------------------


def shipped_test_images() -> Split:
    """Return MNIST's 10,000 test images from this repository's archive."""
    return load_images(DATA / "test.tar.xz")[1]


def write_page(path: Path, run: str | None) -> None:
    """Write a web page that holds all three networks; a run takes the place of its network."""
    classifiers = {name: load_classifier(WEIGHTS / f"{name}.pt") for name in page.NETWORKS}
    origin = ""
    if run is not None:
        classifier = load_classifier(run)
        classifiers[classifier.model_type] = classifier
        origin = describe_origin(classifier)
    atomic_write(path, page.render_page(classifiers, *shipped_test_images(), origin).encode())
    print(path)


def describe_origin(classifier: Classifier) -> str:
    """Return which run this is, its number of images if it is known, its initial weights."""
    settings = classifier.settings
    parts = [f"{TITLES[classifier.model_type]} is run {classifier.name}"]
    if settings["images"]:
        parts.append(f"trained on {settings['images']:,} images")
    if settings.get("init", "random") != "random":
        parts.append(f"with the initial weights {settings['init']}")
    return ", ".join(parts) + "."


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> argparse.Namespace:
    """Return the flags; exactly one thing to do is among them."""
    parser = Parser(description=__doc__)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("pictures", nargs="*", type=Path, default=[], help="photographs or scans")
    task.add_argument("--test", type=Path, metavar="FOLDER", help="labelled images, or archive")
    task.add_argument("--page", type=Path, metavar="FILE", help="write the web page")
    task.add_argument("--export", type=Path, metavar="FILE", help="write an ONNX file")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--model_type", choices=MODELS, help="whose shipped weights")
    weights.add_argument("--run", help="a run of yours, or a file of weights, in place of these")
    parser.add_argument("--json", action="store_true", help="a JSON object per picture")
    parser.add_argument("--crops", type=Path, metavar="FOLDER", help="add the digits found to it")
    flags = parser.parse_args()
    if not flags.pictures and (flags.crops or flags.json):
        parser.error("--crops and --json are for pictures")
    if flags.page and flags.model_type:
        parser.error("--page holds all three networks; leave --model_type out")
    return flags


def main() -> None:
    """Do what the flags say."""
    flags = parse_flags()
    if flags.page:
        write_page(flags.page, flags.run)
        return
    classifier = load_classifier(flags.run or WEIGHTS / f"{flags.model_type or 'LeNet5'}.pt")
    if flags.test:
        evaluate_images(classifier, flags.test)
    elif flags.export:
        from reading.onnx import export_onnx

        export_onnx(classifier, flags.export)
    else:
        read_pictures(classifier, flags)


if __name__ == "__main__":
    run_command(main)
