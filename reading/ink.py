"""Ink in a picture: how it is distinguished from paper, and its connected pieces.

Ink and masks are arrays [H, W], boxes (left, top, right, bottom) in pixels.
"""

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from PIL.ImageChops import darker, lighter
from scipy import ndimage, spatial

COPY = 1000  # pixels: the longer side of the copy that tells how ink stands out most
BETTER = 1.2  # times as much as in brightness must ink stand out elsewhere, see to_grey()
FAINT = 6  # standard deviations of the paper's noise below which nothing counts as ink
WEAK = 0.25  # of the strongest ink: what is weaker is smudge, shadow or print from behind
WIDE = 2.5  # times as wide as tall: two touching digits are narrower
SAME = 0.15  # relative difference of two boxes' sides, at most
EQUAL = 0.1  # relative difference of what is printed alike, at most
INSIDE = 0.1  # of a circle's ink: more is within it if there is a digit
ROUNDED = 0.85  # of its box is filled by a rectangle, its corners rounded; 0.79 by an ellipse
RECTANGLE = 0.93  # is filled by a rectangle, slightly askew; the squarest of 7,000 0s fills 0.91
LEAST = 16  # pixels: the sides of boxes; a smaller 0 may seem square
CELLS = 5  # an 8 has two, and its strokes may enclose a few more
EDGES = 0.01, 0.02  # relative change of brightness per pixel: more is an edge
SHARP = 0.88  # of a sheet's brightness: it is darker beyond the edge

Box = tuple[int, int, int, int]


