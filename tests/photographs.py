"""Photographs of handwritten digits, simulated from MNIST's images: python tests/photographs.py

Each digit is enlarged, thickened or thinned, rotated, and put somewhere on white, cream, grey,
ruled or squared paper, or on a blackboard, in black, blue, red, pencil or chalk; light falls off
over the picture, then come blur, noise and JPEG. Prints how many of them predict.py reads rightly;
with --publish it writes that into the README, and draws some in plots/results/predictions.png.
"""

import io
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from comparison.runs import cores
from comparison.stats import format_interval, proportion_interval
from predict import WEIGHTS, classify_digits, load_classifier, shipped_test_images
from reading.classifier import Classifier, classify
from reading.photos import Reading, find_digits
from reading.plots import plot_predictions
from utils.command import run_command
from utils.files import with_table, write_all
from utils.settings import Parser

README = Path(__file__).parent.parent / "README.md"

PAPERS = {"white": (250, 250, 248), "cream": (244, 236, 214), "grey": (190, 190, 192)}
INKS = {"black": (25, 25, 28), "blue": (30, 50, 150), "red": (170, 30, 35), "pencil": (95, 95, 98)}
BOARDS = ((38, 44, 42), (30, 62, 48))
CHALK = (225, 225, 218)
EXAMPLES = (4, 6, 3)  # digits in each photograph that --publish draws


def enlarge(image: np.ndarray, scale: float, angle: float, level: float) -> np.ndarray:
    """Return the ink of a digit uint8 [28, 28], float 0 to 1: enlarged, rotated, cut at a level.

    A level below 0.5 thickens the strokes, one above thins them.
    """
    size = round(28 * scale)
    large = Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC)
    large = large.resize((size, size), Image.Resampling.BICUBIC)
    smooth = ndimage.gaussian_filter(np.asarray(large, np.float32) / 255, scale / 4)
    ink = np.clip((smooth - level) * scale / 1.5 + 0.5, 0, 1)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def write_row(
    images: np.ndarray, generator: np.random.Generator, smallest: float = 4, largest: float = 20
) -> np.ndarray:
    """Return the ink of digits uint8 [N, 28, 28] side by side, enlarged by one hand's scale."""
    scale = math.exp(generator.uniform(math.log(smallest), math.log(largest)))
    level = generator.uniform(0.3, 0.6)
    inks = []
    for image in images:
        own = scale * (generator.uniform(0.9, 1.1) if len(images) > 1 else 1)
        inks.append(enlarge(image, own, generator.uniform(-9, 9), level))
    gaps = [round(scale * generator.uniform(3, 12)) for _ in inks]
    drops = [round(scale * generator.uniform(0, 3 if len(images) > 1 else 1)) for _ in inks]
    height = max(drop + len(ink) for drop, ink in zip(drops, inks, strict=True))
    row = np.zeros((height, sum(ink.shape[1] for ink in inks) + sum(gaps[:-1])), np.float32)
    left = 0
    for ink, gap, drop in zip(inks, gaps, drops, strict=True):
        row[drop : drop + len(ink), left : left + ink.shape[1]] = ink
        left += ink.shape[1] + gap
    return row


def draw_lines(paper: np.ndarray, spacing: float, squared: bool, generator) -> None:
    """Rule a paper float [H, W, 3] in place, a little askew."""
    height, width = paper.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    tilt, thick = math.tan(math.radians(generator.uniform(-2, 2))), max(1.0, spacing / 50)
    colour = np.array([[150, 180, 215], [175, 175, 180]][generator.integers(2)], np.float32)
    offsets = [y + tilt * x] + [x - tilt * y] * squared
    for offset in offsets:
        distance = np.abs((offset + generator.uniform(0, spacing)) % spacing - spacing / 2)
        strength = np.clip(thick / 2 - distance + 0.5, 0, 1)[..., None]
        paper += strength * (np.minimum(colour, paper) - paper)


