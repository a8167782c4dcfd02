"""comparison/stats.py: intervals that cover as often as they say, and stay where values can be."""

import math

import numpy as np
import pytest

from comparison.stats import (
    LOSS,
    POINTS,
    describe,
    excludes_zero,
    first_reached,
    format_mean,
    proportion_interval,
    t_interval,
    welch_interval,
)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_covers_the_true_mean_in_95_percent_of_cases(n):
    draws = np.random.default_rng(n).normal(98.7, 0.15, size=(5000, n))
    intervals = np.array([t_interval(values) for values in draws])
    covered = (intervals[:, 0] < 98.7) & (intervals[:, 1] > 98.7)
    assert 0.94 < covered.mean() < 0.96


def test_interval_of_known_values():
    # t with 3 degrees of freedom is 3.1824, the standard error sqrt(5 / 3 / 4).
    assert t_interval([1.0, 2.0, 3.0, 4.0]) == pytest.approx([2.5 - 2.0544, 2.5 + 2.0544], abs=1e-3)
    assert t_interval([5.0, 5.0]) == (5.0, 5.0)
    assert t_interval([5.0]) is None


@pytest.mark.parametrize("n, others", [(10, 10), (3, 12)])
def test_interval_of_a_difference_covers_it_in_95_percent_of_cases(n, others):
    generator = np.random.default_rng(n)
    covered = 0
    for _ in range(2000):
        values, before = generator.normal(99.5, 0.05, n), generator.normal(98.8, 0.2, others)
        low, high = welch_interval(values, before)
        covered += low < 0.7 < high
    assert 0.93 < covered / 2000 < 0.97
    assert welch_interval([99.0], [98.0, 98.5]) is None


def test_two_runs_far_apart_leave_an_interval_of_what_can_be():
    assert describe([40.0, 99.0]).interval == (0, 100)
    assert describe([97.0, 99.9]).interval[1] == 100
    assert describe([0.1, 2.0], LOSS).interval[0] == 0 < describe([0.1, 2.0], LOSS).interval[1] - 12
    assert describe([-80.0, 90.0], POINTS).interval == (-100, 100)
    assert welch_interval([0.0, 100.0], [100.0, 1.0]) == (-100, 100)


def test_description_and_its_text():
    summary = describe([98.0, 98.2])
    assert (summary.mean, summary.min, summary.max) == (98.1, 98.0, 98.2)
    assert summary.ends == summary.interval and describe([98.0]).ends == (98, 98)
    assert format_mean(summary, 1) == "98.1 [96.8, 99.4]"
    assert format_mean(summary, 1, "+") == "+98.1 [+96.8, +99.4]"
    assert format_mean(describe([98.0]), 2) == "98.00"
    assert [excludes_zero(interval) for interval in ((0.1, 1), (-1, -0.1), (0, 1), None)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_proportion_interval_is_wilsons():
    low, high = proportion_interval(80, 100)  # as computed by hand from the formula
    z, p, n = 1.959964, 0.8, 100
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert [low, high] == pytest.approx([100 * (middle - half) / (1 + z * z / n),
                                         100 * (middle + half) / (1 + z * z / n)])  # fmt: skip
    assert proportion_interval(30, 30)[0] < 90  # where Student's t would be sure


def test_first_reached_is_where_the_line_between_the_points_meets_the_limit():
    assert first_reached([0, 1, 3], [1.0, 2.0, 6.0], 3.0) == 1.5
    assert first_reached([0, 1, 2, 3], [0.0, 4.0, 0.0, 8.0], 2.0) == 0.5
    assert first_reached([5, 6], [7.0, 8.0], 7.0) == 5
    assert first_reached([5, 6, 7], [1.0, 6.0, 2.0], 6.5) is None