def to_grey(picture: Image.Image) -> Image.Image:
    """Return a picture RGB in grey, mode L, so that ink stands out most from noise.

    That is its brightness, or at each pixel the darkest or the brightest of red, green and blue: in
    these coloured ink is dark, or bright, as black or white ink is.
    """
    bands = picture.split()
    greys = [picture.convert("L"), reduce(darker, bands), reduce(lighter, bands)]
    step = max(1, max(picture.size) // COPY)
    strengths = [_strength(np.asarray(grey.reduce(step), np.float32)) for grey in greys]
    best = int(np.argmax(strengths))
    return greys[best if strengths[best] > BETTER * strengths[0] else 0]


def look(picture: Image.Image, region: Box, scale: float) -> np.ndarray:
    """Return a region of a picture L at a scale, float [H, W]."""
    size = [max(1, round(scale * (region[axis + 2] - region[axis]))) for axis in (0, 1)]
    method = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return np.asarray(picture.resize(size, method, box=region, reducing_gap=3), np.float32)


def _strength(channel: np.ndarray) -> float:
    """Return the contrast of details in a channel [H, W], in units of its noise."""
    detail = channel - ndimage.uniform_filter(channel, max(3, max(channel.shape) // 8))
    detail = ndimage.uniform_filter(detail, 3)[::2, ::2]
    noise = np.median(np.abs(detail - np.median(detail)))
    low, high = np.percentile(detail, [0.2, 99.8])
    return float((high - low) / (noise + 1))


def find_sheet(grey: np.ndarray) -> np.ndarray | None:
    """Return which pixels of a picture [H, W] are on the one bright sheet in it; None without one.

    A sheet is large, even but for what is on it, convex, and darker beyond its edge, however the
    light falls on it and on the desk.
    """
    smooth = ndimage.gaussian_filter(grey, 2)
    square, width = np.ones((3, 3)), max(2, max(grey.shape) // 100)
    for piece in _even_pieces(smooth):
        sheet = ndimage.binary_opening(ndimage.binary_fill_holes(piece), square, width // 2)
        if not 0.2 < sheet.mean() < 0.98 or piece.sum() < 0.5 * sheet.sum():
            continue
        outline = np.argwhere(sheet & ~ndimage.binary_erosion(sheet, square))
        convexity = sheet.sum() / spatial.ConvexHull(outline).volume
        if convexity < 0.95:
            continue
        beside = ndimage.binary_dilation(~sheet, square, iterations=width)
        edge = ndimage.binary_dilation(sheet, square, iterations=6)
        beyond = ndimage.binary_dilation(edge, square, iterations=width) & ~edge
        if beside.all() or not beyond.any():
            continue
        if np.median(smooth[beyond]) < SHARP * np.median(smooth[sheet & beside]):
            return ~beside
    return None


def _even_pieces(smooth: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pieces of a picture [H, W] without edges, weak ones or strong ones: the largest."""
    slope = np.hypot(*(ndimage.sobel(np.log(smooth + 8), axis) / 8 for axis in (0, 1)))
    for edge in EDGES:
        labels, _ = label(slope < edge)
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        for largest in np.argsort(-areas)[:3]:
            yield labels == largest


def find_paper(grey: np.ndarray, size: float) -> np.ndarray:
    """Return the paper under dark ink, with its shadows: a morphological closing, smoothed."""
    step = max(1, int(size / 12))  # a small picture will do, for so smooth a thing
    small = np.asarray(Image.fromarray(grey).reduce(step), np.float32)
    window = max(3, round(size / step))
    padded = np.pad(small, window, mode="symmetric")
    closed = ndimage.grey_closing(padded, (window, window))[window:-window, window:-window]
    closed = Image.fromarray(ndimage.gaussian_filter(closed, 1.5))
    return np.asarray(closed.resize(grey.shape[::-1], Image.Resampling.BILINEAR), np.float32)


def find_ink(
    grey: np.ndarray, size: float, dark: bool, scale: float, height: float = 0
) -> np.ndarray:
    """Return how much darker (or brighter) than its surroundings a picture is, float [H, W].

    Args:
        grey: float [H, W], 0 to 255.
        size: pixels; strokes must be narrower, shadows wider. 0: the whole picture has one light.
        dark: whether the ink is darker than the paper.
        height: pixels that digits are tall; 0 if that is not known yet.
    """
    smooth = ndimage.gaussian_filter(grey if dark else 255 - grey, max(1, 0.5 * scale))
    bright = smooth[smooth >= otsu(smooth.ravel())]
    paper = find_paper(smooth, size) if size else np.median(bright)
    ink = (paper - smooth) / (np.maximum(paper, 16) if dark else 255)
    ink = np.clip(ink, -1, 1)
    return remove_lines(remove_tables(ink, height))


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
    return np.where(ndimage.maximum_filter(mask, 5), 0, ink)


def remove_tables(ink: np.ndarray, height: float) -> np.ndarray:
    """Return ink [H, W] without the lines of forms and tables, and without boxes around digits.

    Args:
        ink: float [H, W].
        height: pixels that digits are tall; if 0, only what seems a table is searched for lines.
    """
    if height:
        ink = remove_long_lines(ink, ink > weak_threshold(ink), 4 * height)
    labels, boxes = label(find_mask(ink))
    frames = find_frames(labels, boxes)
    if frames.any():  # before their flat parts are taken for lines
        ink = erase(ink, frames)
        labels, boxes = label(find_mask(ink))
    for find, length in ((find_tables, 1.5), (find_rows, WIDE)):
        pieces, tall = find(labels, boxes)
        if pieces:
            ink = remove_long_lines(ink, np.isin(labels, pieces), length * tall)
            labels, boxes = label(find_mask(ink))
    tables, _ = find_tables(labels, boxes)
    return erase(ink, np.isin(labels, tables)) if tables else ink


def remove_long_lines(ink: np.ndarray, mask: np.ndarray, length: float) -> np.ndarray:
    """Return ink [H, W] without the straight lines of a mask bool [H, W], and what joins them.

    Where a digit crosses a line its strokes stay: they are longer, across the line, than it is
    thick (Dalitz et al., 2008, A Comparative Study of Staff Removal Algorithms: line track height).

    Args:
        ink: float [H, W].
        mask: where its lines are searched for.
        length: pixels; lines are longer, and may be dashed.
    """
    level, upright = (_find_lines(mask, length, axis) for axis in (0, 1))
    lines = level | upright
    if not lines.any():
        return ink
    inside = ndimage.distance_transform_edt(mask)
    thin = _without_strokes(mask, inside, level, 0) | _without_strokes(mask, inside, upright, 1)
    if thin.any():
        thin &= ink < 2 * np.median(ink[thin])  # much darker is a stroke on a line
    labels, boxes = label(mask & ~thin)
    # Where lines cross each other they are longer too.
    rest = np.bincount(labels.ravel(), lines.ravel()) > 0.6 * np.bincount(labels.ravel())
    rest[0] = False
    for n in np.flatnonzero(rest).tolist():
        if min(_size(boxes[n])) > length / 2:  # a bold grid: a digit may touch it
            rest[n] = False
            grid = lines & (labels == n)
            width = 1 + 2 * round(2 * np.median(inside[grid]))
            thin |= (labels == n) & ndimage.maximum_filter(grid, width)
    bars = _find_bars(labels, boxes, thin, length / 12)
    if bars:
        sizes = np.array([_size(boxes[n]) for n in bars])
        axis = int(sizes[:, 1].sum() > sizes[:, 0].sum())  # 1: they are upright
        sides = _find_lines(np.isin(labels, bars), 0.9 * np.median(sizes[:, axis]), axis)
        thin |= _without_strokes(mask, inside, sides, axis)  # of digits that touch them
        rest[np.setdiff1d(bars, labels[sides])] = True  # not quite straight
    return erase(ink, thin | rest[labels])


def _find_lines(mask: np.ndarray, length: float, axis: int) -> np.ndarray:
    """Return which pixels of a mask [H, W] are in lines, level (0) or upright (1)."""
    return _find_level_lines(mask.T, length).T if axis else _find_level_lines(mask, length)


def _without_strokes(
    mask: np.ndarray, inside: np.ndarray, lines: np.ndarray, axis: int
) -> np.ndarray:
    """Return lines bool [H, W] without the strokes that cross them, level (0) or upright (1) lines.

    Args:
        mask: in which the lines are.
        inside: how far each of its pixels is from its edge, float [H, W].
    """
    if not lines.any():
        return lines
    size = [1, 1]
    size[axis] = 2 + round(1.5 * max(1, 4 * np.median(inside[lines]) - 2))
    return lines & ~ndimage.grey_opening(mask, size, mode="constant")


def _find_bars(
    labels: np.ndarray, boxes: dict[int, Box], lines: np.ndarray, least: float
) -> list[int]:
    """Return which pieces are sides of boxes or teeth of combs: three bars or more, as long.

    A side reaches from line to line; a tooth stands on one, and is much lower than digits are.

    Args:
        labels, boxes: of the pieces, see label().
        lines: where there were lines, bool [H, W].
        least: pixels that bars are long at least.
    """
    beside = ndimage.maximum_filter(lines, 5)
    heights = np.array([bottom - top for _, top, _, bottom in boxes.values()])
    low = 0.6 * ink_median(heights, np.bincount(labels.ravel())[1:]) if boxes else 0
    sides, teeth = [], []
    for n, box in boxes.items():
        wide, tall = sorted(_size(box))
        if tall <= least or wide >= 0.4 * tall:
            continue
        bar = (labels[slices(box)] == n) & beside[slices(box)]
        bar = bar if len(bar) == tall else bar.T  # upright
        end = max(1, tall // 8)
        joined = int(bar[:end].any()) + int(bar[-end:].any())
        if joined == 2 or (joined == 1 and tall < low):
            sides.append(n)
        elif joined == 1:
            teeth.append(n)
    bars = sides + (teeth if are_teeth([boxes[n] for n in teeth]) else [])
    lengths = np.array([max(_size(boxes[n])) for n in bars])
    alike = [n for n, apart in zip(bars, _apart(lengths), strict=True) if apart < 0.2]
    return alike if len(alike) > 2 else []


def _apart(sizes: np.ndarray) -> np.ndarray:
    """Return how far sizes are from their median, relative to it."""
    typical = np.median(sizes) if len(sizes) else 1.0
    return np.abs(sizes / typical - 1)


def are_teeth(boxes: list[Box]) -> bool:
    """Return whether boxes are print: four or more of one length, at equal distances."""
    lengths = np.array([max(_size(box)) for box in boxes])
    corners = np.array(boxes).reshape(-1, 4)[_apart(lengths) < EQUAL, :2]
    if len(corners) < 4:
        return False
    nearest = spatial.KDTree(corners).query(corners, 2)[0][:, 1]
    return float((_apart(nearest) < EQUAL).mean()) > 0.7


def _size(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _find_level_lines(mask: np.ndarray, length: float) -> np.ndarray:
    """Return which pixels of a mask [H, W] are in lines from left to right, askew by up to 8°.

    The mask is sheared until a line is level, three pixels wide; nine tenths of it are ink.
    """
    step = max(1, round(length / 128))  # a smaller copy will do
    small = np.pad(mask, [(0, -size % step) for size in mask.shape])
    small = small.reshape(small.shape[0] // step, step, -1, step).max(axis=(1, 3))
    columns = np.arange(small.shape[1])
    window = max(5, round(length / step))
    lines = np.zeros(small.shape, bool)
    for slope in np.tan(np.radians(np.arange(-8, 8.1))):
        shift = np.round(slope * (columns - columns.mean())).astype(int)
        sheared = _shear(small, shift)
        long = sheared.sum(axis=1) > 0.9 * window  # the other rows need no look
        full = _moving_sums(sheared[long], window) > 0.9 * window
        if full.any():
            runs = np.zeros(small.shape, bool)
            runs[long] = _moving_sums(full, window)[:, window - 1 : 1 - window] > 0
            thick = runs.copy()
            thick[1:] |= runs[:-1]
            thick[:-1] |= runs[1:]
            lines |= _shear(thick & sheared, -shift)
    return lines.repeat(step, 0).repeat(step, 1)[: mask.shape[0], : mask.shape[1]] & mask


def _moving_sums(values: np.ndarray, window: int) -> np.ndarray:
    """Return the sums of so many neighbours in rows [H, W], int [H, W + window - 1]; 0 beyond."""
    sums = np.pad(values, ((0, 0), (window, window - 1))).cumsum(axis=1, dtype=np.int32)
    return sums[:, window:] - sums[:, :-window]


def _shear(mask: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return a mask [H, W] with each column moved up by shift [W], around the top."""
    sheared, twice = np.empty_like(mask), np.tile(mask, (2, 1))
    starts = np.flatnonzero(np.diff(shift)) + 1
    for left, right in pairwise([0, *starts, len(shift)]):  # columns that move together
        top = shift[left] % len(mask)
        sheared[:, left:right] = twice[top : top + len(mask), left:right]
    return sheared


def find_rows(labels: np.ndarray, boxes: dict[int, Box]) -> tuple[list[int], float]:
    """Return which pieces may be digits on a line, and how tall they are.

    Those are about as tall as others, and much wider; the bar of a 5 is not, as it is filled.
    """
    if not boxes:
        return [], 0.0
    edges, areas = np.array([*boxes.values()]), np.bincount(labels.ravel())[1:]
    widths, heights = (edges[:, 2:] - edges[:, :2]).T
    is_row = heights > max(8, 0.5 * ink_median(heights, areas))
    is_row &= (widths > WIDE * heights) & (areas < 0.5 * widths * heights)
    return list(np.flatnonzero(is_row) + 1), max(heights[is_row], default=0.0)


def find_tables(labels: np.ndarray, boxes: dict[int, Box]) -> tuple[list[int], float]:
    """Return which pieces are hollow with digits in their box, or as large; and how tall these are.

    What is lower than a fourth of a piece is a digit only if there are many, or the piece has many
    cells: else it is dirt in a 0, or the bar of a 5.
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
    hollow, full = areas < 0.5 * widths * heights, within.any(axis=1)
    is_table = hollow & (many | (tallest > heights / 4))
    for index in np.flatnonzero(hollow & full):
        piece = labels[slices(boxes[chosen[index]])] == chosen[index]
        if not is_table[index]:  # few digits, or bold lines
            cells = _hole_areas(piece) > piece.size / 500  # others are specks
            is_table[index] = cells.sum() > CELLS
        is_table[index] = is_table[index] and not _is_shade(piece)
    return [chosen[index] for index in np.flatnonzero(is_table)], height


def _is_shade(mask: np.ndarray) -> bool:
    """Return whether a piece is a third as wide as its box, as dark borders are, but no line."""
    width = 2 * ndimage.distance_transform_edt(mask).max() - 2  # blurred, a line is wider
    return bool(3 * width > min(mask.shape))


def _hole_areas(mask: np.ndarray) -> np.ndarray:
    """Return the areas of a piece's holes, int [N]."""
    return np.bincount(ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)[0].ravel())[1:]


def find_frames(labels: np.ndarray, boxes: dict[int, Box]) -> np.ndarray:
    """Return the outlines of boxes and circles around digits, and of those like them, [H, W].

    Where there are frames, others as large are frames too, though they are empty or a digit touches
    them. A 0 may be as large as a circle is, but it is empty; it is not as square as an empty box.
    Of a table that is askew all is returned, as its lines would not be found.
    """
    frames = np.zeros(labels.shape, bool)
    tables, _ = find_tables(labels, boxes)
    sizes = []
    for n in tables:
        piece = labels[slices(boxes[n])] == n
        outline, holes = find_outline(piece), _hole_areas(piece)
        if outline.any() and holes.max() > 0.6 * holes.sum():  # one cell
            frames[slices(boxes[n])] |= outline
            sizes.append(_size(boxes[n]))
        elif outline.any() and _is_oblique(piece):
            frames[slices(boxes[n])] |= piece
    for n in boxes.keys() - set(tables):
        if min(_size(boxes[n])) < LEAST:
            continue
        piece = labels[slices(boxes[n])] == n
        outline = find_outline(piece)
        if not outline.any() or _is_shade(piece):
            continue
        filled = ndimage.binary_fill_holes(piece).mean()
        apart = np.abs(np.array(sizes).reshape(-1, 2) - _size(boxes[n])) / _size(boxes[n])
        alike = (apart.max(axis=1) < SAME).any()
        touched = (piece & ~outline).sum() > INSIDE * outline.sum()
        if filled > (ROUNDED if alike else RECTANGLE) or (alike and touched):
            frames[slices(boxes[n])] |= outline
    return frames


def _is_oblique(mask: np.ndarray) -> bool:
    """Return whether the corners of a piece's box are empty, as a table's are that is askew."""
    filled = ndimage.binary_fill_holes(mask)
    y, x = (size // 10 for size in filled.shape)
    return not filled[np.ix_((y, -1 - y), (x, -1 - x))].any()


def find_outline(mask: np.ndarray) -> np.ndarray:
    """Return the closed outline of a piece [h, w], without digits that touch it; or nothing.

    It fills more than half of its box, and is as wide as from its edge inwards a third is ink.
    """
    filled = ndimage.binary_fill_holes(mask)
    if filled.mean() < 0.6:
        return np.zeros_like(mask)
    depth = ndimage.distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1]
    levels = depth.astype(int).ravel()
    all_pixels, inked = np.bincount(levels), np.bincount(levels, mask.ravel())
    thin = np.flatnonzero(inked < 0.3 * all_pixels)  # not those levels that have no pixels
    thin = thin[(thin > 0) & (thin < max(2, depth.max() / 2))]
    return mask & (depth < 1.3 * thin[0] + 1) if len(thin) else np.zeros_like(mask)


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
    if best.max() <= 0.05 * ink.max():  # noise
        return ink
    best = ndimage.maximum_filter1d(best, 3)  # between two rows a line seems fainter than it is
    starts = -np.round(best_slope * np.arange(width)).astype(int) % height
    lines = sliding_window_view(np.tile(best, 2), height)[starts].T.copy()
    return np.where(ink > 0, np.maximum(ink - lines, 0), ink)


def weak_threshold(ink: np.ndarray) -> float:
    """Return above what ink [H, W] is no noise, and no smudge beside the strongest; inf if none is.

    The noise is that of the quietest pixels, which have no ink.
    """
    detail = np.abs(ink - ndimage.uniform_filter(ink, 9))
    floor = max(FAINT * float(np.quantile(detail, 0.2)) / 0.25, 0.015)
    bright = ink[ink > floor]
    if bright.size < 4:
        return np.inf
    strong = bright[bright >= min(otsu(bright), bright.max())].mean()
    return max(floor, WEAK * float(strong))


def find_mask(ink: np.ndarray) -> np.ndarray:
    """Return which pixels of ink [H, W] are ink: hysteresis, relative to the stroke around them.

    What is connected above a weak threshold is cut again at half of its own mean, so that pencil
    and felt pen may be on one sheet.
    """
    mask = ink > weak_threshold(ink)
    labels, values = ndimage.label(mask, np.ones((3, 3)))[0][mask], ink[mask]
    means = np.bincount(labels, values) / np.maximum(np.bincount(labels), 1)
    mask[mask] = values > 0.55 * means[labels]
    return mask


# --- Pieces -------------------------------------------------------------------------------------


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
