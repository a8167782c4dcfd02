"""Ink in a picture: how it is distinguished from paper, and its connected pieces.

Ink and masks are arrays [H, W], boxes (left, top, right, bottom) in pixels.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy import ndimage, spatial

FAINT = 6  # standard deviations of the paper's noise below which nothing counts as ink
WEAK = 0.25  # of the strongest ink: what is weaker is smudge, shadow or print from behind
WIDE = 2.5  # times as wide as tall: two touching digits are narrower
SHARP = 0.88  # of a sheet's brightness: it is darker beyond the edge

Box = tuple[int, int, int, int]


def look(picture: Image.Image, region: Box, scale: float) -> np.ndarray:
    """Return a region of a picture at a scale, in its strongest colour channel, float [H, W].

    That is the one, of brightness, red, green and blue, in which ink stands out most from noise.
    """
    size = [max(1, round(scale * (region[axis + 2] - region[axis]))) for axis in (0, 1)]
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    small = picture.resize(size, method, box=region, reducing_gap=3)
    channels = [np.asarray(band, np.float32) for band in (small.convert("L"), *small.split())]
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


def find_sheet(grey: np.ndarray) -> np.ndarray | None:
    """Return which pixels of a picture [H, W] are on the one bright sheet in it; None without one.

    A sheet is large, bright and convex, and has a sharp edge, which fading light has not; what is
    beside the edge is left out.
    """
    smooth = ndimage.gaussian_filter(grey, 2)
    labels, boxes = label(smooth > otsu(smooth.ravel()))
    if not boxes:
        return None
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    bright = labels == largest
    sheet = ndimage.binary_fill_holes(bright)
    if not 0.2 < sheet.mean() < 0.95 or bright.sum() < 0.8 * sheet.sum():
        return None
    square, width = np.ones((3, 3)), max(2, max(grey.shape) // 100)
    beside = ndimage.binary_dilation(~sheet, square, iterations=width)
    beyond = ndimage.binary_dilation(sheet, square, iterations=width) & ~sheet
    step = np.median(smooth[beyond]) / np.median(smooth[sheet & beside])
    outline = np.argwhere(sheet & ~ndimage.binary_erosion(sheet, square))
    convexity = sheet.sum() / spatial.ConvexHull(outline).volume
    return ~beside if step < SHARP and convexity > 0.95 and not beside.all() else None


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
    bright = smooth[smooth >= otsu(smooth.ravel())]
    paper = find_paper(smooth, size) if size else np.median(bright)
    ink = (paper - smooth) / (np.maximum(paper, 16) if dark else 255)
    ink = np.clip(ink, -1, 1)
    labels, boxes = label(find_mask(ink))
    rest = remove_table(ink, labels, boxes)
    if rest is not ink:
        labels, boxes = label(find_mask(rest))
    return remove_lines(remove_underlines(rest, labels, boxes))


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


def erase(ink: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return ink [H, W] without the pixels of a mask, and without their blurred edges."""
    return np.where(ndimage.binary_dilation(mask, np.ones((5, 5))), 0, ink)


def remove_table(ink: np.ndarray, labels: np.ndarray, boxes: dict[int, Box]) -> np.ndarray:
    """Return ink [H, W] without tables, and without boxes around digits.

    First their long straight lines go, so that a digit that touches them stays; then what is
    still closed around a digit. Without tables it is the ink itself.

    Args:
        ink: float [H, W].
        labels, boxes: of its pieces, see label().
    """
    tables, height = find_tables(labels, boxes)
    if not tables:
        return ink
    lines = _long_lines(np.isin(labels, tables), max(5, round(1.5 * height)))
    if lines.any():
        ink = erase(ink, lines)
        labels, boxes = label(find_mask(ink))
        tables, _ = find_tables(labels, boxes)
    frames = [n for n in tables if _is_closed(labels[slices(boxes[n])] == n)]
    return erase(ink, np.isin(labels, frames))


