"""comparison/stats.py: intervals that cover as often as they say, and stay where values can be."""

import numpy as np
import pytest

from comparison.stats import describe, format_mean, proportion_interval, t_interval, welch_interval


def test_intervals_cover_the_true_mean_in_95_percent_of_cases():
    draws = np.random.default_rng(0).normal(98.7, 0.15, size=(2000, 3))
    intervals = np.array([t_interval(values) for values in draws])
    covered = (intervals[:, 0] < 98.7) & (intervals[:, 1] > 98.7)
    assert 0.93 < covered.mean() < 0.97


def test_intervals_of_known_values():
    # t with 3 degrees of freedom is 3.1824, the standard error sqrt(5 / 3 / 4).
    assert t_interval([1.0, 2.0, 3.0, 4.0]) == pytest.approx([2.5 - 2.0544, 2.5 + 2.0544], abs=1e-3)
    assert t_interval([5.0, 5.0]) == (5.0, 5.0) and t_interval([5.0]) is None
    # Equal sizes and variances make Welch's t Student's: 4.3027 with nearly 2 degrees of freedom.
    assert welch_interval([1.0, 2.0], [4.0, 5.0]) == pytest.approx([-3 - 3.0424, -3 + 3.0424], 1e-3)
    assert welch_interval([99.0], [98.0, 98.5]) is None
    assert welch_interval([0.0, 100.0], [0.0, 100.0]) == (-100.0, 100.0)  # what it can be
    # Newcombe (1998): 81 of 263.
    assert proportion_interval(81, 263) == pytest.approx([25.53, 36.62], abs=0.01)


def test_description_and_its_text():
    summary = describe([98.0, 98.2])
    assert summary.mean == 98.1
    assert format_mean(summary, 1) == "98.1 [96.8, 99.4]"
    assert format_mean(summary, 1, "+") == "+98.1 [+96.8, +99.4]"
    assert format_mean(describe([98.0]), 2) == "98.00"
