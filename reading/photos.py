"""Handwritten digits found in a picture, as 28x28 images like MNIST's.

A picture is looked at twice: first as a whole, to see where its digits are, how tall, and whether
their ink is dark or bright; then so that they are about 64 pixels tall, whatever its own size.
Which ink is ink the network decides: it should be sure of much of it.
"""

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from PIL import Image

from reading.crops import SIDE, crop, draw
from reading.groups import (
    SMALLEST,
    Digit,
    Group,
    Reading,
    View,
    distance,
    enclose,
    grow,
    in_lines,
    name_box,
)
from reading.ink import Box, find_ink, find_sheet, label, look, slices, to_grey
from reading.pictures import is_mnist
from reading.sheet import MAX_DIGITS, Classify, Sheet

FIRST_SIDES = 320, 1000  # pixels: a picture's longer side at first sight; smaller up to 8 times
HEIGHT = 64  # pixels that a digit is tall at second sight
WORKING_PIXELS = 3_000_000  # at most, at second sight
UPRIGHT = 5.2  # most pictures are rated higher, see read(), and on their side lower
MANY = 6  # digits: of fewer it is hard to say which way up they are
ENOUGH = 0.9  # of the ink in what the network is sure of: no other ink is tried then
GRAIN = 8  # pixels: what is lower on a sheet at first sight is no digit
NAMED = 5  # boxes at most: of a texture there would be hundreds
LEAST = 0.02  # of the ink in what the network is sure of: below it there are no digits


