"""Handwritten digits found in a picture, as 28x28 images like MNIST's.

A picture is looked at twice: first as a whole, to see where its digits are, how tall, and whether
their ink is dark or bright; then so that they are about 64 pixels tall, whatever its own size.
Pieces of ink that are connected become digits. What is ambiguous the network decides: which
pieces belong together, where touching digits part, which ink is ink.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from reading.ink import (
    SIDE,
    Box,
    cut_out,
    find_ink,
    find_mask,
    label,
    look,
    set_stroke,
    to_mnist,
    typical_size,
)
from utils.files import UserError

MAX_PIXELS = 50_000_000
MAX_DIGITS = 300
FIRST_SIDES = 320, 1000  # pixels: a picture's longer side at first sight; smaller up to 8 times
HEIGHT = 64  # pixels that a digit is tall at second sight
WORKING_PIXELS = 3_000_000  # at most, at second sight
SPECK = 0.02  # of a digit's area: smaller pieces are dirt
SMALLEST, LARGEST = 0.4, 2.5  # of the digits' median height: what is lower or taller is no digit
LEAST = 0.02  # of the ink in what the network is sure of: below it there are no digits
NEAR = 0.25  # of a digit's height: pieces that are closer may belong together
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "MPO")
NO_PICTURES = {".pdf": "save its page as PNG or JPEG", ".svg": "export it as PNG"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # of EXIF's orientation tag

Classify = Callable[[np.ndarray], np.ndarray]


class Digit(NamedTuple):
    """A digit found in a picture: its box there, its image uint8 [28, 28], its line from 1."""

    box: Box
    image: np.ndarray
    line: int


class Reading(NamedTuple):
    """The digits of a picture in reading order, and what may be wrong with them, and where."""

    digits: list[Digit]
    warnings: list[str]


# --- The picture ------------------------------------------------------------------------------


def open_picture(path: Path) -> Image.Image:
    """Return a picture as it is to be looked at: upright, RGB, without transparency.

    Raises:
        UserError: if there is no such file, it is no picture, damaged, or too large.
    """
    if path.suffix.lower() in NO_PICTURES:
        raise UserError(f"{path}: not a picture of pixels; {NO_PICTURES[path.suffix.lower()]}")
    if path.suffix.lower() in (".heic", ".heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=[name for name in FORMATS if name in _formats()]) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels are more than "
                    f"{MAX_PIXELS:,}; make it smaller"
                )
            image.load()
            return _flatten(_set_upright(image))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a broken file makes Pillow raise almost anything
        reason = str(error).replace("\n", " ") or type(error).__name__
        raise UserError(f"{path}: not a picture, or damaged ({reason})") from error


def _formats() -> set[str]:
    """Return the formats that this Pillow can open."""
    Image.init()
    return set(Image.OPEN)


def _set_upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says, whatever its other tags."""
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # whatever a damaged block of tags makes Pillow raise
        turn = None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB; transparent parts become paper for its ink."""
    if image.mode[0] in "IF":  # more than 8 bits: from the darkest to the brightest
        values = np.asarray(image, np.float32)
        span = max(np.ptp(values), 1e-9)
        image = Image.fromarray((255 * (values - values.min()) / span).astype(np.uint8))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    small = np.asarray(image.resize((64, 64)).convert("LA"), np.float64)
    grey, opaque = small[..., 0], small[..., 1]
    bright_ink = (grey * opaque).sum() > 127 * opaque.sum() and opaque.min() < 128
    paper = Image.new("RGB", image.size, "black" if bright_ink else "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def is_mnist(picture: Image.Image) -> bool:
    """Return whether a picture is in MNIST's form: 28x28, bright ink as large and as central."""
    grey = np.asarray(picture.convert("L"), float) if picture.size == (SIDE, SIDE) else None
    if grey is None or not (grey > 127).any():
        return False
    if max(grey[0].max(), grey[-1].max(), grey[:, 0].max(), grey[:, -1].max()) > 32:
        return False
    return bool(np.abs(to_mnist(grey / 255 * (grey > 32)) - grey).mean() < 8)


