"""The plot of what was read in pictures. Lengths are in inches, unless something else is said."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reading.classifier import name_digit

MAX_PICTURES = 8  # are drawn
MAX_TILES = 12  # of a picture with more digits the picture alone is drawn, larger
DOUBTFUL = 0.9  # digits of a lower probability stand out
COLOUR, DOUBTFUL_COLOUR, OTHER_COLOUR = "#0072B2", "#D55E00", "#999999"
PREVIEW_SIDE = 1500  # pixels; larger pictures are drawn from a reduced copy
LARGE, SMALL = (10.0, 10.0), (6.0, 2.5)  # what a picture fits into: alone, beside tiles
TILE_WIDTH, TILE_HEIGHT, TILE_COLUMNS = 1.2, 1.7, 4
MARGIN, TITLE = 0.15, 0.5


class Preview(NamedTuple):
    """A picture that was read, as it is drawn.

    The picture may be a reduced copy of one of that size in pixels, in which the digits have their
    boxes.
    """

    name: str
    picture: Image.Image
    size: tuple[int, int]
    digits: Sequence[Any]


def make_preview(name: str, picture: Image.Image, digits: Sequence[Any]) -> Preview:
    """Return the preview of a picture, reduced if it is large, as previews are kept."""
    small = picture.reduce(-(-max(picture.size) // PREVIEW_SIDE))
    return Preview(name, small, picture.size, digits)


def plot_predictions(previews: Sequence[Preview]) -> bytes:
    """Draw pictures, one below the other, with every digit's prediction beside its box.

    Few digits are also shown as the network saw them, each over its probabilities.
    """
    from matplotlib.figure import Figure  # here, as it takes a while

    from utils.plots import to_png

    sizes = [_sizes(preview) for preview in previews]
    width = max(picture[0] + tiles[0] for picture, tiles in sizes) + 3 * MARGIN
    height = sum(max(picture[1], tiles[1]) + TITLE for picture, tiles in sizes) + MARGIN
    figure, top = Figure(figsize=(width, height)), 0.0
    axis = figure.add_axes((0, 0, 1, 1))  # in which all is drawn, in inches
    axis.axis("off")
    for preview, (picture, tiles) in zip(previews, sizes, strict=True):
        top += TITLE
        _draw_picture(axis, MARGIN, top, preview, picture)
        if any(tiles):
            _draw_tiles(axis, picture[0] + 2 * MARGIN, top, preview.digits)
        top += max(picture[1], tiles[1])
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return to_png(figure)


def _sizes(preview: Preview) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (width, height) of a picture and of its tiles; these are 0 for many digits."""
    (width, height), tiles, count = LARGE, (0.0, 0.0), len(preview.digits)
    if count <= MAX_TILES:
        rows = -(-count // TILE_COLUMNS)
        tiles = TILE_WIDTH * min(count, TILE_COLUMNS), TILE_HEIGHT * rows
        width, height = SMALL[0], max(SMALL[1], tiles[1])
    scale = min(width / preview.size[0], height / preview.size[1])
    return (scale * preview.size[0], scale * preview.size[1]), tiles


def _draw_picture(
    axis: Any, left: float, top: float, preview: Preview, shape: tuple[float, float]
) -> None:
    from matplotlib.patches import Rectangle

    from utils.plots import drawable

    width, height = shape
    axis.imshow(preview.picture, extent=(left, left + width, top + height, top))
    axis.text(left, top - 0.22, drawable(preview.name), size=11, parse_math=False)
    scale = width / preview.size[0]  # inches per pixel
    for digit in preview.digits:
        x, y, right, bottom = (scale * edge for edge in digit.box)
        text, colour = drawable(name_digit(digit.shares)), COLOUR
        if digit.shares.max() < DOUBTFUL:
            text, colour = f"{text} {int(100 * digit.shares.max())} %", DOUBTFUL_COLOUR
        corner = left + x, top + y
        axis.add_patch(Rectangle(corner, right - x, bottom - y, fill=False, ec=colour))
        size = np.clip(0.35 * 72 * (bottom - y), 6, 12)  # in points
        label = {"facecolor": colour, "lw": 0, "pad": 1}
        axis.text(*corner, text, size=size, color="white", va="bottom", bbox=label)


def _draw_tiles(axis: Any, left: float, top: float, digits: Sequence[Any]) -> None:
    """Draw digits 1 x 1 in rows, each under its prediction and over bars of its probabilities."""
    from utils.plots import NAMES, drawable

    bar = 1 / len(NAMES)
    for index, digit in enumerate(digits):
        shares = digit.shares
        row, column = divmod(index, TILE_COLUMNS)
        x, y = left + TILE_WIDTH * column + 0.1, top + TILE_HEIGHT * row + 0.2
        axis.imshow(digit.image, cmap="gray", vmin=0, vmax=255, extent=(x, x + 1, y + 1, y))
        caption = f"{drawable(name_digit(shares))} ({100 * shares.max():.1f} %)"
        axis.text(x + 0.5, y - 0.03, caption, size=9, ha="center", va="bottom")
        places = x + bar * (np.arange(len(NAMES)) + 0.5)
        colours = np.where(shares == shares.max(), COLOUR, OTHER_COLOUR)
        axis.bar(places, -0.25 * shares - 0.01, 0.8 * bar, bottom=y + 1.3, color=colours)
        for place, name in zip(places, NAMES, strict=True):
            axis.text(place, y + 1.31, name, size=min(6, 60 * bar), ha="center", va="top")
