"""From a picture of handwritten digits to 28x28 images like MNIST's.

A picture is looked at so that its digits are about 64 pixels tall, whatever its own size. There
its strongest colour channel is taken, light and ruled lines are removed, ink is separated from
paper, and connected pieces of ink become digits. What is ambiguous, the network decides: whether
the ink is dark or bright, which pieces belong together, and where touching digits part. Each digit
is scaled and centred as MNIST's were. Ink and masks are arrays [H, W], boxes (left, top, right,
bottom) in pixels.
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from utils.files import UserError

SIDE, BOX = 28, 20  # pixels: of an image, and of the box that the digit is scaled to fit
MAX_PIXELS = 50_000_000
MAX_DIGITS = 300
HEIGHT = 64  # pixels that a digit is tall when it is looked at closely
FIRST_SIDE = 1000  # pixels of the longer side of a picture, or 8 times its own, at first sight
WORKING_PIXELS = 3_000_000  # at most
FAINT = 6  # standard deviations of the paper's noise below which nothing counts as ink
WEAK = 0.25  # of the strongest ink: what is weaker is smudge, shadow or print from behind
SPECK = 0.02  # of the area of the largest digit: smaller pieces are dirt
SMALLEST = 0.4  # of a digit's height: lower pieces are parts of digits, dots, dashes or dirt
THIN, THICK = 2.2, 4.0  # pixels of the 20x20 box: most of MNIST's strokes are between them

TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
         4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # fmt: skip

Box = tuple[int, int, int, int]
Classify = Callable[[np.ndarray], np.ndarray]


class Digit(NamedTuple):
    """A digit found in a picture: its box there, its image uint8 [28, 28], its line from 1."""

    box: Box
    image: np.ndarray
    line: int


class Reading(NamedTuple):
    """The digits of a picture in reading order, and what may be wrong with them and where."""

    digits: list[Digit]
    warnings: list[str]


class Group(NamedTuple):
    """Pieces of ink that may be one digit: their labels, their box, and what a network sees."""

    pieces: tuple[int, ...]
    box: Box
    image: np.ndarray
    confidence: float

    @property
    def width(self) -> int:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]


# --- The picture ------------------------------------------------------------------------------


def open_picture(path: Path) -> Image.Image:
    """Return a picture as it is to be looked at: upright, RGB, without transparency.

    Raises:
        UserError: if there is no such file, it is no picture, damaged, or too large.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {image.width}x{image.height} pixels are more than "
                    f"{MAX_PIXELS:,}; make it smaller"
                )
            image.load()
            return _flatten(_set_upright(image))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a picture, or damaged ({error})") from error


