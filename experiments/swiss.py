"""Digits of people in Switzerland, as images like MNIST's, in data/swiss/, which is not shipped.

    git clone https://github.com/kensanata/numbers
    python -m experiments.swiss numbers        cuts its scanned digits out

21 people, 20 of them in Switzerland, wrote up to 60 of each digit: 14 the 8,048 of train.tar.xz, 7
others the 4,173 of test.tar.xz. Alex Schroeder and others, Numbers, 2017, CC0 1.0; as it was then
it is also in https://github.com/BSI-Business-Systems-Integration-AG/anagnostes, folder numbers.
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
SIDE = 200  # pixels to which a scan is enlarged; digits are about half as tall


def cut_out(path: Path) -> np.ndarray:
    """Return the digit of a scan as uint8 [28, 28].

    It is the largest piece of ink, and what else is large and not cut off by the edge, as the
    neighbours on the sheet are.
    """
    picture = to_grey(open_picture(path))
    scale = SIDE / max(picture.size)
    grey = look(picture, (0, 0, *picture.size), scale)
    ink = find_ink(grey, 0.4 * SIDE, dark=True, scale=scale)
    labels, boxes = label(find_mask(ink))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    largest = int(areas.argmax())
    inner = {
        n
        for n, (left, top, right, bottom) in boxes.items()
        if left > 0 and top > 0 and right < ink.shape[1] and bottom < ink.shape[0]
    }
    chosen = [n for n in boxes if n == largest or (n in inner and areas[n] > 0.1 * areas[largest])]
    box = enclose(boxes[n] for n in chosen)
    return draw(ink, box, np.isin(labels[slices(box)], chosen))


def main() -> None:
    """Cut out the digits of both groups of people, and pack them."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the clone")
    folder = parser.parse_args().folder
    for split, writers in WRITERS.items():
        paths = [path for n in writers for path in sorted(folder.glob(f"{n:04d}_*/[0-9]/*.png"))]
        if not paths:
            raise UserError(f"{folder}: no scans such as 0001_CH4M/7/number-3.png in it")
        images = ((encode_png(cut_out(path)), int(path.parent.name)) for path in paths)
        write_archive(FOLDER / f"{split}.tar.xz", split, images)
        print(f"{FOLDER / split}.tar.xz: {len(paths):,} images")


if __name__ == "__main__":
    run_command(main)
