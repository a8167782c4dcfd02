"""One digit's ink as an image like MNIST's, made as these were.

LeCun et al., 1998, section III.A: fitted with antialiasing into a 20x20 box, then placed so that
its centre of mass is at pixel 14 of the 28x28 image, counted from 0.
"""

from functools import cache

import numpy as np
from scipy import ndimage

from reading.ink import Box

SIDE, BOX = 28, 20  # pixels: of an image, and of the box that the digit is scaled to fit
THIN, THICK = 2.2, 4.0  # pixels of the 20x20 box: most of MNIST's strokes are between them


def draw(ink: np.ndarray, box: Box, mask: np.ndarray) -> np.ndarray:
    """Return the image uint8 [28, 28] of a piece of ink [H, W]: a mask bool [h, w] in a box."""
    step = 1 + max(mask.shape) // 160  # of a large one a smaller copy will do
    margin = step * (2 + mask.shape[0] // (20 * step))
    left, top, right, bottom = box
    ink = crop(ink, (left - margin, top - margin, right + margin, bottom + margin))
    mask = np.pad(mask, margin)
    if step > 1:
        rest = [(0, -size % step) for size in mask.shape]
        ink, mask = np.pad(ink, rest), np.pad(mask, rest)
        shape = (mask.shape[0] // step, step, mask.shape[1] // step, step)
        ink = ink.reshape(shape).mean(axis=(1, 3))
        mask = mask.reshape(shape).max(axis=(1, 3))
    return to_mnist(set_stroke(cut_out(ink, mask)).astype(float))


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """Return a box of an array [H, W], which may reach beyond it, where it is 0."""
    left, top, right, bottom = box
    height, width = array.shape
    inside = array[max(0, top) : bottom, max(0, left) : right]
    return np.pad(inside, ((max(0, -top), max(0, bottom - height)),
                           (max(0, -left), max(0, right - width))))  # fmt: skip


def cut_out(ink: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return one digit's ink as a mask, bool [h, w], enlarged to about 100 pixels if smaller.

    Args:
        ink: float [H, W], around the digit.
        mask: bool [H, W], the digit's pixels.
    """
    grown = ndimage.maximum_filter(mask, 1 + 2 * max(1, len(mask) // 60))
    alone = np.where(grown, ink, 0)
    factor = max(1.0, 100 / max(mask.shape))
    large = ndimage.zoom(alone, factor, order=1)
    return large > 0.5 * np.percentile(ink[mask], 75)


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


@cache
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
