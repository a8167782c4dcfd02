"""Digits of people in Switzerland, as images like MNIST's, in data/swiss/, which is not shipped.

    git clone https://github.com/kensanata/numbers ../numbers
    python -m experiments.swiss ../numbers     cuts its scanned digits out

Its first 21 people, 20 of them in Switzerland, wrote up to 60 of each digit. train.tar.xz has the
8,048 digits of 14 of them, test.tar.xz the 4,173 of the other 7. Alex Schroeder and others,
Numbers, 2017, CC0 1.0. The shipped weights were made from the copy in the folder numbers of
https://github.com/BSI-Business-Systems-Integration-AG/anagnostes.
"""

from utils.command import run_command  # isort: split

from pathlib import Path

import numpy as np

from reading.crops import draw
from reading.groups import enclose
from reading.ink import find_ink, find_mask, label, look, slices, to_grey
from reading.pictures import open_picture
from utils.archives import encode_png, write_archive
from utils.files import UserError
from utils.settings import Parser

FOLDER = Path("data/swiss")
WRITERS = {"train": range(1, 15), "test": range(15, 22)}
SIDE = 200  # pixels: the longer side of an enlarged scan; most digits are 80 to 160 tall
LARGE = 0.1  # of the area of the largest piece: smaller ones are dirt


def cut_out(path: Path) -> np.ndarray:
    """Return the digit of a scan as uint8 [28, 28].

    That is the largest piece of ink, and others that are large and do not touch the edge: those at
    the edge are neighbours on the sheet.
    """
    picture = to_grey(open_picture(path))
    scale = SIDE / max(picture.size)
    grey = look(picture, (0, 0, *picture.size), scale)
    ink = find_ink(grey, 0.4 * SIDE, dark=True, scale=scale)
    labels, boxes = label(find_mask(ink))
    if not boxes:
        raise UserError(f"{path}: no ink in it; remove it")
    areas = np.bincount(labels.ravel())
    largest = max(boxes, key=lambda n: areas[n])
    at_edge = {*labels[0], *labels[-1], *labels[:, 0], *labels[:, -1]}
    large = {n for n in boxes if areas[n] > LARGE * areas[largest]}
    chosen = [largest, *(large - at_edge - {largest})]
    box = enclose(boxes[n] for n in chosen)
    return draw(ink, box, np.isin(labels[slices(box)], chosen))


def main() -> None:
    """Cut out the digits of both groups of people, and pack them."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the clone")
    folder = parser.parse_args().folder
    scans: dict[str, list[Path]] = {split: [] for split in WRITERS}
    for split, writers in WRITERS.items():  # all of them before anything is written
        for writer in writers:
            pattern = f"{writer:04d}_*/[0-9]/*.png"
            paths = sorted(folder.glob(pattern))
            if not paths:
                raise UserError(f"{folder}: no scans {pattern} in it")
            scans[split] += paths
    for split, paths in scans.items():
        images = ((encode_png(cut_out(path)), int(path.parent.name)) for path in paths)
        write_archive(FOLDER / f"{split}.tar.xz", split, images)
        print(f"{FOLDER / split}.tar.xz: {len(paths):,} images")


if __name__ == "__main__":
    run_command(main)
