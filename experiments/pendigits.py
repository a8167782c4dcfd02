"""Digits of other people than MNIST's, as images like MNIST's: what is in data/pendigits/.

    python -m experiments.pendigits FOLDER     draws them from pendigits-orig.tra and .tes in FOLDER

44 people at a Turkish university wrote them on a tablet: 30 those of train.tar.xz, 14 others those
of test.tar.xz. E. Alpaydin and F. Alimoglu, Pen-Based Recognition of Handwritten Digits, UCI
Machine Learning Repository, 1996, https://doi.org/10.24432/C5MG6K, CC BY 4.0.
"""

from utils.command import run_command  # isort: split

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from reading.crops import BOX, THICK, THIN, to_mnist
from utils.archives import encode_png, write_archive
from utils.settings import Parser

FOLDER = Path("data/pendigits")
SOURCES = {"train": "pendigits-orig.tra", "test": "pendigits-orig.tes"}
HEIGHT, MARGIN = 160, 40  # pixels: of the digits that are drawn, and around them
Stroke = list[tuple[float, float]]


def read_strokes(text: str) -> Iterator[tuple[int, list[Stroke]]]:
    """Yield the label and the strokes, points (x, y) with y downward, of each digit of a file.

    It is in the UNIPEN format: of a digit "8" that has two strokes .SEGMENT DIGIT 6-7 ? "8", then
    for each .PEN_DOWN, lines of x and y, and .PEN_UP.
    """
    for digit in text.split(".SEGMENT DIGIT")[1:]:
        head, *strokes = digit.split(".PEN_DOWN")
        points = [re.findall(r"^ *(-?\d+) +(-?\d+)$", part, re.MULTILINE) for part in strokes]
        label = int(head.split('"')[1])
        yield label, [[(float(x), -float(y)) for x, y in stroke] for stroke in points]


def draw_strokes(strokes: list[Stroke], width: float) -> np.ndarray:
    """Return strokes as uint8 [28, 28], drawn with a round pen, its width in their pixels."""
    points = np.concatenate([np.array(stroke) for stroke in strokes])
    low = points.min(axis=0)
    scale = HEIGHT / max(1, np.ptp(points, axis=0).max())
    pixels = round(width * HEIGHT / BOX)  # the pen's width on the canvas, which is larger
    canvas = Image.new("L", (HEIGHT + 2 * MARGIN, HEIGHT + 2 * MARGIN))
    pen = ImageDraw.Draw(canvas)
    for stroke in strokes:
        line = [(float(x), float(y)) for x, y in (np.array(stroke) - low) * scale + MARGIN]
        pen.line(line, fill=255, width=pixels, joint="curve")
        for end in (line[0], line[-1]):
            pen.circle(end, pixels / 2, fill=255)
    return to_mnist(np.asarray(canvas) / 255)


def main() -> None:
    """Draw both files with pens of random widths, always the same, and pack them."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the two files")
    folder = parser.parse_args().folder
    for split, name in SOURCES.items():
        generator = np.random.default_rng(0)
        text = (folder / name).read_text(encoding="latin-1")
        images = [
            (encode_png(draw_strokes(strokes, generator.uniform(THIN, THICK))), label)
            for label, strokes in read_strokes(text)
        ]
        write_archive(FOLDER / f"{split}.tar.xz", split, images)
        print(f"{FOLDER / split}.tar.xz: {len(images):,} images")


if __name__ == "__main__":
    run_command(main)
