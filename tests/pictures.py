"""How many pictures of handwritten digits predict.py reads: python tests/pictures.py --real FOLDER

Measures simulated photographs of test images and, of the pictures that people made of their own
digits, those that are in the folder, beside a plain baseline: Otsu's threshold, connected
components, the same network. A picture counts if all its digits are right, and no other.
tests/pictures.tsv says what the pictures show and where they are from; most state no licence, so
they are not here. Its column "unseen" says how those fared that were read before anyone had looked
at them, by the version of that day. Writes runs/pictures.json, which experiments/publish.py shows.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from utils.command import run_command  # isort: split

import numpy as np
import torch
from photographs import photograph
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from comparison.runs import cores
from predict import WEIGHTS, shipped_test_images
from reading.classifier import Classifier, load_classifier, probabilities
from reading.crops import to_mnist
from reading.ink import otsu
from reading.photos import find_digits
from reading.pictures import open_picture
from utils.checkpoint import RUNS
from utils.files import UserError, atomic_write
from utils.settings import Parser

LIST = Path(__file__).with_name("pictures.tsv")
SIMULATED = (("single digits", 1), ("rows of four digits", 4))
UNSEEN = "unseen: "  # what these rows count was read before anyone had looked at it
WORKING_SIDE = 1200  # pixels
SMALLEST = 0.3  # of the height of the tallest piece of ink: lower ones are dirt


@cache
def classifier() -> Classifier:
    """Return the shipped LeNet-5."""
    torch.set_num_threads(1)
    return load_classifier(WEIGHTS / "LeNet5.pt")


def predict(images: np.ndarray) -> str:
    """Return the predictions for images uint8 [N, 28, 28]."""
    return "".join(map(str, probabilities(classifier(), images).argmax(axis=1)))


def read(picture: Image.Image) -> str:
    """Return the digits that predict.py reads in a picture, "" for none."""
    try:
        reading = find_digits(picture, partial(probabilities, classifier()))
    except ValueError:
        return ""
    return "".join(map(str, reading.shares.argmax(axis=1)))


def read_plainly(picture: Image.Image) -> str:
    """Return what the baseline reads: Otsu's threshold and connected components, line by line."""
    step = -(-max(picture.size) // WORKING_SIDE)
    smooth = ndimage.gaussian_filter(np.asarray(picture.convert("L").reduce(step), float), 1)
    mask = smooth < otsu(smooth.ravel())
    mask = ~mask if mask.mean() > 0.5 else mask
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    pieces = list(enumerate(ndimage.find_objects(labels), start=1))
    tallest = max((rows.stop - rows.start for _, (rows, _) in pieces), default=0)
    least = max(8, SMALLEST * tallest)
    pieces = [piece for piece in pieces if piece[1][0].stop - piece[1][0].start >= least]
    images = [to_mnist((labels[box] == n).astype(float)) for n, box in _in_lines(pieces)]
    return predict(np.stack(images[:100])) if images else ""


def _in_lines(pieces: list) -> Iterator:
    """Yield pieces of ink line by line, from left to right."""
    lines: list[list] = []
    for piece in sorted(pieces, key=lambda piece: piece[1][1].start):
        rows = piece[1][0]
        for line in lines:
            last = line[-1][1][0]
            shared = min(last.stop, rows.stop) - max(last.start, rows.start)
            if shared > 0.5 * min(last.stop - last.start, rows.stop - rows.start):
                line.append(piece)
                break
        else:
            lines.append([piece])
    for line in sorted(lines, key=lambda line: line[0][1][0].start):
        yield from line


def measure_simulated(number: int, length: int) -> bool:
    """Return whether the simulated photograph of that number, of so many test images, is read.

    The number seeds which images these are and everything about the photograph.
    """
    generator = np.random.default_rng([length, number])
    images, labels = shipped_test_images()
    chosen = generator.choice(len(labels), length, replace=False)
    content = photograph(images[chosen].numpy(), generator)
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    return read(picture) == "".join(map(str, labels[chosen].tolist()))


def measure_real(row: dict[str, str], folder: Path) -> tuple[bool, bool]:
    """Return whether a row of pictures.tsv is read by predict.py, and by the baseline."""
    picture = open_picture(folder / row["picture"])
    return read(picture) == row["digits"], read_plainly(picture) == row["digits"]


def kinds(rows: list[dict[str, str]]) -> dict[str, list[int]]:
    """Return which rows are of each kind, of one digit, of several, all; then the unseen ones."""
    last = ("one digit", "several digits", "all")
    last += tuple(f"{UNSEEN}{name}" for name in last)
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        sizes = ["one digit" if len(row["digits"]) == 1 else "several digits", "all"]
        unseen = [f"{UNSEEN}{size}" for size in sizes] if row["unseen"] else []
        for name in (row["kind"], *sizes, *unseen):
            groups.setdefault(name, []).append(index)
    order = sorted(set(groups) - set(last)) + [name for name in last if name in groups]
    return {name: groups[name] for name in order}


def main() -> None:
    """Measure, print and write the results."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="of the pictures in pictures.tsv"
    )
    parser.add_argument("--singles", type=int, default=1000, help="simulated single digits")
    parser.add_argument("--rows", type=int, default=300, help="simulated rows of four")
    flags = parser.parse_args()
    results: dict[str, list] = {"real": [], "simulated": []}
    with ProcessPoolExecutor(cores()) as pool:
        if flags.real:
            with open(LIST, encoding="utf-8", newline="") as file:
                listed = list(csv.DictReader(file, delimiter="\t"))
            rows = [row for row in listed if (flags.real / row["picture"]).is_file()]
            if not rows:
                raise UserError(f"{flags.real}: none of the pictures of {LIST.name} is in it")
            print(f"{len(rows)} of {len(listed)} pictures are in {flags.real}", file=sys.stderr)
            tasks = pool.map(partial(measure_real, folder=flags.real), rows)
            correct = np.array(list(tqdm(tasks, total=len(rows), leave=False, disable=None)))
            for kind, group in kinds(rows).items():
                ours, baseline = correct[group].sum(axis=0).tolist()
                if kind.startswith(UNSEEN):
                    ours = sum(rows[index]["unseen"] == "read" for index in group)
                results["real"].append([kind, len(group), ours, baseline])
        for (name, length), count in zip(SIMULATED, (flags.singles, flags.rows), strict=True):
            tasks = pool.map(partial(measure_simulated, length=length), range(count), chunksize=10)
            hits = sum(tqdm(tasks, name, total=count, leave=False, disable=None))
            results["simulated"].append([name, count, hits])
    atomic_write(RUNS / "pictures.json", (json.dumps(results, indent=1) + "\n").encode())
    print(json.dumps(results))


if __name__ == "__main__":
    run_command(main)