def remove_underlines(ink: np.ndarray, labels: np.ndarray, boxes: dict[int, Box]) -> np.ndarray:
    """Return ink [H, W] without long straight lines that digits stand on or hang from.

    A piece is such digits if it is about as tall as others, much wider than tall, and a thin line
    longer than it is tall runs through most of it.

    Args:
        ink: float [H, W].
        labels, boxes: of its pieces, see label().
    """
    if not boxes:
        return ink
    lines = np.zeros(ink.shape, bool)
    heights = np.array([bottom - top for _, top, _, bottom in boxes.values()])
    typical = ink_median(heights, np.bincount(labels.ravel())[1:])
    for n, (left, top, right, bottom) in boxes.items():
        width, height = right - left, bottom - top
        if height < max(8, 0.5 * typical) or width < WIDE * height:
            continue
        line = _long_lines(labels[slices(boxes[n])] == n, round(1.5 * height))
        columns = line.any(axis=0).sum()
        if columns > 0.6 * width and line.sum() < columns * height / 6:
            lines[slices(boxes[n])] |= line
    return erase(ink, lines) if lines.any() else ink


def find_tables(labels: np.ndarray, boxes: dict[int, Box]) -> tuple[list[int], float]:
    """Return which pieces are hollow with digits in their box, and how tall these are.

    What is lower than a fourth of a piece is a digit only if there are many: else dirt in a 0, or
    the bar of a 5.
    """
    areas = np.bincount(labels.ravel())
    chosen = sorted(boxes, key=lambda n: -areas[n])[:1000]
    edges, areas = np.array([boxes[n] for n in chosen]).reshape(-1, 4), areas[chosen]
    low, high = edges[:, :2], edges[:, 2:]
    within = np.all(low[None] > low[:, None], axis=2) & np.all(high[None] < high[:, None], axis=2)
    widths, heights = (high - low).T
    inner = within.any(axis=0) & ~within.any(axis=1)  # a table in a frame is no digit
    if not inner.any():
        return [], 0.0
    height = ink_median(heights[inner], areas[inner])
    within &= heights > max(0.5 * height, 5)
    tallest = (within * heights).max(axis=1)
    many = (within.sum(axis=1) > 3) & (within @ areas > areas / 6)
    is_table = (many | (tallest > heights / 4)) & (areas < 0.5 * widths * heights)
    return [n for n, table in zip(chosen, is_table, strict=True) if table], height


