"""Pieces of ink and where they are: their boxes, masks and lines.

Boxes are (left, top, right, bottom) in pixels, masks bool [H, W].
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from reading.ink import Box, ink_median, slices

SMALLEST = 0.4  # of the digits' median height: what is lower is no digit
SMALLEST_ZERO = 0.25  # many write zeros smaller than other digits
BESIDE = 0.35  # of the lower of two boxes' height: so much is beside the other on one line
LARGEST = 2.5  # of the digits' median height: what is taller is no digit


@dataclass(eq=False)
class Group:
    """Ink that may be a digit, in a picture [H, W] of a shape.

    Contact is how many of its pixels are on the border; unparted is the network's confidence in the
    group that it was a part of, or else its own.
    """

    shape: tuple[int, ...]
    box: Box
    mask: np.ndarray  # bool [h, w]
    image: np.ndarray  # uint8 [28, 28]
    shares: np.ndarray  # the network's probabilities, float [classes]

    def __post_init__(self) -> None:
        self.height, self.width = self.mask.shape
        self.area = int(self.mask.sum())
        self.confidence = self.unparted = float(self.shares.max())
        left, top, right, bottom = self.box
        sides = [(left == 0, self.mask[:, 0]), (top == 0, self.mask[0]),
                 (right == self.shape[1], self.mask[:, -1]),
                 (bottom == self.shape[0], self.mask[-1])]  # fmt: skip
        self.contact = sum(int(side.sum()) for at_border, side in sides if at_border)

    @property
    def is_line(self) -> bool:
        """Whether it is ten times as long as wide: a digit is not."""
        return min(self.mask.shape) < 0.1 * max(self.mask.shape)

    @cached_property
    def is_ring(self) -> bool:
        """Whether it is closed around paper, as a zero is."""
        return bool(ndimage.binary_fill_holes(self.mask).sum() > 1.15 * self.area)

    @cached_property
    def depths(self) -> np.ndarray:
        """How far its pixels are from its edge, not counting the picture's border, float [N]."""
        left, top, right, bottom = self.box
        rows = int(top > 0), int(bottom < self.shape[0])
        columns = int(left > 0), int(right < self.shape[1])
        depths = ndimage.distance_transform_edt(np.pad(self.mask, (rows, columns)))
        return depths[depths > 0]

    @property
    def thickness(self) -> float:
        """Twice the largest distance from its edge."""
        return 2 * float(self.depths.max())

    @property
    def stroke(self) -> float:
        """How wide its strokes are: a fourth of that is their mean distance from the edge."""
        return 4 * float(self.depths.mean())

    @cached_property
    def is_surface(self) -> bool:
        """Whether it fills its box, its sides and corners, as a canvas does; a 1 is slim."""
        y, x = self.height // 16, self.width // 16
        inner = self.mask[y : self.height - y, x : self.width - x]
        corners = bool(inner[[0, 0, -1, -1], [0, -1, 0, -1]].all())
        full = self.area > 0.65 * self.mask.size and self.width > 0.5 * self.height
        sides = inner[0], inner[-1], inner[:, 0], inner[:, -1]
        return full and corners and min(side.mean() for side in sides) > 0.6

    def is_low(self, height: float) -> bool:
        """Return whether it is too low for a digit where digits have a height."""
        if self.height >= SMALLEST * height:
            return False
        return self.height < SMALLEST_ZERO * height or not self.is_ring

    def worth(self, height: float) -> float:
        """Return the network's confidence in it where digits have a height.

        It is 0 if it is too low, too wide, or a surface.
        """
        if self.is_low(height) or self.width > 2 * self.height or self.is_surface:
            return 0.0
        return self.confidence


class Digit(NamedTuple):
    """A digit found in a picture: its box there, and its line from 1.

    As well as its image uint8 [28, 28], and the network's probabilities for it, float [classes].
    """

    box: Box
    image: np.ndarray
    shares: np.ndarray
    line: int = 1


class Reading(NamedTuple):
    """The digits of a picture in reading order, and what may be wrong with them, and where.

    All this is in the picture turned by so many degrees to the left.
    """

    digits: list[Digit]
    warnings: list[str]
    turned: int = 0

    @property
    def shares(self) -> np.ndarray:
        """Return the digits' probabilities, float [N, classes]."""
        return np.stack([digit.shares for digit in self.digits])


class View(NamedTuple):
    """A region of a picture of a size (width, height), seen at a scale."""

    size: tuple[int, int]
    region: Box
    scale: float

    def place(self, box: Box, margin: float = 0) -> Box:
        """Return a box of the view, grown by a margin, as a box of the picture."""
        left, top = (self.region[i] + (box[i] - margin) / self.scale for i in (0, 1))
        right, bottom = (self.region[i - 2] + (box[i] + margin) / self.scale for i in (2, 3))
        right, bottom = min(self.size[0], round(right)), min(self.size[1], round(bottom))
        return max(0, round(left)), max(0, round(top)), right, bottom

    def find(self, box: Box) -> Box:
        """Return a box of the picture as a box of the view."""
        left, top = self.region[:2]
        shifted = box[0] - left, box[1] - top, box[2] - left, box[3] - top
        x, y, right, bottom = (round(self.scale * edge) for edge in shifted)
        return x, y, right, bottom


