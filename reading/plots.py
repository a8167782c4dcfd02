"""The plot of what was read in pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from utils.plots import subplots, to_png

MAX_PICTURES, MAX_TILES = 8, 24  # of them are drawn, and so many digits of each
TILE_COLUMNS = 6


def _tile(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return a picture uint8 [160, 120, 3] of a digit [28, 28] over bars of its probabilities."""
    tile = np.full((160, 120, 3), 255, np.uint8)
    tile[:112, 4:116] = np.kron(image, np.ones((4, 4), np.uint8))[..., None]
    for digit, share in enumerate(shares):
        height, left = max(1, round(30 * share)), 5 + 11 * digit
        colour = (0, 114, 178) if digit == shares.argmax() else (150, 150, 150)
        tile[148 - height : 148, left : left + 9] = colour
    return tile


def plot_predictions(
    pictures: Sequence[tuple[str, np.ndarray, Sequence[Any], np.ndarray]],
) -> bytes:
    """Draw pictures with boxes around their digits, what the network saw, and its answers.

    Args:
        pictures: of each the name, the picture uint8 [H, W, 3], the digits (box and image uint8
            [28, 28]) and their probabilities float [N, 10].
    """
    rows = [-(-min(len(digits), MAX_TILES) // TILE_COLUMNS) for _, _, digits, _ in pictures]
    figure, axes = subplots(
        len(pictures), 2, figsize=(11, 0.3 + 1.9 * sum(rows)),
        squeeze=False,
        height_ratios=rows, width_ratios=[4, TILE_COLUMNS],
    )  # fmt: skip
    for (left, right), (name, picture, digits, shares) in zip(axes, pictures, strict=True):
        left.imshow(picture)
        for digit in digits:
            x, y, x_end, y_end = digit.box
            left.add_patch(
                Rectangle((x, y), x_end - x, y_end - y, fill=False, ec="#D55E00", lw=1.5)
            )
        left.set_title(name, fontsize=10)
        count = min(len(digits), MAX_TILES)
        mosaic = np.full((185 * -(-count // TILE_COLUMNS), 130 * TILE_COLUMNS, 3), 255, np.uint8)
        for index in range(count):
            row, column = divmod(index, TILE_COLUMNS)
            y, x = 185 * row + 20, 130 * column
            mosaic[y : y + 160, x : x + 120] = _tile(digits[index].image, shares[index])
            guess = shares[index].argmax()
            text = f"{guess} ({100 * shares[index, guess]:.1f} %)"
            right.text(x + 60, y - 3, text, ha="center", va="bottom", fontsize=9)
            for digit in range(10):
                right.text(x + 9.5 + 11 * digit, y + 149, digit, ha="center", va="top", fontsize=6)
        right.imshow(mosaic)
        if count < len(digits):
            right.set_title(f"the first {count} of {len(digits)} digits", fontsize=10)
        left.axis("off")
        right.axis("off")
    return to_png(figure)