def _is_closed(mask: np.ndarray) -> bool:
    """Return whether a piece [h, w] reaches along all four sides of its box."""
    rows, columns = (max(1, size // 4) for size in mask.shape)
    sides = (mask[:, :columns], mask[:, -columns:], mask[:rows].T, mask[-rows:].T)
    return min(side.any(axis=1).mean() for side in sides) > 0.8


def remove_lines(ink: np.ndarray) -> np.ndarray:
    """Return ink [H, W] without the lines of ruled or squared paper, askew by up to 4 degrees.

    A line reaches from one side to the other: of 32 strips that part the picture, the outermost
    and seven eighths of all show it in the same row.
    """
    level = 0.5 * ink.max()
    least = 0.1 * (ink > level).sum()
    for _ in range(2):  # the rows, then the columns
        for _ in range(3):  # seen at an angle, lines have several slopes
            rest = _remove_rows(ink)
            if rest is ink or (rest > level).sum() <= least:  # no line, or the stroke of a 1
                break
            ink = rest
        ink = ink.T
    return ink


def _remove_rows(ink: np.ndarray) -> np.ndarray:
    height, width = ink.shape
    count = min(32, width)
    strips = np.stack([part.mean(axis=1) for part in np.array_split(ink, count, axis=1)])
    # What leaves at the bottom comes in again at the top.
    shifted = sliding_window_view(np.tile(strips, 2), height, axis=1)
    centres = (np.arange(count) + 0.5) * width / count
    best = np.zeros(height, ink.dtype)
    for slope in np.tan(np.radians(np.arange(-4, 4.01, 0.25))):
        starts = np.round(slope * centres).astype(int) % height
        rows = shifted[np.arange(count), starts]
        # The ends too, which the strokes of a digit do not reach.
        profile, ends = np.sort(rows, axis=0)[len(rows) // 8], np.minimum(rows[0], rows[-1])
        profile = np.where(ends > 0.6 * profile, np.clip(np.minimum(profile, ends), 0, 1), 0)
        if (profile**2).sum() > (best**2).sum():
            best, best_slope = profile, slope
    # A stroke from side to side of a picture that a digit fills is wider than a line.
    wide = max(3, min(ink.shape) // 12)
    best[ndimage.binary_opening(best > 0.5 * ink.max(), np.ones(wide))] = 0
    if not best.any():
        return ink
    best = ndimage.maximum_filter1d(best, 3)  # between two rows a line seems fainter than it is
    starts = -np.round(best_slope * np.arange(width)).astype(int) % height
    lines = sliding_window_view(np.tile(best, 2), height)[starts].T.copy()
    return np.where(ink > 0, np.maximum(ink - lines, 0), ink)


def find_mask(ink: np.ndarray) -> np.ndarray:
    """Return which pixels of ink [H, W] are ink: hysteresis, relative to the stroke around them.

    What is connected above a weak threshold is cut again at half of its own mean, so that pencil
    and felt pen may be on one sheet.
    """
    detail = np.abs(ink - ndimage.uniform_filter(ink, 9))
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


# --- Pieces -------------------------------------------------------------------------------------


def _long_lines(mask: np.ndarray, length: int) -> np.ndarray:
    """Return which pixels of a mask [H, W] are in straight lines of a length, askew by up to 8°.

    An opening, of the mask sheared until the line is straight.
    """
    lines = np.zeros(mask.shape, np.uint8)
    for pixels, result in ((mask, lines), (mask.T, lines.T)):
        height, width = pixels.shape
        rows, columns = np.arange(height)[:, None], np.arange(width)
        for slope in np.tan(np.radians(np.arange(-8, 8.1, 2))):
            shift = np.round(slope * (columns - width / 2)).astype(int)
            sheared = np.take_along_axis(pixels, (rows + shift) % height, 0).astype(np.uint8)
            runs = ndimage.minimum_filter1d(sheared, length, 1, mode="constant")
            runs = ndimage.maximum_filter1d(
                runs, length, 1, mode="constant", origin=0 if length % 2 else -1
            )
            result |= np.take_along_axis(runs, (rows - shift) % height, 0)
    return lines > 0


def label(mask: np.ndarray) -> tuple[np.ndarray, dict[int, Box]]:
    """Return the connected pieces of a mask [H, W], numbered from 1, and the box of each."""
    labels = ndimage.label(mask, np.ones((3, 3)))[0]
    parts = enumerate(ndimage.find_objects(labels), start=1)
    return labels, {n: (x.start, y.start, x.stop, y.stop) for n, (y, x) in parts}


def ink_median(values: np.ndarray, areas: np.ndarray) -> float:
    """Return the value [N] of pieces up to which there is half of their ink."""
    order = np.argsort(values)
    ink = np.cumsum(areas[order])
    return float(values[order][np.searchsorted(ink, ink[-1] / 2)])


def typical_area(areas: np.ndarray, labels: np.ndarray) -> float:
    """Return the area up to which there is half of the ink of pieces.

    Those at the border, where a desk may be, count only if there are no others.

    Args:
        areas: of all pieces by number, int [N]; that of 0, the paper, does not count.
        labels: their numbers, int [H, W].
    """
    pieces = areas.copy()
    pieces[0] = 0
    inner = pieces.copy()
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        inner[side] = 0
    chosen = inner if inner.any() else pieces
    return ink_median(chosen, chosen)


def slices(box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a box, as an index of arrays [H, W]."""
    return slice(box[1], box[3]), slice(box[0], box[2])
