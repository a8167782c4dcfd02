"""Means with their 95 % confidence intervals, and how they are printed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

METHOD = (
    "95 % confidence interval of the mean by Student's t, cut off at the limits of accuracy, 0 and "
    "100 %"
)
# What values can be: accuracies and errors, differences of them, losses.
PERCENT, POINTS, LOSS = (0.0, 100.0), (-100.0, 100.0), (0.0, math.inf)
Interval = tuple[float, float]
Values = Sequence[float] | np.ndarray


@dataclass
class Summary:
    """Values described; the interval is that of the mean, None for a single value."""

    mean: float
    interval: Interval | None

    @property
    def ends(self) -> Interval:
        """The interval's ends, or the mean twice where there is none, as plots need them."""
        return self.interval or (self.mean, self.mean)


def t_interval(values: Values) -> Interval | None:
    """Return Student's 95 % interval of the mean of values; None for fewer than two."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    mean = np.mean(values)
    return float(mean - half), float(mean + half)


def welch_interval(values: Values, others: Values) -> Interval | None:
    """Return Welch's (1947) 95 % interval of the difference of two means; None if unknown."""
    from scipy import stats

    if min(len(values), len(others)) < 2:
        return None
    interval = stats.ttest_ind(values, others, equal_var=False).confidence_interval()
    return _within((float(interval.low), float(interval.high)), POINTS)


def proportion_interval(hits: int, n: int) -> Interval:
    """Return Wilson's (1927) 95 % interval of a proportion, in percent."""
    from scipy import stats

    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return float(100 * interval.low), float(100 * interval.high)


def _within(interval: Interval | None, limits: Interval) -> Interval | None:
    """Cut an interval off at the limits of what its mean can be."""
    if interval is None:
        return None
    return max(interval[0], limits[0]), min(interval[1], limits[1])


def describe(values: Values, limits: Interval = PERCENT) -> Summary:
    """Return values described, the interval of their mean cut off at limits."""
    return Summary(float(np.mean(values)), _within(t_interval(values), limits))


def format_interval(interval: Interval | None, places: int, sign: str = "") -> str:
    """Return an interval as [low, high], nothing for none; the sign "+" shows that of gains."""
    return f"[{', '.join(f'{end:{sign}.{places}f}' for end in interval)}]" if interval else ""


def format_mean(summary: Summary, places: int, sign: str = "") -> str:
    """Return a mean and, if there is one, its interval: 98.78 [98.71, 98.85]."""
    interval = format_interval(summary.interval, places, sign)
    return f"{summary.mean:{sign}.{places}f} {interval}".strip()


def first_reached(xs: Sequence[float], ys: Sequence[float], limit: float) -> float | None:
    """Return the x where the line through points first reaches the limit; None if it stays below.

    That is xs[0] if it starts above.
    """
    if ys[0] >= limit:
        return xs[0]
    for (x, y), (next_x, next_y) in pairwise(zip(xs, ys, strict=True)):
        if next_y >= limit:
            return x + (next_x - x) * (limit - y) / (next_y - y)
    return None