def _set_upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says; other tags, however odd, don't matter."""
    try:
        turn = TURNS.get(image.getexif().get(0x0112))
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
        return image.convert("RGB")
    image = image.convert("RGBA")
    small = np.asarray(image.resize((64, 64)).convert("LA"), np.float64)
    grey, opaque = small[..., 0], small[..., 1]
    bright_ink = (grey * opaque).sum() > 127 * opaque.sum() and opaque.min() < 128
    paper = Image.new("RGB", image.size, "black" if bright_ink else "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def is_mnist(picture: Image.Image) -> bool:
    """Return whether a picture is in MNIST's form: 28x28, bright ink as large and as central."""
    if picture.size != (SIDE, SIDE):
        return False
    grey = np.asarray(picture.convert("L"))
    ink = grey > 127
    if not ink.any() or max(grey[0].max(), grey[-1].max(), grey[:, 0].max(), grey[:, -1].max()) > 32:
        return False
    again = to_mnist(grey / 255.0 * (grey > 32))
    return bool(np.abs(again.astype(float) - grey).mean() < 8)


# --- Ink --------------------------------------------------------------------------------------


def look(picture: Image.Image, region: Box, scale: float) -> np.ndarray:
    """Return a region of a picture at a scale, in its strongest colour channel, float [H, W].

    That is the one, of brightness, red, green and blue, in which ink stands out most from noise.
    """
    size = [max(1, round(scale * (stop - start))) for start, stop in zip(region[:2], region[2:])]
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    small = picture.resize(size, method, box=region, reducing_gap=3)
    channels = [small.convert("L"), *small.split()]
    channels = [np.asarray(channel, np.float32) for channel in channels]
    strengths = [_strength(channel) for channel in channels]
    best = int(np.argmax(strengths))
    return channels[best if strengths[best] > 1.2 * strengths[0] else 0]


def _strength(channel: np.ndarray) -> float:
    """Return the contrast of details in a channel [H, W], in units of its noise."""
    detail = channel - ndimage.uniform_filter(channel, max(3, max(channel.shape) // 8))
    detail = ndimage.uniform_filter(detail, 3)[::2, ::2]
    noise = np.median(np.abs(detail - np.median(detail)))
    low, high = np.percentile(detail, [0.2, 99.8])
    return float((high - low) / (noise + 1))


def find_paper(grey: np.ndarray, size: float) -> np.ndarray:
    """Return the paper under dark ink, with its shadows: a morphological closing, smoothed."""
    step = max(1, int(size / 12))  # a small picture will do, for so smooth a thing
    small = np.asarray(Image.fromarray(grey).reduce(step), np.float32)
    window = max(3, round(size / step))
    padded = np.pad(small, window, mode="symmetric")
    closed = ndimage.grey_closing(padded, (window, window))[window:-window, window:-window]
    closed = Image.fromarray(ndimage.gaussian_filter(closed, 1.5))
    return np.asarray(closed.resize(grey.shape[::-1], Image.Resampling.BILINEAR), np.float32)


def find_ink(grey: np.ndarray, size: float, dark: bool, scale: float) -> np.ndarray:
    """Return how much darker (or brighter) than its surroundings a picture is, float [H, W].

    Args:
        grey: float [H, W], 0 to 255.
        size: pixels; strokes must be narrower, shadows wider. 0: the whole picture has one light.
        dark: whether the ink is darker than the paper.
    """
    smooth = ndimage.gaussian_filter(grey if dark else 255 - grey, max(1, 0.5 * scale))
    if size:
        paper = find_paper(smooth, size)
    else:
        paper = np.median(smooth[smooth > otsu(smooth.ravel())])
    ink = (paper - smooth) / (np.maximum(paper, 16) if dark else 255)
    return remove_lines(remove_table(np.clip(ink, 0, 1)))


def otsu(values: np.ndarray) -> float:
    """Return the threshold that separates values into two classes best (Otsu, 1979)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    if np.isnan(between).all():
        return float(values.max())
    best = between == np.nanmax(between)  # several in a row, where there is a gap
    return float(edges[1:][best].mean())


def remove_table(ink: np.ndarray) -> np.ndarray:
    """Return ink [H, W] without the lines of a table or boxes around digits."""
    labels, boxes = _label(find_mask(ink))
    height, _ = _typical(labels, boxes)
    length = max(5, round(1.5 * height))
    tables = np.isin(labels, [n for n in boxes if _is_table(n, labels, boxes, height)])
    runs = [_long_runs(tables, length, axis) for axis in (0, 1)]
    if not (runs[0].any() and runs[1].any()):
        return ink
    return np.where(ndimage.binary_dilation(runs[0] | runs[1], np.ones((5, 5))), 0, ink)


def _is_table(piece: int, labels: np.ndarray, boxes: dict[int, Box], height: float) -> bool:
    """Return whether a piece is hollow and around others as tall as digits."""
    left, top, right, bottom = boxes[piece]
    if min(right - left, bottom - top) < height:
        return False
    if (labels[top:bottom, left:right] == piece).mean() > 0.5:
        return False
    return any(
        left < other[0] and top < other[1] and other[2] < right and other[3] < bottom
        and other[3] - other[1] > 0.5 * height
        for other in boxes.values()
    )  # fmt: skip


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
    count = min(32, width)
    strips = np.stack([part.mean(axis=1) for part in np.array_split(ink, count, axis=1)])
    centres = (np.arange(count) + 0.5) * width / count
    best = np.zeros(height, ink.dtype)
    for slope in np.tan(np.radians(np.arange(-4, 4.01, 0.25))):
        shifts = np.round(slope * centres).astype(int)[:, None]
        rows = np.take_along_axis(strips, (np.arange(height) + shifts) % height, axis=1)
        # The ends too, which the strokes of a digit do not reach.
        profile, ends = np.sort(rows, axis=0)[len(rows) // 8], np.minimum(rows[0], rows[-1])
        profile = np.where(ends > 0.6 * profile, np.minimum(profile, ends), 0)
        if (profile**2).sum() > (best**2).sum():
            best, best_slope = profile, slope
    if not best.any():
        return ink
    best = ndimage.maximum_filter1d(best, 3)  # between two rows a line seems fainter than it is
    shifts = np.round(best_slope * np.arange(width)).astype(int)
    lines = best[(np.arange(height)[:, None] - shifts) % height]
    rest = np.clip(ink - lines, 0, 1)
    return rest if rest.max() > 0.5 * ink.max() else ink  # else it was the stroke of a 1


def find_mask(ink: np.ndarray) -> np.ndarray:
    """Return which pixels of ink [H, W] are ink: hysteresis, relative to the stroke around them.

    What is connected above a weak threshold is cut again at half of its own mean, so that pencil
    and felt pen may be on one sheet.
    """
    detail = np.abs(ink - ndimage.uniform_filter(ink, 5))
    noise = float(np.quantile(detail, 0.2)) / 0.25  # of the quietest pixels, which have no ink
    floor = max(FAINT * noise, 0.015)
    bright = ink[ink > floor]
    if bright.size < 4:
        return np.zeros(ink.shape, bool)
    strong = bright[bright >= min(otsu(bright), bright.max())].mean()
    low = max(floor, WEAK * strong)
    labels, count = ndimage.label(ink > low, np.ones((3, 3)))
    means = np.bincount(labels.ravel(), ink.ravel(), count + 1) / np.maximum(
        np.bincount(labels.ravel(), minlength=count + 1), 1
    )
    means[0] = 1
    return ink > np.maximum(low, 0.55 * means)[labels]


# --- Pieces of ink ----------------------------------------------------------------------------


def find_pieces(mask: np.ndarray) -> tuple[np.ndarray, dict[int, Box]]:
    """Return labels int [H, W] of the connected pieces of a mask, and their boxes by label.

    Frames and tables are not among them, nor specks.
    """
    labels, boxes = _label(mask)
    height, area = _typical(labels, boxes)
    frames = [n for n in boxes if _is_frame(n, labels, boxes, height)]
    if frames:
        lines = np.isin(labels, frames)
        length = max(3, round(1.5 * height))
        runs = [_long_runs(lines, length, axis) for axis in (0, 1)]
        straight = ndimage.binary_dilation(runs[0] | runs[1], np.ones((3, 3)))
        labels, boxes = _label(mask & ~straight)
        height, area = _typical(labels, boxes)
        frames = [n for n in boxes if _is_frame(n, labels, boxes, height)]
    areas = np.bincount(labels.ravel())
    kept = [n for n in boxes if n not in frames and areas[n] >= max(4, SPECK * area)]
    kept = sorted(kept, key=lambda n: -areas[n])[: 3 * MAX_DIGITS]
    return labels, {n: boxes[n] for n in kept}


def _long_runs(mask: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Return the pixels of a mask [H, W] that are in straight runs of that length: an opening."""
    eroded = ndimage.minimum_filter1d(mask.astype(np.uint8), length, axis, mode="constant")
    shift = 0 if length % 2 else -1
    return ndimage.maximum_filter1d(eroded, length, axis, mode="constant", origin=shift) > 0


def _label(mask: np.ndarray) -> tuple[np.ndarray, dict[int, Box]]:
    labels = ndimage.label(mask, np.ones((3, 3)))[0]
    parts = enumerate(ndimage.find_objects(labels), start=1)
    return labels, {n: (x.start, y.start, x.stop, y.stop) for n, (y, x) in parts}


def _typical(labels: np.ndarray, boxes: dict[int, Box]) -> tuple[float, float]:
    """Return the median height and area of the pieces that hold nine tenths of the ink."""
    if not boxes:
        return 0.0, 0.0
    areas = np.bincount(labels.ravel())[1:]
    order = np.argsort(-areas)
    count = int(np.searchsorted(np.cumsum(areas[order]), 0.9 * areas.sum())) + 1
    heights = [boxes[n + 1][3] - boxes[n + 1][1] for n in order[:count]]
    return float(np.median(heights)), float(np.median(areas[order[:count]]))


def _is_frame(piece: int, labels: np.ndarray, boxes: dict[int, Box], height: float) -> bool:
    """Return whether a piece is hollow and around another, or spans many digits."""
    left, top, right, bottom = boxes[piece]
    if min(right - left, bottom - top) < 0.5 * height and max(right - left, bottom - top) < 3 * height:
        return False
    own = labels[top:bottom, left:right] == piece
    if own.mean() > 0.5:
        return False
    if max(right - left, bottom - top) > 4 * height:
        return True
    inside = [
        other[3] - other[1]
        for other in boxes.values()
        if left < other[0] and top < other[1] and other[2] < right and other[3] < bottom
    ]
    sides = (left == 0) + (top == 0) + (right == labels.shape[1]) + (bottom == labels.shape[0])
    return max(inside, default=0) > (0.06 if sides > 2 else 0.3) * (bottom - top)


# --- Digits -----------------------------------------------------------------------------------


class Sheet:
    """A picture's ink and its pieces, and what the network makes of them.

    Args:
        ink: float [H, W], 0 for paper.
        classify: maps images uint8 [N, 28, 28] to probabilities [N, classes].
    """

    def __init__(self, ink: np.ndarray, classify: Classify, places: list[Box] | None = None) -> None:
        self.ink, self.classify = ink, classify
        self.labels, self.boxes = find_pieces(find_mask(ink))
        self.places = places or []
        if places is not None:
            self.boxes = {n: b for n, b in self.boxes.items() if any(_touch(b, p) for p in places)}
        self.groups = self.see([(piece,) for piece in self.boxes])
        self.height = _median_height(self.groups)
        self.join_all()
        if places is not None:
            self.join()
            self.height = _median_height(self.groups)
            self.split()
        self.dropped = [group for group in self.groups if not self.is_digit(group)]
        self.groups = [group for group in self.groups if self.is_digit(group)]

    def see(self, candidates: list[tuple[int, ...]]) -> list[Group]:
        """Return groups of pieces with their images and the network's confidence in each."""
        if not candidates:
            return []
        boxes = [_hull([self.boxes[piece] for piece in pieces]) for pieces in candidates]
        images = [self.draw(pieces, box) for pieces, box in zip(candidates, boxes, strict=True)]
        shares = self.classify(np.stack(images)).max(axis=1)
        return [Group(*parts) for parts in zip(candidates, boxes, images, shares, strict=True)]

    def draw(self, pieces: tuple[int, ...], box: Box) -> np.ndarray:
        """Return the image uint8 [28, 28] of pieces of ink."""
        left, top, right, bottom = box
        margin = 2 + (bottom - top) // 20
        part = np.s_[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
        ink, own = self.ink[part], np.isin(self.labels[part], pieces)
        step = 1 + max(own.shape) // 160
        if step > 1:  # a smaller copy will do
            rest = [(0, -size % step) for size in own.shape]
            shape = [(size + more) // step for size, (_, more) in zip(own.shape, rest, strict=True)]
            shape = (shape[0], step, shape[1], step)
            ink = np.pad(ink, rest).reshape(shape).mean(axis=(1, 3))
            own = np.pad(own, rest).reshape(shape).any(axis=(1, 3))
        return to_mnist(set_stroke(cut_out(ink, own)).astype(float))

    def area(self, group: Group) -> int:
        """Return how many pixels of ink a group has."""
        left, top, right, bottom = group.box
        return int(np.isin(self.labels[top:bottom, left:right], group.pieces).sum())

    def worth(self, group: Group) -> float:
        """Return the network's confidence in a group, 0 if it is too low to be a digit."""
        low = group.height < SMALLEST * self.height or group.width > 2 * group.height
        return 0.0 if low else group.confidence * (0.5 if self.is_blob(group) else 1)

    def is_blob(self, group: Group) -> bool:
        """Return whether a group is filled, and so wide that it is no 1."""
        box = group.width * group.height
        return group.width > 0.45 * group.height and self.area(group) > 0.8 * box

    def join_all(self) -> None:
        """Put all pieces together if they are few and the network is surer of the whole."""
        if not 1 < len(self.groups) <= 12:
            return
        areas = [self.area(group) for group in self.groups]
        worth = np.dot(areas, [self.worth(group) for group in self.groups]) / sum(areas)
        (whole,) = self.see([tuple(piece for group in self.groups for piece in group.pieces)])
        near = int(0.18 * whole.height)
        left, top, right, bottom = whole.box
        own = np.pad(np.isin(self.labels[top:bottom, left:right], whole.pieces), near)
        grown = ndimage.maximum_filter(own, near + 1)
        alone = ndimage.label(grown)[1] > 1
        if not alone and whole.confidence > worth and whole.width < 1.5 * whole.height:
            self.groups = [whole]
            self.height = whole.height

    def join(self) -> None:
        """Put pieces together where the network is surer of the whole than of the parts."""
        refused = set()
        while True:
            pairs = [
                (one, other)
                for i, one in enumerate(self.groups)
                for other in self.groups[:i]
                if self.is_near(one, other) and (one.pieces, other.pieces) not in refused
            ]
            if not pairs:
                return
            wholes = self.see([one.pieces + other.pieces for one, other in pairs])
            gains = []
            for (one, other), whole in zip(pairs, wholes, strict=True):
                weakest = min(self.worth(one), self.worth(other))
                if weakest > 0 and self.is_linked(whole):
                    gain = whole.confidence - weakest + 0.05
                elif weakest > 0:
                    gain = whole.confidence - weakest - 0.1
                else:
                    gain = whole.confidence - max(self.worth(one), self.worth(other)) + 0.02
                gains.append(gain)
                if gain <= 0:
                    refused.add((one.pieces, other.pieces))
            best = int(np.argmax(gains))
            if gains[best] <= 0:
                return
            self.groups = [group for group in self.groups if group not in pairs[best]]
            self.groups.append(wholes[best])

    def is_linked(self, group: Group) -> bool:
        """Return whether a group was one piece at first sight."""
        left, top, right, bottom = group.box
        return any(
            p[0] <= left and p[1] <= top and right <= p[2] and bottom <= p[3] for p in self.places
        )

    def is_near(self, one: Group, other: Group) -> bool:
        """Return whether two groups are so near that they may be one digit."""
        across = max(one.box[0], other.box[0]) - min(one.box[2], other.box[2])  # gaps; negative
        down = max(one.box[1], other.box[1]) - min(one.box[3], other.box[3])  # where they overlap
        hull = _hull([one.box, other.box])
        if hull[3] - hull[1] > 2.2 * self.height or hull[2] - hull[0] > 1.6 * self.height:
            return False
        small = min(one.height, other.height) < SMALLEST * self.height
        near = 0.25 * self.height
        if small or across < 0:
            return max(across, down) < near
        return max(across, down) < near / 2

    def split(self) -> None:
        """Part groups that are too wide or too tall where the network is surest of the parts."""
        waiting, done = self.groups, []
        while waiting:
            group = waiting.pop()
            wide = 1.3 if group.confidence > 0.8 else 1.0
            parts = self.part(group, vertical=False) if group.width > wide * self.height else None
            if parts is None and group.height > 1.5 * self.height:
                parts = self.part(group, vertical=True)
            if parts is None:
                done.append(group)
            else:
                waiting.extend(parts)
        self.groups = done

    def part(self, group: Group, vertical: bool) -> list[Group] | None:
        """Return the two groups that a group is best parted into, or None."""
        left, top, right, bottom = group.box
        part = self.labels[top:bottom, left:right]
        own = np.isin(part, group.pieces)
        profile = own.sum(axis=1 if vertical else 0)
        size = len(profile)
        inner = range(size // 6, size - size // 6)
        cuts = sorted(inner, key=lambda i: (profile[i], abs(i - size / 2)))
        chosen: list[int] = []
        for cut in cuts:
            if all(abs(cut - other) > size / 16 for other in chosen):
                chosen.append(cut)
        before = part.copy()
        best, best_cut = None, 0
        for cut in chosen[:6]:
            halves = self.cut(group, cut, vertical)
            if best is None or min(h.confidence for h in halves) > min(h.confidence for h in best):
                best, best_cut = halves, cut
            part[:] = before
        if best is None or min(half.confidence for half in best) < max(group.confidence + 0.1, 0.6):
            return None
        return self.cut(group, best_cut, vertical)

    def cut(self, group: Group, at: int, vertical: bool) -> list[Group]:
        """Relabel a group's ink as two pieces, parted at a row or column, and return them."""
        left, top, right, bottom = group.box
        part = self.labels[top:bottom, left:right]
        own = np.isin(part, group.pieces)
        first = int(self.labels.max()) + 1
        index = np.arange(own.shape[0])[:, None] if vertical else np.arange(own.shape[1])
        part[own & (index < at)] = first
        part[own & (index >= at)] = first + 1
        pieces = []
        for label in (first, first + 1):
            rows, columns = np.nonzero(part == label)
            if not len(rows):
                continue
            self.boxes[label] = (
                left + int(columns.min()), top + int(rows.min()),
                left + int(columns.max()) + 1, top + int(rows.max()) + 1,
            )  # fmt: skip
            pieces.append((label,))
        return self.see(pieces)

    def is_digit(self, group: Group) -> bool:
        """Return whether a group is as large as the others, and not the edge of the paper."""
        if not SMALLEST * self.height <= group.height <= 2.5 * self.height:
            return False
        left, top, right, bottom = group.box
        height, width = self.ink.shape
        at_border = left == 0 or top == 0 or right == width or bottom == height
        others = [g for g in self.groups if g is not group]
        if not at_border or not others:
            return True
        return group.confidence > 0.6 and group.width > 0.1 * group.height and self.inner(group) > 0.7

    def is_unlike_border(self, grey: np.ndarray, dark: bool) -> bool:
        """Return whether the ink is darker (or brighter) than the paper at the picture's border."""
        edge = np.ones(grey.shape, bool)
        edge[1:-1, 1:-1] = False
        dropped = np.isin(self.labels, [piece for group in self.dropped for piece in group.pieces])
        if dropped[edge].mean() > 0.5:  # beyond the paper
            return True
        own = np.isin(self.labels, [piece for group in self.groups for piece in group.pieces])
        if not own.any():
            return True
        contrast = np.median(grey[edge & ~dropped]) - grey[own].mean()
        return (contrast if dark else -contrast) > 0.2 * np.ptp(np.percentile(grey, [1, 99]))

    @property
    def quality(self) -> float:
        """The share of the ink that is in digits, weighted by the network's confidence in them."""
        good = sum(self.area(group) * self.worth(group) * self.inner(group) for group in self.groups)
        bad = sum(self.area(group) for group in self.dropped if self.inner(group) == 1)
        return good / max(sum(self.area(group) for group in self.groups) + 0.3 * bad, 1)

    def inner(self, group: Group) -> float:
        """Return how little of a group is along the border of the picture, 0 to 1."""
        left, top, right, bottom = group.box
        own = np.isin(self.labels[top:bottom, left:right], group.pieces)
        sides = [(left == 0, own[:, 0]), (top == 0, own[0]),
                 (right == self.ink.shape[1], own[:, -1]), (bottom == self.ink.shape[0], own[-1])]  # fmt: skip
        contact = sum(int(side.sum()) for is_border, side in sides if is_border)
        return max(0.0, 1 - contact / (group.width + group.height))


def _touch(one: Box, other: Box) -> bool:
    """Return whether two boxes overlap."""
    return (
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    )


def _hull(boxes: Iterable[Box]) -> Box:
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _median_height(groups: list[Group]) -> float:
    """Return the median height of groups, those left out that are low beside it."""
    heights = np.array([group.height for group in groups] or [0])
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


def choose_way(grey: np.ndarray, classify: Classify, scale: float) -> tuple[float, Sheet, bool, bool]:
    """Return the best of four ways to tell ink from paper: the sheet, whether dark, whether local.

    The ink is dark or bright, and stands out from its surroundings or from the whole picture. The
    best way has most of its ink in what the network is sure of, and its ink is unlike the border.
    """
    best = None
    for local in (True, False):
        if best and best[0] > 0.9:
            break
        for dark in (True, False):
            size = max(grey.shape) / 3 if local else 0
            sheet = Sheet(find_ink(grey, size, dark, scale), classify)
            quality = sheet.quality * (1 if sheet.is_unlike_border(grey, dark) else 0.5)
            if best is None or quality > best[0] + 0.02:
                best = quality, sheet, dark, local
    return best


def find_digits(picture: Image.Image, classify: Classify) -> Reading:
    """Return the digits of a picture RGB in reading order; there may be up to 300.

    Raises:
        ValueError: if there are none or more; its text says so.
    """
    if is_mnist(picture):
        return Reading([Digit((0, 0, SIDE, SIDE), np.asarray(picture.convert("L")), 1)], [])
    region: Box = (0, 0, *picture.size)
    longest = max(picture.size)
    scale = min(FIRST_SIDE / longest, max(1.0, min(8.0, 320 / longest)))
    quality, sheet, dark, local = choose_way(look(picture, region, scale), classify, scale)
    if quality < 0.6 and scale < 0.6:  # the digits may be too small to be seen
        scale *= 2
        quality, sheet, dark, local = choose_way(look(picture, region, scale), classify, scale)
    for number in range(3):
        if not sheet.groups or (number and 0.7 < HEIGHT / sheet.height < 1.4):
            break
        margin = 0.25 * sheet.height
        places = [
            (
                region[0] + (left - margin) / scale, region[1] + (top - margin) / scale,
                region[0] + (right + margin) / scale, region[1] + (bottom + margin) / scale,
            )
            for left, top, right, bottom in (group.box for group in sheet.groups)
        ]  # fmt: skip
        hull, margin = _hull(places), sheet.height / scale
        region = (
            max(0, int(hull[0] - margin)),
            max(0, int(hull[1] - margin)),
            min(picture.width, int(hull[2] + margin) + 1),
            min(picture.height, int(hull[3] + margin) + 1),
        )
        area = (region[2] - region[0]) * (region[3] - region[1])
        scale = min(scale * HEIGHT / sheet.height, (WORKING_PIXELS / area) ** 0.5)
        places = [
            tuple(scale * (value - region[i % 2]) for i, value in enumerate(box)) for box in places
        ]
        grey = look(picture, region, scale)
        sheet = Sheet(find_ink(grey, 0.6 * HEIGHT if local else 0, dark, scale), classify, places)
    if not 0 < len(sheet.groups) <= MAX_DIGITS:
        text = f"more than {MAX_DIGITS} digits" if sheet.groups else "no ink found"
        raise ValueError(text)
    digits = []
    boxes = [group.box for group in sheet.groups]
    for number, line in enumerate(_lines(boxes), 1):
        for index in line:
            left, top, right, bottom = (round(value / scale) for value in boxes[index])
            box = (region[0] + left, region[1] + top, region[0] + right, region[1] + bottom)
            digits.append(Digit(box, sheet.groups[index].image, number))
    return Reading(digits, [])


# --- One digit, as MNIST was made -------------------------------------------------------------
# LeCun et al., 1998, section III.A: fitted with antialiasing into a 20x20 box, then placed so that
# its centre of mass is at pixel 14 of the 28x28 image, counted from 0.


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