# --- Digits -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Group:
    """Ink that may be a digit: box, mask bool [h, w], image, and the confidence in it."""

    box: Box
    mask: np.ndarray
    image: np.ndarray
    confidence: float

    def __post_init__(self) -> None:
        self.height, self.width = self.mask.shape
        self.area = int(self.mask.sum())
        step = 1 + self.height // 40
        inside = ndimage.distance_transform_edt(np.pad(self.mask[::step, ::step], 1)).max()
        widest = 2 * step * inside / min(self.mask.shape)
        self.is_filled = widest > 0.75 and self.width > 0.45 * self.height


class Sheet:
    """The digits of a picture's ink, as the network sees them best.

    Args:
        ink: float [H, W], 0 for paper.
        classify: maps images uint8 [N, 28, 28] to probabilities [N, classes].
        places: boxes in which there were digits at first sight; None at first sight.
    """

    def __init__(self, ink: np.ndarray, classify: Classify, places: list[Box] | None) -> None:
        self.ink, self.classify, self.places = ink, classify, places or []
        self.groups = self.see(self.find_pieces(places))
        self.height = _median_height(self.groups)
        self.join_all()
        if places is not None and len(self.groups) <= 2 * MAX_DIGITS:
            self.join_pairs()
            self.height = _median_height(self.groups)
            self.groups = [part for group in self.groups for part in self.split(group)]
        self.dropped = [group for group in self.groups if not self.is_digit(group)]
        self.groups = [group for group in self.groups if self.is_digit(group)]

    def find_pieces(self, places: list[Box] | None) -> list[tuple[Box, np.ndarray]]:
        """Return the connected pieces of ink, the largest first, without specks."""
        labels, boxes = label(find_mask(self.ink))
        areas = np.bincount(labels.ravel())
        least = max(4, SPECK * typical_size(labels, boxes)[1])
        chosen = [n for n in boxes if areas[n] >= least]
        if places is not None:
            chosen = [n for n in chosen if any(_gap(boxes[n], place) < 0 for place in places)]
        chosen = sorted(chosen, key=lambda n: -areas[n])[: 3 * MAX_DIGITS]
        return [(boxes[n], labels[_slices(boxes[n])] == n) for n in chosen]

    def see(self, pieces: list[tuple[Box, np.ndarray]]) -> list[Group]:
        """Return pieces of ink with their images and the network's confidence in each."""
        if not pieces:
            return []
        images = [self.draw(box, mask) for box, mask in pieces]
        shares = self.classify(np.stack(images)).max(axis=1)
        return [
            Group(box, mask, image, float(share))
            for (box, mask), image, share in zip(pieces, images, shares, strict=True)
        ]

    def draw(self, box: Box, mask: np.ndarray) -> np.ndarray:
        """Return the image uint8 [28, 28] of a piece of ink."""
        step = 1 + max(mask.shape) // 160  # of a large one a smaller copy will do
        margin = step * (2 + mask.shape[0] // (20 * step))
        left, top, right, bottom = box
        ink = _crop(self.ink, (left - margin, top - margin, right + margin, bottom + margin))
        own = np.pad(mask, margin)
        if step > 1:
            rest = [(0, -size % step) for size in own.shape]
            ink, own = np.pad(ink, rest), np.pad(own, rest)
            shape = (own.shape[0] // step, step, own.shape[1] // step, step)
            ink = ink.reshape(shape).mean(axis=(1, 3))
            own = own.reshape(shape).max(axis=(1, 3))
        return to_mnist(set_stroke(cut_out(ink, own)).astype(float))

    # Pieces that belong together

    def join_all(self) -> None:
        """Put few pieces together, near each other, if the network is surer of the whole."""
        if not 1 < len(self.groups) <= 8:
            return
        (whole,) = self.see([_union(self.groups)])
        reach = int(NEAR * whole.height)
        grown = ndimage.maximum_filter(np.pad(whole.mask, reach), reach + 1)
        chained = ndimage.label(grown)[1] == 1
        parts = sum(group.area * self.worth(group) for group in self.groups) / whole.area
        if chained and whole.confidence > parts and whole.width < 1.5 * whole.height:
            self.groups, self.height = [whole], whole.height

    def join_pairs(self) -> None:
        """Put two pieces together where the network is surer of the whole, the surest first."""
        options: list[tuple[float, Group, Group, Group]] = []
        new = self.groups
        while True:
            pairs = [
                (first, second)
                for number, first in enumerate(new)
                for second in (self.groups[:number] if new is self.groups else self.groups)
                if first is not second and self.may_join(first, second)
            ]
            wholes = self.see([_union(pair) for pair in pairs])
            for (first, second), whole in zip(pairs, wholes, strict=True):
                options.append((self.gain(first, second, whole), first, second, whole))
            left = set(self.groups)
            options = [option for option in options if {option[1], option[2]} <= left]
            options = [option for option in options if option[0] > 0]
            if not options:
                return
            _, first, second, whole = max(options, key=lambda option: option[0])
            self.groups = [group for group in self.groups if group not in (first, second)]
            self.groups.append(whole)
            new = [whole]

    def may_join(self, first: Group, second: Group) -> bool:
        """Return whether two pieces are so near, and both so small, that they may be one digit."""
        left, top, right, bottom = _hull([first.box, second.box])
        if bottom - top > 2.2 * self.height or right - left > 1.6 * self.height:
            return False
        low = min(first.height, second.height) < SMALLEST * self.height
        above = min(first.box[2], second.box[2]) > max(first.box[0], second.box[0])
        gap = _gap(first.box, second.box)
        return gap < NEAR * self.height * (1 if low or above else 0.5)

    def gain(self, first: Group, second: Group, whole: Group) -> float:
        """Return how much surer the network is of a whole than it should be to prefer the parts."""
        parts = sorted([self.worth(first), self.worth(second)])
        if parts[0] == 0:
            return whole.confidence - parts[1] + 0.02
        linked = any(_hull([place, whole.box]) == place for place in self.places)
        return whole.confidence - parts[0] + (0.05 if linked else -0.1)

    def worth(self, group: Group) -> float:
        """Return the network's confidence in a group: 0 if it is too low, half if it is a blob."""
        if group.height < SMALLEST * self.height or group.width > 2 * group.height:
            return 0.0
        return group.confidence * (0.5 if group.is_filled else 1)

    # Digits that touch

    def split(self, group: Group) -> list[Group]:
        """Return the parts of a group that is too wide or tall, where the network is surest."""
        wide = group.width > self.height * (1.3 if group.confidence > 0.8 else 1)
        for axis, is_large in ((1, wide), (0, group.height > 1.5 * self.height)):
            parts = self.best_parts(group, axis) if is_large else []
            if parts:
                return [piece for part in parts for piece in self.split(part)]
        return [group]

    def best_parts(self, group: Group, axis: int) -> list[Group]:
        """Return the two parts of which the network is surest, parted at a row or column, or []."""
        profile = group.mask.sum(axis=1 - axis)
        size = len(profile)
        cuts: list[int] = []  # where there is least ink, some way apart
        for place in np.argsort(profile[size // 6 : size - size // 6], kind="stable") + size // 6:
            if len(cuts) < 6 and all(abs(place - other) > size / 16 for other in cuts):
                cuts.append(int(place))
        pairs = []
        for place in cuts:
            index = np.arange(size) if axis else np.arange(size)[:, None]
            pairs.append([(group.box, group.mask & (index < place)),
                          (group.box, group.mask & (index >= place))])  # fmt: skip
        parts = self.see([_trim(*part) for pair in pairs for part in pair if part[1].any()])
        if len(parts) < 2 * len(pairs):
            return []
        options = [parts[number : number + 2] for number in range(0, len(parts), 2)]
        best = max(options, key=lambda two: min(part.confidence for part in two), default=[])
        weakest = min((part.confidence for part in best), default=0.0)
        return best if weakest > max(group.confidence + 0.1, 0.6) else []

    # What is a digit

    def is_digit(self, group: Group) -> bool:
        """Return whether a group is as tall as the others, and not the edge of the paper."""
        if not SMALLEST * self.height <= group.height <= LARGEST * self.height:
            return False
        contact = self.contact(group) / (group.width + group.height)
        if len(self.groups) == 1 or contact == 0:
            return contact < 0.9  # what has more is a surface, not a stroke
        return group.confidence > 0.6 and group.width > 0.1 * group.height and contact < 0.3

    def contact(self, group: Group) -> int:
        """Return how many pixels of a group are on the border of the picture."""
        left, top, right, bottom = group.box
        mask, (height, width) = group.mask, self.ink.shape
        sides = [(left == 0, mask[:, 0]), (top == 0, mask[0]),
                 (right == width, mask[:, -1]), (bottom == height, mask[-1])]  # fmt: skip
        return sum(int(side.sum()) for at_border, side in sides if at_border)

    def quality(self, grey: np.ndarray, dark: bool) -> float:
        """Return the share of the ink of which the network is sure; half if it is like the border.

        Ink at the border does not count, and what was dropped counts little.
        """
        good = sum(group.area * self.worth(group) for group in self.groups)
        bad = sum(group.area for group in self.dropped if not self.contact(group))
        share = good / max(sum(group.area for group in self.groups) + 0.3 * bad, 1)
        share *= 1 - sum(self.contact(group) for group in self.groups) / (2 * sum(grey.shape))
        edge = np.ones(grey.shape, bool)
        edge[1:-1, 1:-1] = False
        beyond = _mask(grey.shape, self.dropped)[edge]
        if not self.groups or beyond.mean() > 0.33:  # much of the border is not paper
            return share
        contrast = np.median(grey[edge][~beyond]) - grey[_mask(grey.shape, self.groups)].mean()
        least = 0.2 * np.ptp(np.percentile(grey, [1, 99]))
        return share if (contrast if dark else -contrast) > least else share / 2

    def left_out(self, place: Callable[[Box], Box]) -> Iterator[str]:
        """Yield where ink was left out that may be a digit."""
        for group in self.dropped:
            thin = min(group.mask.shape) < 0.1 * max(group.mask.shape)
            tall = group.height / self.height
            if group.confidence > 0.9 and 0.3 < tall < LARGEST and not thin:
                yield f"left out what may be a digit, at {_name(place(group.box))}"

    def doubtful(self, place: Callable[[Box], Box]) -> Iterator[str]:
        """Yield where digits may be several, or not whole."""
        for group in self.groups:
            if group.width > 1.5 * self.height or group.height > 1.7 * self.height:
                yield f"this may be more than one digit: {_name(place(group.box))}"
            if len(self.groups) > 1 and self.contact(group):
                yield f"a digit is cut off by the edge, at {_name(place(group.box))}"


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def _crop(array: np.ndarray, box: Box) -> np.ndarray:
    """Return a box of an array [H, W], which may reach beyond it, where it is 0."""
    left, top, right, bottom = box
    height, width = array.shape
    inside = array[max(0, top) : bottom, max(0, left) : right]
    return np.pad(inside, ((max(0, -top), max(0, bottom - height)),
                           (max(0, -left), max(0, right - width))))  # fmt: skip


def _mask(shape: tuple[int, ...], groups: list[Group]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for group in groups:
        mask[_slices(group.box)] |= group.mask
    return mask


def _hull(boxes: Iterable[Box]) -> Box:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _union(groups: Iterable[Group]) -> tuple[Box, np.ndarray]:
    left, top, right, bottom = hull = _hull(group.box for group in groups)
    mask = np.zeros((bottom - top, right - left), bool)
    for group in groups:
        box = group.box
        mask[box[1] - top : box[3] - top, box[0] - left : box[2] - left] |= group.mask
    return hull, mask


def _trim(box: Box, mask: np.ndarray) -> tuple[Box, np.ndarray]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inner = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    left, top = box[:2]
    return (left + inner[0], top + inner[1], left + inner[2], top + inner[3]), mask[_slices(inner)]


def _gap(one: Box, other: Box) -> float:
    """Return how far two boxes are apart, across or down; negative if they overlap."""
    across = max(one[0], other[0]) - min(one[2], other[2])
    return max(across, max(one[1], other[1]) - min(one[3], other[3]))


def _name(box: Box) -> str:
    return f"({box[0]}, {box[1]}) to ({box[2]}, {box[3]})"


def _median_height(groups: list[Group]) -> float:
    """Return the median height of groups, without bars, lines and what is low beside it."""
    upright = [group for group in groups if group.width <= 3 * group.height]
    heights = np.array([group.height for group in upright or groups] or [1])
    return float(np.median(heights[heights >= SMALLEST * np.median(heights)]))


def _lines(boxes: list[Box]) -> list[list[int]]:
    """Return the indices of boxes by line, each from left to right."""

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
    return sorted(lines, key=lambda own: boxes[own[0]][1])


# --- The whole --------------------------------------------------------------------------------


def first_sight(
    grey: np.ndarray, classify: Classify, scale: float
) -> tuple[float, Sheet, bool, bool]:
    """Return the best way to tell ink from paper: its quality, sheet, whether dark, whether local.

    The ink is dark or bright, and stands out from its surroundings or from the whole picture.
    """
    best = None
    for local, dark in ((True, True), (True, False), (False, True), (False, False)):
        if best and best[0] > 0.9 and not local:
            break
        ink = find_ink(grey, max(grey.shape) / 3 if local else 0, dark, scale)
        sheet = Sheet(ink, classify, None)
        quality = sheet.quality(grey, dark)
        if best is None or quality > best[0] + 0.02:
            best = quality, sheet, dark, local
    assert best is not None
    return best


def find_digits(picture: Image.Image, classify: Classify) -> Reading:
    """Return the digits of a picture RGB in reading order; there may be up to 300.

    Args:
        picture: of any size.
        classify: maps images uint8 [N, 28, 28] to probabilities float [N, classes].

    Raises:
        ValueError: if there are none or more; its text says so.
    """
    if is_mnist(picture):
        return Reading([Digit((0, 0, SIDE, SIDE), np.asarray(picture.convert("L")), 1)], [])
    region: Box = (0, 0, *picture.size)
    longest = max(picture.size)
    scale = min(FIRST_SIDES[1] / longest, max(1.0, min(8.0, FIRST_SIDES[0] / longest)))
    quality, sheet, dark, local = first_sight(look(picture, region, scale), classify, scale)
    if quality < 0.6 and scale < 0.6:  # the digits may be too small to be seen
        scale *= 2
        quality, sheet, dark, local = first_sight(look(picture, region, scale), classify, scale)

    def place(box: Box, margin: float = 0) -> Box:
        """Return a box of the sheet, grown by a margin, as a box of the picture."""
        left, top = (region[i] + (box[i] - margin) / scale for i in (0, 1))
        right, bottom = (region[i - 2] + (box[i] + margin) / scale for i in (2, 3))
        right, bottom = min(picture.width, round(right)), min(picture.height, round(bottom))
        return max(0, round(left)), max(0, round(top)), right, bottom

    notes = list(sheet.left_out(place))
    for number in range(3):
        if quality < LEAST or not sheet.groups or (number and 0.7 < HEIGHT / sheet.height < 1.4):
            break
        places = [place(group.box, NEAR * sheet.height) for group in sheet.groups]
        before = sheet, region, scale
        region = place(_hull(group.box for group in sheet.groups), sheet.height)
        size = (region[2] - region[0]) * (region[3] - region[1])
        scale = min(scale * HEIGHT / sheet.height, (WORKING_PIXELS / size) ** 0.5)
        moved = [tuple(round(scale * (v - region[i % 2])) for i, v in enumerate(b)) for b in places]
        ink = find_ink(look(picture, region, scale), 0.6 * HEIGHT if local else 0, dark, scale)
        sheet = Sheet(ink, classify, moved)
        if not sheet.groups:  # what was seen at first sight stands
            sheet, region, scale = before
            break
    if quality < LEAST or not sheet.groups:
        raise ValueError("no ink found; show nothing but paper, closer, in dark ink or in chalk")
    if len(sheet.groups) > MAX_DIGITS:
        raise ValueError(f"more than {MAX_DIGITS} digits; take several pictures of it")
    digits = [
        Digit(place(sheet.groups[index].box), sheet.groups[index].image, number)
        for number, line in enumerate(_lines([group.box for group in sheet.groups]), 1)
        for index in line
    ]
    return Reading(digits, notes + list(sheet.doubtful(place)))