def find_cut_out(picture: Image.Image, classify: Classify) -> Digit | None:
    """Return the digit of a picture in two tones that was cut along its outline, else None.

    It is one piece of ink that reaches all four sides, but not all four corners as a frame does.
    """
    small = picture.reduce(max(1, max(picture.size) // 500))
    grey = np.asarray(small, np.float32)
    low, high = np.percentile(grey, [1, 99])
    bright = (grey - low) / max(high - low, 1)
    if ((bright > 0.25) & (bright < 0.75)).mean() > 0.2 or picture.width > 1.5 * picture.height:
        return None
    for ink in (bright, 1 - bright):
        mask = ink > 0.5
        labels, boxes = label(mask)
        largest = int(np.argmax(np.bincount(labels.ravel(), mask.ravel())))
        piece, whole = labels == largest, (0, 0, *small.size)
        corners = piece[[0, 0, -1, -1], [0, -1, 0, -1]].all()
        spans = boxes.get(largest) == whole
        if spans and not corners and 0.95 * mask.sum() < piece.sum() < 0.7 * mask.size:
            image = draw(ink, whole, piece)
            (shares,) = classify(image[None])
            return Digit((0, 0, *picture.size), image, shares) if shares.max() > 0.9 else None
    return None


@dataclass
class Sight:
    """How ink is distinguished from paper in a picture seen whole, and what is seen then."""

    grey: np.ndarray  # the picture, float [H, W]
    sheet: Sheet
    dark: bool
    local: bool  # whether it stands out from its surroundings, else from the whole picture
    paper: np.ndarray | None = None  # beyond which nothing counts, bool [H, W]; None: all counts
    wider: Sheet | None = None  # the same with wider strokes, if only narrow ones are ink

    @cached_property
    def quality(self) -> float:
        """Return the share of the ink of which the network is sure."""
        if self.paper is not None:
            return self.sheet.share()
        return self.sheet.quality(self.grey, self.dark)

    @property
    def is_doubtful(self) -> bool:
        """Whether the digits may be a desk: one alone, or at the border, or fewer than dropped."""
        groups, dropped = self.sheet.groups, self.sheet.dropped
        at_border = sum(group.area for group in groups if group.contact)
        others = [g for g in dropped if g.confidence > 0.9 and not g.is_line and not g.contact]
        mostly = at_border > sum(group.area for group in groups) / 2
        return len(groups) == 1 or mostly or len(others) > len(groups)

    def is_beyond(self, group: Group) -> bool:
        """Return whether a group of this picture is like the digits, but beyond the paper."""
        if self.paper is None or (group.mask & self.paper[slices(group.box)]).any():
            return False
        height = group.height / self.sheet.height
        thickness = group.thickness / np.median([digit.thickness for digit in self.sheet.groups])
        alike = 0.6 < height < 1.6 and 0.7 < thickness < 1.3 and not group.contact
        return alike and group.confidence > 0.95 and group.width > 0.3 * group.height

    def turn(self, quarters: int) -> "Sight":
        """Return the same ink turned to the left by quarters, as the network sees it then."""

        def turned(sheet: Sheet) -> Sheet:
            return Sheet(np.rot90(sheet.ink, quarters), sheet.classify)

        paper = None if self.paper is None else np.rot90(self.paper, quarters)
        wider = turned(self.wider) if self.wider else None
        grey = np.rot90(self.grey, quarters)
        return Sight(grey, turned(self.sheet), self.dark, self.local, paper, wider)


def first_sight(picture: Image.Image, view: View, classify: Classify) -> Sight:
    """Return how ink is best distinguished from paper.

    The ink is dark or bright, and stands out from its surroundings, wide or narrow, or from the
    whole picture; or it is on a bright sheet or a dark canvas, beyond which nothing counts.
    """
    grey = look(picture, view.region, view.scale)
    best: Sight | None = None
    seen: list[Sight] = []  # of few groups

    @cache
    def find(parts: int, dark: bool) -> np.ndarray:
        return find_ink(grey, max(grey.shape) / parts if parts else 0, dark, view.scale)

    @cache
    def see(parts: int, dark: bool) -> Sheet:
        return Sheet(find(parts, dark), classify)

    for parts in (3, 8, 16, 0):
        for dark in (True, False):
            wider = see(8, dark) if parts == 16 else None
            sight = Sight(grey, see(parts, dark), dark, parts > 0, wider=wider)
            if parts == 3 and dark:
                canvas = any(group.is_surface for group in sight.sheet.dropped)
            if len(sight.sheet.groups) < MANY:
                seen.append(sight)
            margin = 0.1 if wider else 0.02  # bold strokes fall into pieces that seem digits
            if best is None or sight.quality > best.quality + margin:
                best = sight
            if best.dark and best.quality > ENOUGH and (view.scale > 1 or not best.is_doubtful):
                return best  # bright ink was never seen better then
        assert best is not None
        if parts == 3:  # what is bright may be the sheet itself, what is dark a canvas
            for dark in (True, False) if canvas else (True,):
                if found := on_sheet(grey, find, classify, dark, best):
                    return found
        if best.quality > ENOUGH:
            return best
    assert best is not None
    for sight in seen:
        if best.quality > ENOUGH:
            break
        parted = copy(sight.sheet)
        parted.part()  # where most digits touch each other little is sure before
        if len(parted.groups) > len(sight.sheet.groups):
            sight = replace(sight, sheet=parted)
            best = sight if sight.quality > best.quality + 0.02 else best
    return best


def on_sheet(
    grey: np.ndarray,
    find: Callable[[int, bool], np.ndarray],
    classify: Classify,
    dark: bool,
    best: Sight,
) -> Sight | None:
    """Return what is on the one sheet in a picture [H, W]; None without one, or if less is.

    It is bright if the ink is dark, or else dark, as a canvas in a screenshot is. It is seen in
    three ways, as shadows on it may be wide or narrow.

    Args:
        find: returns the ink that stands out from a given part of the picture, dark or bright.
        dark: whether the ink is.
        best: what is seen without regard to the sheet.
    """
    paper = find_sheet(grey if dark else 255 - grey)
    if paper is None:
        return None
    sheets = [Sheet(np.where(paper, find(parts, dark), 0), classify) for parts in (16, 8, 3)]
    size = np.array([paper.any(axis=axis).sum() for axis in (1, 0)])
    sights = [
        Sight(grey, sheet, dark, True, paper)
        for sheet in sheets
        # What is as large as the sheet is the shade along its edge.
        if not any((group.mask.shape > 0.9 * size).all() for group in sheet.groups)
    ]
    if not sights:
        return None
    found = max(sights, key=lambda sight: sight.quality)
    least = max(0.8, best.quality)
    if best.is_doubtful and len(found.sheet.groups) > len(best.sheet.groups):
        least = 0.5 if best.quality < ENOUGH else 0.8
    if found.quality <= least or found.sheet.height < GRAIN:
        return None
    beyond = sum(found.is_beyond(group) for group in best.sheet.groups)
    is_fold = beyond > len(found.sheet.groups) / 8  # in the paper, with digits on both sides
    return None if is_fold else found


def look_closer(picture: Image.Image, view: View, sight: Sight) -> tuple[View, Sheet]:
    """Return where digits that were seen are, so enlarged that they are about 64 pixels tall.

    What the border of that region cuts through may be a digit, too: it is looked at whole.
    """
    sheet = sight.sheet
    low = 0.2 * sheet.height, SMALLEST * sheet.height
    fragments = [g for g in sheet.dropped if low[0] < g.height < low[1] and not g.contact]
    tall = [group for group in sheet.dropped if sheet.may_be_tall(group)]
    seen = sheet.groups + fragments + tall  # fragments may turn out to be parts of one digit
    places = [view.place(group.box) for group in seen]
    region = view.place(enclose(group.box for group in sheet.groups + tall), sheet.height)
    whole = View(picture.size, (0, 0, *picture.size), 1)
    margin = round(2 * sheet.height / view.scale)
    for _ in range(4):  # at most, as a line may be cut through each time
        closer, found = look_at(picture, region, view, sight, places)
        cut = [closer.place(group.box) for group in found.groups + found.dropped
               if found.is_cut(group)]  # fmt: skip
        larger = whole.place(enclose([region, *(grow(box, margin) for box in cut)]))
        if larger == region:
            break
        region, places = larger, places + cut
    return closer, found


def look_at(
    picture: Image.Image, region: Box, view: View, sight: Sight, places: list[Box]
) -> tuple[View, Sheet]:
    """Return a region of a picture that was seen in a view, and what is at places in it."""
    sheet = sight.sheet
    pixels = (region[2] - region[0]) * (region[3] - region[1])
    scale = min(view.scale * HEIGHT / sheet.height, (WORKING_PIXELS / pixels) ** 0.5)
    closer = View(picture.size, region, scale)
    size = 0.6 * HEIGHT if sight.local else 0
    ink = find_ink(look(picture, region, scale), size, sight.dark, scale, HEIGHT)
    if sight.paper is not None:
        box = crop(sight.paper, view.find(region))
        ink *= np.asarray(Image.fromarray(box).resize(ink.shape[::-1]), bool)
    return closer, Sheet(ink, sheet.classify, [closer.find(place) for place in places])


def find_digits(picture: Image.Image, classify: Classify) -> Reading:
    """Return the digits of a picture RGB in reading order; there may be up to 300.

    A sheet that was photographed sideways or upside down is turned first, see Reading.

    Args:
        picture: of any size.
        classify: maps images uint8 [N, 28, 28] to probabilities float [N, classes].

    Raises:
        ValueError: if there are none or more; its text says so.
    """
    if is_mnist(picture):
        image = np.array(picture.convert("L"))
        return Reading([Digit((0, 0, SIDE, SIDE), image, *classify(image[None]))], [])
    picture = to_grey(picture)
    if digit := find_cut_out(picture, classify):
        return Reading([digit], [])
    view, sight = see_whole(picture, classify)
    reading, rating = read(picture, view, sight)
    if rating > UPRIGHT:
        return reading
    turned, lies = picture, False
    for quarters in (1, 2, 3):
        turned = turned.transpose(Image.Transpose.ROTATE_90)
        view = View(turned.size, (0, 0, *turned.size), view.scale)
        with suppress(ValueError):  # no digits this way up
            other, other_rating = read(turned, view, sight.turn(quarters))
            if other_rating <= rating + 1:
                continue
            if len(other.digits) < MANY:
                lies |= len(other.digits) > 1
            else:
                degrees = 90 * quarters
                note = f"turned by {degrees} degrees to the left, where its digits are upright"
                reading = Reading(other.digits, [note, *other.warnings], degrees)
                rating = other_rating
        if rating > UPRIGHT + 1:
            break  # none is rated so much higher
    if lies and not reading.turned and len(reading.digits) > 1:
        reading.warnings.append("this may lie on its side or upside down; turn it if it does")
    return reading


def see_whole(picture: Image.Image, classify: Classify) -> tuple[View, Sight]:
    """Return a picture as a whole: how it is scaled, and what is seen then."""
    width, height = picture.size
    longest = min(max(picture.size), 2 * (width * height) ** 0.5)  # a strip is seen larger
    scale = min(FIRST_SIDES[1] / longest, max(1.0, min(8.0, FIRST_SIDES[0] / longest)))
    view = View(picture.size, (0, 0, *picture.size), scale)
    return view, first_sight(picture, view, classify)


def read(picture: Image.Image, view: View, sight: Sight) -> tuple[Reading, float]:
    """Return the digits of a picture as it is, see find_digits(), and how upright they seem.

    That is the share of the ink of which the network is sure times the mean of -log(1 - p) over the
    digits, p being its confidence: it is confident of digits on their side too, but less so.
    """
    sheet = sight.sheet
    if sight.quality < LEAST or not sheet.groups:
        raise ValueError("no ink found; show nothing but paper, closer, in dark ink or in chalk")
    looks = [sheet, sight.wider] if sight.wider else [sheet]
    left_out = [view.place(box) for look in looks for box in look.left_out()]
    seen = [view.place(g.box) for look in looks for g in look.groups if g.confidence > 0.9]
    unread = list(sheet.unread(view))
    closer, closer_sheet = look_closer(picture, view, sight)
    if closer_sheet.groups:  # else what was seen before stands
        view, sheet = closer, closer_sheet
    if len(sheet.groups) > MAX_DIGITS:
        raise ValueError(f"more than {MAX_DIGITS} digits; leave out print or take several pictures")
    digits = [
        Digit(view.place(group.box), group.image, group.shares, number)
        for number, line in enumerate(in_lines([group.box for group in sheet.groups]), 1)
        for group in (sheet.groups[index] for index in line)
    ]
    left_out += [box for box in seen if all(distance(box, digit.box) >= 0 for digit in digits)]
    # On their side digits are wide, and their parts look like digits.
    confidences = np.array([group.unparted for group in sheet.groups])
    rating = sight.quality * float(-np.log(1.0001 - confidences).mean())
    notes = [f"left out what may be a digit, at {name_box(box)}" for box in left_out[:NAMED]]
    if len(left_out) > NAMED:
        notes.append(f"left out {len(left_out) - NAMED} more that may be digits")
    unread = unread or list(sheet.unread(view))
    return Reading(digits, [*notes, *sheet.doubtful(view), *unread]), rating
