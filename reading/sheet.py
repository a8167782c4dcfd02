"""The digits of one view of a picture: from its connected pieces of ink to whole digits.

What is ambiguous the network decides: which pieces belong together, where touching digits part.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import ndimage

from reading.crops import draw
from reading.groups import (
    LARGEST,
    SMALLEST,
    Group,
    View,
    contains,
    distance,
    draw_mask,
    enclose,
    gap,
    grow,
    name_box,
    trim,
    typical_height,
    unite,
)
from reading.ink import Box, find_mask, label, slices, typical_area, weak_threshold

MAX_DIGITS = 300
SPECK = 0.02  # of a digit's area: smaller pieces are dirt
REACH = 16  # pixels at second sight: what is closer to a digit of first sight may be part of it
STEEP = 0.3  # of how steep sharp edges are: those of smudges and shadows are less
SURE = 0.003  # 1 - confidence: of a group with less the network is sure that it is one digit
WIDER = 1.75, 1.5  # times as wide as most digits, and for its height, is more than one digit
NEAR = 0.25  # of a digit's height: pieces that are closer may belong together

Classify = Callable[[np.ndarray], np.ndarray]


class Sheet:
    """The digits of a picture's ink, as the network sees them best.

    Args:
        ink: float [H, W], 0 for paper.
        classify: maps images uint8 [N, 28, 28] to probabilities [N, classes].
        places: boxes in which there were digits at first sight; () at first sight.
    """

    def __init__(self, ink: np.ndarray, classify: Classify, places: Sequence[Box] = ()) -> None:
        self.ink, self.classify, self.places = ink, classify, places
        self.groups = self.see(self.find_pieces())
        self.height = typical_height(self.groups)
        self.join_all()
        if places and len(self.groups) <= 2 * MAX_DIGITS:
            self.join_pairs()
            self.height = typical_height(self.groups)
            self.part()
        self.dropped: list[Group] = []
        self.drop([not self.is_digit(group) for group in self.groups])
        if places and self.groups:
            steep = self.steepness()
            self.drop(steep < STEEP * np.percentile(steep, 75))  # smudges, shadows, faint lines
            heights = np.array([group.height for group in self.groups])
            strokes = np.array([group.stroke for group in self.groups])
            self.drop((heights > 1.6 * self.height) & (strokes > 2 * np.median(strokes)))  # a pen

    def find_pieces(self) -> list[tuple[Box, np.ndarray]]:
        """Return the connected pieces of ink, the largest first, without specks."""
        labels, boxes = label(find_mask(self.ink))
        areas = np.bincount(labels.ravel())
        least = max(4, SPECK * typical_area(areas, labels))
        chosen = [n for n in boxes if areas[n] >= least]
        if self.places:
            height = np.median([place[3] - place[1] for place in self.places])
            chosen = [
                n
                for n in chosen
                if 0.6 * height < boxes[n][3] - boxes[n][1] < 1.8 * height
                or any(distance(boxes[n], place) < REACH for place in self.places)
            ]
        chosen = sorted(chosen, key=lambda n: -areas[n])[: 3 * MAX_DIGITS]
        return [(boxes[n], labels[slices(boxes[n])] == n) for n in chosen]

    def see(self, pieces: list[tuple[Box, np.ndarray]]) -> list[Group]:
        """Return pieces of ink with their images and the network's confidence in each."""
        if not pieces:
            return []
        images = [draw(self.ink, box, mask) for box, mask in pieces]
        rows = self.classify(np.stack(images))
        return [
            Group(self.ink.shape, box, mask, image, row)
            for (box, mask), image, row in zip(pieces, images, rows, strict=True)
        ]

    # Pieces that belong together

    def join_all(self) -> None:
        """Put few pieces together, near each other, if the network is surer of the whole."""
        if not 1 < len(self.groups) <= 8:
            return
        (whole,) = self.see([unite(self.groups)])
        reach = int(NEAR * whole.height)
        grown = ndimage.maximum_filter(np.pad(whole.mask, reach), reach + 1)
        chained = ndimage.label(grown)[1] == 1
        parts = sum(group.area * self.worth(group) for group in self.groups) / whole.area
        column = whole.height > 3 * max(group.height for group in self.groups)
        large = column or whole.width > 1.5 * whole.height
        if chained and not large and whole.confidence > parts and not self.has_two(whole):
            self.groups, self.height = [whole], whole.height

    def has_two(self, whole: Group) -> bool:
        """Return whether two of its groups seem digits: side by side, or one above the other.

        Or four of them, in rows.
        """
        least = 0.25 * whole.height
        if sum(max(g.mask.shape) > least and g.confidence > 0.5 for g in self.groups) > 3:
            return True
        for pair in combinations(self.groups, 2):
            across, down = (gap(pair[0].box, pair[1].box, axis) for axis in (0, 1))
            low = min(group.height for group in pair) / whole.height
            if across >= 0 and low > 0.75:
                return True
            broad = all(group.width > 0.4 * group.height for group in pair)
            sure = min(map(self.worth, pair)) > 0.9
            slim = whole.height > 2 * max(group.width for group in pair)
            if down >= 0 and low > 0.3 and broad and sure and slim:
                return True
        return False

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
            wholes = self.see([unite(pair) for pair in pairs])
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
        left, top, right, bottom = enclose([first.box, second.box])
        if bottom - top > 2.2 * self.height or right - left > 1.6 * self.height:
            return False
        low = min(first.height, second.height) < SMALLEST * self.height
        above = gap(first.box, second.box, axis=0) < 0
        limit = NEAR * self.height * (1 if low or above else 0.5)
        return distance(first.box, second.box) < limit

    def gain(self, first: Group, second: Group, whole: Group) -> float:
        """Return how much surer the network is of a whole than it should be to prefer the parts."""
        rest, digit = sorted((second, first), key=self.worth)
        if self.worth(rest) == 0:
            below = rest.box[1] >= digit.box[3] and rest.width > 3 * rest.height
            if below and digit.confidence > 0.9:  # underlined
                return -1.0
            return whole.confidence - self.worth(digit) + 0.02
        linked = any(self.was_one(place, first, second) for place in self.places)
        linked = linked or bool(self.weak_labels(first) & self.weak_labels(second))
        above = -gap(first.box, second.box, axis=0) > 0.5 * min(first.width, second.width)
        apart = distance(first.box, second.box)
        linked = linked or (above and (apart < 0 or whole.height < 1.2 * self.height))
        heights = first.height, second.height
        # One above the other, or beside it as the strokes of an open 4.
        near = apart < 0.1 * self.height
        strokes = max(heights) < 0.85 * whole.height or (near and min(heights) < 0.75 * self.height)
        margin = 0.1
        if linked or (strokes and whole.height < 1.25 * self.height):
            margin = -0.05
        elif min(heights) > 0.75 * self.height:  # side by side, each as tall as a digit
            margin = 0.3
        return whole.confidence - self.worth(rest) - margin

    @cached_property
    def weak_pieces(self) -> np.ndarray:
        """Return the numbers of the pieces of all ink, weak ink too, int [H, W]; 0 is paper."""
        return label(self.ink > weak_threshold(self.ink))[0]

    def weak_labels(self, group: Group) -> set[int]:
        """Return in which of these pieces a group is: a pale joint links it to others."""
        return set(self.weak_pieces[slices(group.box)][group.mask].tolist()) - {0}

    @staticmethod
    def was_one(place: Box, first: Group, second: Group) -> bool:
        """Return whether both pieces were about one piece of ink at first sight."""
        both = max(distance(place, first.box), distance(place, second.box)) < 0
        return both and contains(grow(place, REACH), enclose([first.box, second.box]))

    def worth(self, group: Group) -> float:
        """Return the network's confidence in a group among these digits."""
        return group.worth(self.height)

    # Digits that touch

    def part(self) -> None:
        """Part the groups that are several digits."""
        parted = []
        for group in self.groups:
            for part in self.split(group):
                part.unparted = group.confidence
                parted.append(part)
        self.groups = parted

    def split(self, group: Group) -> list[Group]:
        """Return the digits that a group consists of, parted at columns; [group] if it is one.

        Of all ways to part it the one that is least likely wrong, by the sum of its parts'
        1 - confidence (heuristic oversegmentation: LeCun et al., 1998, section V).
        """
        price = self.price(group)
        if price == np.inf:
            return [group]
        ways: dict[int, tuple[float, list[Group]]] = {0: (0.0, [])}  # the best up to each cut
        for (start, stop), part in self.find_parts(group).items():
            if start not in ways:
                continue
            wrong, digits = ways[start]
            wrong = wrong + 1 - part.confidence
            if stop not in ways or wrong < ways[stop][0]:
                ways[stop] = wrong, [*digits, part]
        wrong, digits = ways.get(group.width, (1.0, []))
        return digits if price * wrong < 1 - group.confidence else [group]

    def price(self, group: Group) -> float:
        """Return how many times less likely wrong than a group its parts must be; inf: it is one.

        The wider the group the less. Where the network is sure it is one, whatever its parts.
        """
        width = group.width / min(self.height, (self.height + group.height) / 2)
        if 1 - group.confidence <= SURE and width < 1.5:
            return np.inf
        if width > 4 or (group.contact and not self.places):  # a line, a desk
            return np.inf
        seen = [place for place in self.places if contains(grow(group.box, 3), place)]
        several = sum(place[3] - place[1] > 0.7 * self.height for place in seen) > 1
        if group.height > 1.8 * self.height:  # a 4 or a 9 with a long stem
            return 3.0 if several or width > 1.05 else np.inf
        if several:
            return 1.0
        if width > 1.5 and len(self.groups) > 1:
            return 0.1
        if width > 1.2:
            return 1.0
        return 10.0 if width > 1.05 else np.inf

    def find_cuts(self, group: Group) -> list[int]:
        """Return columns where a group may be parted: in each stretch that with least ink."""
        step = max(3, round(self.height / (10 if self.places else 6)))
        profile = group.mask.sum(axis=0)
        starts = range(step // 2, group.width - step // 2, step)
        thinnest = [start + int(profile[start : start + step].argmin()) for start in starts]
        return [0, *thinnest, group.width]

    def find_parts(self, group: Group) -> dict[tuple[int, int], Group]:
        """Return (start, stop) -> what of a group is between two cuts, if tall enough, by start."""
        left, top, _, bottom = group.box
        spans, pieces = [], []
        for start, stop in combinations(self.find_cuts(group), 2):
            if stop - start >= min(1.5 * self.height, group.width):
                continue
            mask = group.mask[:, start:stop]
            rows = np.flatnonzero(mask.any(axis=1))
            if len(rows) and np.ptp(rows) > 0.6 * self.height:
                spans.append((start, stop))
                pieces.append(trim((left + start, top, left + stop, bottom), mask))
        return dict(zip(spans, self.see(pieces), strict=True))

    # What is a digit

    def is_digit(self, group: Group) -> bool:
        """Return whether a group is as tall as the others, where one was seen, and only a stroke.

        A canvas, a finger, a desk are none.
        """
        if group.is_low(self.height) or group.height > LARGEST * self.height or group.is_surface:
            return False
        if self.places and all(distance(group.box, place) >= 0 for place in self.places):
            wide = 0.4 * group.height < group.width < 1.2 * group.height
            return wide and group.confidence > 0.99 and not group.contact
        contact = group.contact / (group.width + group.height)
        if len(self.groups) == 1 or contact == 0:
            return contact < 0.9  # what has more is a surface, not a stroke
        if group.thickness > 0.8 * self.height:  # a finger
            return False
        alike = 0.7 < group.height / self.height < 1.4 and group.width > 0.4 * group.height
        if alike and group.confidence > 0.95 and contact < 0.5:
            return True
        return group.confidence > 0.6 and group.width > 0.1 * group.height and contact < 0.3

    def may_be_tall(self, group: Group) -> bool:
        """Return whether what is too tall may be a digit, and what is lower are fragments."""
        slim = 0.2 * group.height < group.width < 1.2 * group.height
        tall = LARGEST < group.height / self.height < 2 * LARGEST
        return tall and slim and group.confidence > 0.9 and not group.contact

    @cached_property
    def slopes(self) -> np.ndarray:
        """Return how steep the ink rises at each pixel, float [H, W]."""
        return np.hypot(*(ndimage.sobel(self.ink, axis) for axis in (0, 1)))

    def steepness(self) -> np.ndarray:
        """Return how steep the ink rises at the outline of each group, float [N]."""
        outlines = [group.mask & ~ndimage.binary_erosion(group.mask) for group in self.groups]
        pairs = zip(self.groups, outlines, strict=True)
        return np.array([np.median(self.slopes[slices(g.box)][outline]) for g, outline in pairs])

    def drop(self, unfit: Sequence[bool] | np.ndarray) -> None:
        """Drop the groups [N] that are no digits."""
        pairs = list(zip(self.groups, unfit, strict=True))
        self.dropped += [group for group, is_unfit in pairs if is_unfit]
        self.groups = [group for group, is_unfit in pairs if not is_unfit]

    def quality(self, grey: np.ndarray, dark: bool) -> float:
        """Return the share of sure ink; half if it is like the paper in a picture [H, W]."""
        share = self.share()
        if not share:
            return 0.0
        whole = (0, 0, *grey.shape[::-1])
        digits, dropped = draw_mask(self.groups, whole), draw_mask(self.dropped, whole)
        contrast = np.median(grey[~(digits | dropped)]) - grey[digits].mean()
        least = 0.2 * np.ptp(np.percentile(grey, [1, 99]))
        return share if (contrast if dark else -contrast) > least else share / 2

    def share(self) -> float:
        """Return the share of the ink of which the network is sure.

        Blurred ink counts less, as it is shadow, and so does what lies along the border. What was
        dropped counts little, and least at the border, where there may be a desk, and in lines.
        """
        if not self.groups:
            return 0.0
        sharpest = float(np.percentile(self.slopes, 99.8))
        clear = np.minimum(1, self.steepness() / max(STEEP * sharpest, 1e-9))
        sure = np.array([group.area * self.worth(group) for group in self.groups])
        bad = sum(g.area * (0.02 if g.contact or g.is_line else 0.3) for g in self.dropped)
        ink = sum(group.area for group in self.groups)
        along_border = sum(g.area for g in self.groups if g.contact > 3 * g.stroke)
        share = float(clear @ sure) / (ink + bad) * (0.8 if along_border > ink / 2 else 1)
        return share * (1 - sum(group.contact for group in self.groups) / (2 * sum(self.ink.shape)))

    def left_out(self) -> Iterator[Box]:
        """Yield where ink was left out that may be a digit: much smaller ones if they are many.

        A stroke that the border cuts off is named if it is about as tall as the digits are,
        whatever the network says.
        """
        no_lines = [group for group in self.dropped if not group.is_line]
        sure = {group for group in no_lines if group.confidence > 0.9}
        small = sum(0.15 < group.height / self.height <= 0.3 for group in sure)
        least = 0.15 if small > 2 else 0.3
        for group in no_lines:
            height = group.height / self.height
            if self.is_cut(group) or (group in sure and least < height < 2 * LARGEST):
                yield group.box

    def is_cut(self, group: Group) -> bool:
        """Return whether a group is a stroke at the border, about as tall as the digits are."""
        stroke = 0 < group.contact < 0.5 * (group.width + group.height)
        alike = 0.6 < group.height / self.height < 1.4
        return stroke and alike and group.thickness < 0.4 * group.height

    def unread(self, view: View) -> Iterator[str]:
        """Yield where more ink is no digit than is one, that at the border apart."""
        ink = [group for group in self.groups + self.dropped if not group.contact]
        least = 0.5 if len(self.groups) == 1 else 0.0  # of several, the uncertain ones are shown
        unread = [g for g in ink if g in self.dropped or self.worth(g) < least]
        if sum(group.area for group in unread) > 0.5 * sum(group.area for group in ink):
            where = name_box(view.place(enclose(group.box for group in unread)))
            yield f"much ink was not read, or is no digit, at {where}"

    def doubtful(self, view: View) -> Iterator[str]:
        """Yield where digits may be several, or not whole."""
        sizes = np.array([(group.width, group.width / group.height) for group in self.groups])
        broad = sizes[sizes[:, 1] > 0.35]  # the 1s aside
        typical = np.median(broad, axis=0) if len(broad) > 3 else np.full(2, np.inf)
        for group, size in zip(self.groups, sizes, strict=True):
            is_wide = (size > typical * WIDER).all()
            if is_wide or group.width > 1.5 * self.height or group.height > 1.7 * self.height:
                yield f"this may be more than one digit: {name_box(view.place(group.box))}"
            if len(self.groups) > 1 and group.contact:
                yield f"a digit is cut off by the edge, at {name_box(view.place(group.box))}"
