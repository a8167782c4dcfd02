"""From a picture of handwritten digits to 28x28 images like MNIST's.

A picture goes through these steps: grey, background removed, ruled lines removed, ink separated
from paper, connected components put together to digits, each digit scaled and centred as MNIST's
were. Ink and masks are arrays [H, W], boxes (left, top, right, bottom) in pixels.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from utils.files import UserError

SIDE, BOX = 28, 20  # pixels: of an image, and of the box that the digit is scaled to fit
MAX_PIXELS = 50_000_000
MAX_DIGITS = 100
WORKING_SIDE = 1200  # pixels; larger pictures are looked at in this size
MIN_CONTRAST = 0.08  # of ink against paper; a hard pencil has more
NEAR = 0.08  # of the height of a digit: pieces of ink that are closer belong together
SPECK = 0.02  # of the area of the largest piece of ink: smaller ones are dirt
SMALLEST = 0.35  # of the height of the tallest digit: lower ones are dots, dashes and dirt
THIN, THICK = 2.2, 4.0  # pixels of the 20x20 box: most of MNIST's strokes are between them
FAINT = 4  # standard deviations of the noise below which nothing counts as ink

Box = tuple[int, int, int, int]


class Digit(NamedTuple):
    """A digit found in a picture: its box there, and its image uint8 [28, 28] for a network."""

    box: Box
    image: np.ndarray


# --- The picture ------------------------------------------------------------------------------


def open_picture(path: Path) -> Image.Image:
    """Return a picture as it is to be looked at: upright, RGB, without transparency.

    Raises:
        UserError: if there is no such file, it is no picture, damaged, or too large.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path) as image,
        ):  # of its own limit
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels are more than "
                    f"{MAX_PIXELS:,}; make it smaller"
                )
            image.load()
            return _flatten(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a picture, or damaged ({error})") from error


def _flatten(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB; transparent parts become paper for its ink."""
    if image.mode[0] in "IF":  # more than 8 bits: from the darkest to the brightest
        values = np.asarray(image, np.float64)
        span = max(np.ptp(values), 1e-9)
        image = Image.fromarray((255 * (values - values.min()) / span).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    small = np.asarray(image.resize((64, 64)).convert("LA"), np.float64)
    grey, opaque = small[..., 0], small[..., 1]
    bright_ink = (grey * opaque).sum() > 127 * opaque.sum() and opaque.min() < 128
    paper = Image.new("RGBA", image.size, "black" if bright_ink else "white")
    return Image.alpha_composite(paper, image).convert("RGB")


def is_mnist(picture: Image.Image) -> bool:
    """Return whether a picture is in MNIST's form already: 28x28, bright ink, a black border."""
    if picture.size != (SIDE, SIDE):
        return False
    grey = np.asarray(picture.convert("L"))
    border = np.concatenate([grey[:2].ravel(), grey[-2:].ravel(), grey[:, :2].ravel()])
    return bool(np.median(border) < 32 and grey.max() > 127)


# --- Ink --------------------------------------------------------------------------------------


def border_surface(grey: np.ndarray) -> np.ndarray:
    """Fit a quadratic surface to the border of a picture: the light on its paper, float [H, W].

    Least squares, repeated without the pixels far off the surface, as ink may touch the border.
    """
    y, x = (np.linspace(-1, 1, size) for size in grey.shape)
    y, x = np.meshgrid(y, x, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    border = np.ones(grey.shape, bool)
    width = max(1, round(0.06 * min(grey.shape)))
    border[width:-width, width:-width] = False
    points, values = terms[border], grey[border]
    kept = np.ones(len(values), bool)
    for _ in range(4):
        weights = np.linalg.lstsq(points[kept], values[kept], rcond=None)[0]
        errors = np.abs(points @ weights - values)
        kept = errors <= max(2.5 * 1.4826 * np.median(errors), 1.0)
    return terms @ weights


def find_ink(grey: np.ndarray, size: float) -> np.ndarray:
    """Return how much darker, or on a board brighter, than its surroundings a picture is.

    Args:
        grey: float [H, W], 0 to 255.
        size: pixels; strokes must be narrower, shadows wider.

    Returns:
        float [H, W]: 0 for paper, 1 for the blackest ink.
    """
    smooth = ndimage.gaussian_filter(grey, 1)
    # Against the light at the border the ink stands out on one side: a skewed distribution.
    if ((smooth - border_surface(smooth)) ** 3).sum() > 0:
        paper = find_paper(255 - smooth, size)
        return np.clip((paper - 255 + grey) / 255, 0, 1)
    paper = find_paper(smooth, size)
    return np.clip((paper - grey) / np.maximum(paper, 1), 0, 1)


def find_paper(grey: np.ndarray, size: float) -> np.ndarray:
    """Return the paper under dark ink, with its shadows: a morphological closing, smoothed."""
    step = max(1, int(size / 12))  # a small picture will do, for so smooth a thing
    small = np.asarray(Image.fromarray(grey.astype(np.float32)).reduce(step), np.float64)
    window = max(3, round(size / step))
    padded = np.pad(small, window, mode="symmetric")
    closed = ndimage.grey_closing(padded, (window, window))[window:-window, window:-window]
    closed = Image.fromarray(ndimage.gaussian_filter(closed, 1.5).astype(np.float32))
    return np.asarray(closed.resize(grey.shape[::-1], Image.Resampling.BILINEAR), np.float64)


def otsu(values: np.ndarray) -> float:
    """Return the threshold that separates values into two classes best (Otsu, 1979)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = between == np.nanmax(between)  # several in a row, where there is a gap
    return float(edges[1:][best].mean())


def remove_lines(ink: np.ndarray) -> np.ndarray:
    """Return ink [H, W] without the lines of ruled or squared paper, askew by up to 4 degrees.

    A line reaches from one side to the other: of 32 strips that part the picture, the outermost
    and seven eighths of all show it in the same row.
    """
    for _ in range(2):  # the rows, then the columns
        ink = _remove_rows(ink).T
    return ink


def _remove_rows(ink: np.ndarray) -> np.ndarray:
    height, width = ink.shape
    strips = [part.mean(axis=1) for part in np.array_split(ink, min(32, width), axis=1)]
    centres = (np.arange(len(strips)) + 0.5) * width / len(strips)
    best = np.zeros(height)
    for slope in np.tan(np.radians(np.arange(-4, 4.01, 0.25))):
        shifts = np.round(slope * centres).astype(int)
        rows = [np.roll(strip, -shift) for strip, shift in zip(strips, shifts, strict=True)]
        # The ends too, which the strokes of a digit do not reach.
        profile = np.minimum(np.sort(rows, axis=0)[len(rows) // 8], np.minimum(rows[0], rows[-1]))
        if (profile**2).sum() > (best**2).sum():
            best, best_slope = profile, slope
    if not best.any():
        return ink
    y, x = np.mgrid[:height, :width]
    best = ndimage.maximum_filter1d(best, 3)  # between two rows a line seems fainter than it is
    return np.clip(ink - best[(y - np.round(best_slope * x).astype(int)) % height], 0, 1)


# --- Digits -----------------------------------------------------------------------------------


def find_boxes(mask: np.ndarray) -> tuple[np.ndarray, list[tuple[list[int], Box]]]:
    """Return the pieces of ink of a mask, and which of them make up each digit.

    Returns:
        Labels int [H, W], 0 for paper, and for each digit, in reading order, the labels of its
        pieces and its box.
    """
    height = max((bottom - top for _, top, _, bottom in _boxes(_label(mask)).values()), default=0)
    grown = ndimage.distance_transform_edt(~mask) <= NEAR / 2 * height
    labels = np.where(mask, _label(grown), 0)
    areas, boxes = np.bincount(labels.ravel()), _boxes(labels)
    largest = areas[1:].max(initial=0)
    kept = [n for n in boxes if areas[n] >= SPECK * largest and not _is_edge(boxes[n], mask.shape)]
    digits: list[tuple[list[int], Box]] = []
    for piece in sorted(kept, key=lambda n: -areas[n]):
        group, hull = [piece], boxes[piece]
        for other in [other for other in digits if _same_digit(hull, other[1])]:
            digits.remove(other)
            group, hull = group + other[0], _hull(hull, other[1])
        digits.append((group, hull))
    tallest = max((bottom - top for _, (_, top, _, bottom) in digits), default=0)
    digits = [one for one in digits if one[1][3] - one[1][1] >= SMALLEST * tallest]
    return labels, [digits[i] for i in _reading_order([box for _, box in digits])]


def _label(mask: np.ndarray) -> np.ndarray:
    return ndimage.label(mask, np.ones((3, 3)))[0]


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    parts = enumerate(ndimage.find_objects(labels), start=1)
    return {n: (x.start, y.start, x.stop, y.stop) for n, (y, x) in parts}


def _hull(one: Box, other: Box) -> Box:
    left, top, right, bottom = zip(one, other, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _is_edge(box: Box, shape: tuple[int, ...]) -> bool:
    """Return whether a piece of ink at the border is no digit: a sliver, or from side to side."""
    left, top, right, bottom = box
    height, width = shape
    at_border = left == 0 or top == 0 or right == width or bottom == height
    short, long = sorted((right - left, bottom - top))
    return at_border and (short < 0.1 * long or right - left == width or bottom - top == height)


def _same_digit(one: Box, other: Box) -> bool:
    """Return whether two pieces of ink belong to one digit: one above the other, and close."""
    height = max(one[3] - one[1], other[3] - other[1])
    across = min(one[2], other[2]) - max(one[0], other[0])  # the overlap
    down = max(one[1], other[1]) - min(one[3], other[3])  # the gap; negative where they overlap
    if min(one[3] - one[1], other[3] - other[1]) < 0.6 * height:  # a bar, as of a 5
        return across > 0 and down < 0.25 * height
    return across > 0.5 * min(one[2] - one[0], other[2] - other[0]) and down < 0.25 * height


def _reading_order(boxes: list[Box]) -> list[int]:
    """Return the indices of boxes, line by line, from left to right."""

    def shared(one: Box, other: Box) -> float:
        overlap = min(one[3], other[3]) - max(one[1], other[1])
        return overlap / min(one[3] - one[1], other[3] - other[1])

    # Each box goes on the line whose last box is beside it, so that lines may be askew.
    lines: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda i: boxes[i][0]):
        line = max(lines, key=lambda own: shared(boxes[own[-1]], boxes[index]), default=None)
        if line and shared(boxes[line[-1]], boxes[index]) > 0.5:
            line.append(index)
        else:
            lines.append([index])
    return [index for line in sorted(lines, key=lambda own: boxes[own[0]][1]) for index in line]


def cut_out(ink: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return one digit's ink as a mask, bool [h, w], enlarged to about 100 pixels if smaller.

    Args:
        ink: float [H, W], around the digit.
        own: bool [H, W], the digit's pixels.
    """
    grown = ndimage.binary_dilation(own, np.ones((3, 3)), iterations=max(1, len(own) // 60))
    alone = np.where(grown, ink, 0)
    factor = max(1.0, 100 / max(own.shape))
    large = ndimage.zoom(alone, factor, order=1)
    return large > 0.5 * np.percentile(ink[own], 75)


def set_stroke(mask: np.ndarray) -> np.ndarray:
    """Return a mask [H, W] with strokes as wide, for its size, as MNIST's mostly are."""
    inside = ndimage.distance_transform_edt(mask)
    scale = max(np.ptp(np.flatnonzero(mask.any(axis=axis))) + 1 for axis in (0, 1)) / BOX
    width = 4 * inside[mask].mean() / scale  # the mean distance to the edge is a fourth of it
    if width < THIN:
        radius = (THIN - width) / 2 * scale
        padded = np.pad(mask, int(radius) + 1)
        return ndimage.distance_transform_edt(~padded) <= radius
    if width > THICK:
        thinner = inside > (width - THICK) / 2 * scale
        return thinner if thinner.any() else mask
    return mask


def _separate(
    grey: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray, list[tuple[list[int], Box]]]:
    """Return a picture's ink, and what find_boxes() makes of it."""
    ink = remove_lines(ndimage.gaussian_filter(find_ink(grey, size), 1))
    noise = 1.4826 * np.median(np.abs(ink - np.median(ink)))
    floor = max(MIN_CONTRAST, FAINT * noise)
    if ink.max() < floor:
        return ink, np.zeros(ink.shape, int), []
    return ink, *find_boxes(ink > max(floor, 0.8 * otsu(ink[ink > floor / 2])))


def find_digits(picture: Image.Image) -> list[Digit]:
    """Return the digits of a picture RGB in reading order; there may be up to 100.

    Raises:
        ValueError: if there are none or more; its text says so.
    """
    if is_mnist(picture):
        return [Digit((0, 0, SIDE, SIDE), np.asarray(picture.convert("L")))]
    step = -(-max(picture.size) // WORKING_SIDE)
    grey = np.asarray(picture.convert("L").reduce(step), np.float64)
    ink, labels, groups = _separate(grey, max(grey.shape) / 3)
    # Again, now that the size of the digits is known, so that smaller shadows do not count as ink.
    height = float(np.median([bottom - top for _, (_, top, _, bottom) in groups] or [0]))
    if groups:
        ink, labels, groups = _separate(grey, 1.2 * height)
    if not 0 < len(groups) <= MAX_DIGITS:
        raise ValueError(f"more than {MAX_DIGITS} digits" if groups else "no ink found")
    digits = []
    for pieces, (left, top, right, bottom) in groups:
        margin = 2 + (bottom - top) // 20
        part = np.s_[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
        own = np.isin(labels[part], pieces)
        image = to_mnist(set_stroke(cut_out(ink[part], own)).astype(float))
        right, bottom = min(right * step, picture.width), min(bottom * step, picture.height)
        digits.append(Digit((left * step, top * step, right, bottom), image))
    return digits


# --- One digit, as MNIST was made -------------------------------------------------------------
# LeCun et al., 1998, section III.A: fitted with antialiasing into a 20x20 box, then placed so that
# its centre of mass is at pixel 14 of the 28x28 image, counted from 0.


def area_weights(size: int, new_size: int) -> np.ndarray:
    """Return float [new_size, size]: what share of each new pixel each old pixel covers."""
    edges = np.linspace(0, size, new_size + 1)
    covered = np.clip(edges[:, None] - np.arange(size), 0, 1)
    return np.diff(covered, axis=0) * (new_size / size)


def to_mnist(ink: np.ndarray) -> np.ndarray:
    """Return a digit as uint8 [28, 28], ink white (255) on black (0).

    Args:
        ink: float [H, W], from 0 (paper) to 1 (ink), not all 0, of any size.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, int(BOX * size / max(ink.shape) + 0.5)) for size in ink.shape)
    small = area_weights(ink.shape[0], height) @ ink @ area_weights(ink.shape[1], width).T
    top, left = (_place(small.sum(axis=axis)) for axis in (1, 0))
    image = np.zeros((SIDE, SIDE))
    image[top : top + height, left : left + width] = small
    return np.round(255 * image).astype(np.uint8)


def _place(profile: np.ndarray) -> int:
    """Return where a profile must start in 28 pixels for its centre of mass to be at pixel 14.

    There it is in MNIST's images, counted from 0, half a pixel beyond the middle.
    """
    centre = (profile * np.arange(len(profile))).sum() / profile.sum()
    return int(np.clip(np.floor(SIDE / 2 - centre + 0.5), 0, SIDE - len(profile)))