def photograph(images: np.ndarray, generator: np.random.Generator, largest: float = 20) -> bytes:
    """Return a JPEG photograph of digits uint8 [N, 28, 28] in a row, enlarged at most so much."""
    ink = write_row(images, generator, largest=largest)
    room = generator.uniform(0.15, 1.2, 4) * min(ink.shape[0], 1.5 * ink.shape[1])
    top, bottom, left, right = np.maximum(room, 12).round().astype(int)
    alpha = np.pad(ink, ((top, bottom), (left, right)))[..., None]
    kind = generator.choice(["white", "cream", "grey", "ruled", "squared", "board"])
    if kind == "board":
        paper = np.broadcast_to(BOARDS[generator.integers(2)], (*alpha.shape[:2], 3))
        colour = np.array(CHALK)
        alpha = alpha * (0.75 + 0.25 * ndimage.gaussian_filter(generator.random(alpha.shape), 1))
    else:
        paper = np.full((*alpha.shape[:2], 3), PAPERS.get(kind, (248, 248, 246)), np.float32)
        colour = np.array(INKS[generator.choice(list(INKS))])
    if kind in ("ruled", "squared"):
        spacing = len(ink) * generator.uniform(0.4, 1.2)
        draw_lines(paper, spacing, kind == "squared", generator)
    picture = paper * (1 - alpha) + colour * alpha
    picture = picture * light(alpha.shape[:2], generator)[..., None]
    picture = ndimage.gaussian_filter(picture, (*[generator.uniform(0.3, 1.5)] * 2, 0))
    picture = picture + generator.normal(0, generator.uniform(1, 8), picture.shape)
    content = io.BytesIO()
    final = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    final.save(content, "jpeg", quality=int(generator.integers(60, 93)))
    return content.getvalue()


def light(shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Return light that falls off by up to half, float [H, W]: to one side, or to the corners."""
    y, x = (np.linspace(-1, 1, size) for size in shape)
    angle, loss = generator.uniform(0, 2 * math.pi), generator.uniform(0, 0.5)
    if generator.random() < 0.5:
        slope = math.sin(angle) * y[:, None] + math.cos(angle) * x
        return 1 - loss * (slope / (abs(math.sin(angle)) + abs(math.cos(angle))) + 1) / 2
    return 1 - loss * (y[:, None] ** 2 + x**2) / 2


# --- The measurement --------------------------------------------------------------------------


def find(content: bytes, classifier: Classifier) -> Reading:
    """Return what is found in a photograph."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    return find_digits(
        picture, lambda images: classify(classifier, torch.from_numpy(images)).softmax(1).numpy()
    )


def is_read(number: int, length: int) -> bool:
    """Return whether LeNet-5 reads the photograph of that number, of so many test images, rightly.

    The number seeds which images these are and everything about the photograph.
    """
    torch.set_num_threads(1)
    generator = np.random.default_rng([length, number])
    images, labels = shipped_test_images()
    chosen = generator.choice(len(labels), length, replace=False)
    content = photograph(images[chosen].numpy(), generator)
    classifier = load_classifier(WEIGHTS / "LeNet5.pt")
    try:
        digits = find(content, classifier).digits
    except ValueError:  # nothing found
        return False
    answers = classify_digits(classifier, digits).argmax(axis=1)
    return answers.tolist() == labels[chosen].tolist()


def count_read(count: int, length: int) -> int:
    """Return how many of so many photographs are read rightly."""
    with ProcessPoolExecutor(cores()) as pool:
        right = pool.map(is_read, range(count), [length] * count, chunksize=10)
        return sum(tqdm(right, f"{length} digits", total=count, leave=False, disable=None))


def draw_examples() -> bytes:
    """Return predictions.png of four photographs, as predict.py would draw it."""
    images, _ = shipped_test_images()
    classifier, shown = load_classifier(WEIGHTS / "LeNet5.pt"), []
    for number, length in enumerate(EXAMPLES):
        generator = np.random.default_rng([length, number, 3])
        chosen = generator.choice(len(images), length, replace=False)
        content = photograph(images[chosen].numpy(), generator)
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        digits = find(content, classifier).digits
        shares = classify_digits(classifier, digits)
        shown.append((f"photograph {number + 1}", np.asarray(picture), digits, shares))
    return plot_predictions(shown)


def main() -> None:
    """Take the photographs, read them, and report how many are read rightly."""
    parser = Parser(description=__doc__, prog="photographs.py")
    parser.add_argument("--singles", type=int, default=1000, help="photographs of one digit")
    parser.add_argument("--rows", type=int, default=300, help="photographs of four digits")
    parser.add_argument("--publish", action="store_true", help="write it into the README")
    flags = parser.parse_args()
    parts = []
    for count, length, what in (
        (flags.singles, 1, "photographs of one digit"),
        (flags.rows, 4, "rows of four digits, each wholly,"),
    ):
        right = count_read(count, length)
        interval = format_interval(proportion_interval(right, count), 1)
        parts.append(f"{100 * right / count:.1f} % {interval} of {count:,} {what}")
    text = (
        f"Of simulated photographs (`python tests/photographs.py`), made from test images, LeNet-5 "
        f"with the shipped weights reads {' and '.join(parts)} rightly."
    )
    if flags.publish:
        picture = README.parent / "plots/results/predictions.png"
        write_all({README: with_table(README, "photographs", text), picture: draw_examples()})
    print(text)


if __name__ == "__main__":
    run_command(main)