def enclose(boxes: Iterable[Box]) -> Box:
    """Return the smallest box around boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def contains(box: Box, other: Box) -> bool:
    """Return whether the other box is within a box."""
    return enclose([box, other]) == box


def grow(box: Box, margin: int) -> Box:
    """Return a box with a margin around it."""
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def draw_mask(groups: Iterable[Group], box: Box) -> np.ndarray:
    """Return the ink of groups in a box around them, bool [h, w]."""
    left, top, right, bottom = box
    mask = np.zeros((bottom - top, right - left), bool)
    for group in groups:
        x, y, x_end, y_end = group.box
        mask[y - top : y_end - top, x - left : x_end - left] |= group.mask
    return mask


def unite(groups: Iterable[Group]) -> tuple[Box, np.ndarray]:
    """Return the box around groups, and their ink in it, bool [h, w]."""
    box = enclose(group.box for group in groups)
    return box, draw_mask(groups, box)


def trim(box: Box, mask: np.ndarray) -> tuple[Box, np.ndarray]:
    """Return a box and its mask bool [h, w] without empty rows and columns at its sides."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inner = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    left, top = box[:2]
    return (left + inner[0], top + inner[1], left + inner[2], top + inner[3]), mask[slices(inner)]


def gap(first: Box, second: Box, axis: int) -> float:
    """Return how far two boxes are apart, across (0) or down (1); negative if they overlap."""
    return max(first[axis], second[axis]) - min(first[axis + 2], second[axis + 2])


def distance(first: Box, second: Box) -> float:
    """Return how far two boxes are apart, across or down; negative if they overlap."""
    return max(gap(first, second, 0), gap(first, second, 1))


def name_box(box: Box) -> str:
    """Return where a box is, as warnings say it."""
    return f"({box[0]}, {box[1]}) to ({box[2]}, {box[3]})"


def typical_height(groups: list[Group]) -> float:
    """Return the digits' height: the median of the pieces, or that of half of their ink.

    The latter if the network is sure of more ink then, as there are more fragments or specks than
    digits. Bars, lines and what is low do not count; what is at the border, where there may be a
    desk, only if the network is sure of more ink then, too.
    """
    upright = [group for group in groups if group.width <= 3 * group.height] or groups
    sure = [group for group in groups if group.worth(0) > 0.8]

    def ink(height: float) -> int:
        return sum(g.area for g in sure if SMALLEST * height <= g.height <= LARGEST * height)

    best = 0.0
    for contact in (0, 0.3, 1):  # what has more is no stroke
        inner = [g for g in upright if g.contact <= contact * (g.width + g.height)]
        if inner:
            heights, areas = np.array([(group.height, group.area) for group in inner]).T
            median = float(np.median(heights[heights >= SMALLEST * np.median(heights)]))
            for height in (median, ink_median(heights, areas)):
                best = height if not best or ink(height) > 1.5 * ink(best) else best
    return best or 1.0


def shared_height(first: Box, second: Box) -> float:
    """Return the share of the lower of two boxes that is beside the other; negative if none is."""
    return -gap(first, second, 1) / min(first[3] - first[1], second[3] - second[1])


def in_lines(boxes: list[Box]) -> list[list[int]]:
    """Return the indices of boxes by line, each from left to right."""
    # Each box goes on the line whose last box is beside it, so that lines may be askew.
    lines: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda i: boxes[i][0]):
        box = boxes[index]
        line = max(lines, key=lambda line: shared_height(boxes[line[-1]], box), default=None)
        if line and shared_height(boxes[line[-1]], box) > BESIDE:
            line.append(index)
        else:
            lines.append([index])
    lines = merge_lines(lines, boxes)
    return sorted(lines, key=lambda line: boxes[line[0]][1])


def merge_lines(lines: list[list[int]], boxes: list[Box]) -> list[list[int]]:
    """Return lines of boxes, those made one that are an uneven row: none is above another."""
    for line, other in combinations(lines, 2):
        first, second = (enclose(boxes[i] for i in part) for part in (line, other))
        _, top, _, bottom = enclose([first, second])
        typical = np.median([boxes[i][3] - boxes[i][1] for i in line + other])
        if shared_height(first, second) < BESIDE or bottom - top > 2.5 * typical:
            continue
        if all(gap(boxes[i], boxes[j], 0) >= 0 for i in line for j in other):
            row = sorted(line + other, key=lambda i: boxes[i][0])
            return merge_lines([part for part in lines if part not in (line, other)] + [row], boxes)
    return lines
