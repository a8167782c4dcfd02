"""From a photograph of handwritten digits to 28x28 images like MNIST's."""

import numpy as np

SIDE, BOX = 28, 20  # pixels: of an image, and of the box that the digit is scaled to fit


# --- One digit, as MNIST was made -------------------------------------------------------------
# LeCun et al., 1998, section III.A: fitted with antialiasing into a 20x20 box, then placed so that
# its centre of mass is in the middle of the 28x28 image.


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
    """Return where a profile must start in 28 pixels for its centre of mass to be in the middle."""
    centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
    return int(np.clip(np.floor(SIDE / 2 - centre + 0.5), 0, SIDE - len(profile)))
