"""comparison/stats.py: intervals that cover as often as they say, and paired differences."""

import math

import numpy as np
import pytest

from comparison.stats import (
    describe,
    difference_interval,
    differences,
    first_reached,
    format_mean,
    proportion_interval,
    summarise,
    t_interval,
)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_interval_covers_the_true_mean_in_95_percent_of_cases(n):
    draws = np.random.default_rng(n).normal(98.7, 0.15, size=(5000, n))
    intervals = np.array([t_interval(values) for values in draws])
    covered = (intervals[:, 0] < 98.7) & (intervals[:, 1] > 98.7)
    assert 0.94 < covered.mean() < 0.96


def test_interval_of_known_values():
    # t with 3 degrees of freedom is 3.1824, the standard error sqrt(5 / 3 / 4).
    assert t_interval([1.0, 2.0, 3.0, 4.0]) == pytest.approx([2.5 - 2.0544, 2.5 + 2.0544], abs=1e-3)
    assert t_interval([5.0, 5.0]) == [5.0, 5.0]
    assert t_interval([5.0]) is None


@pytest.mark.parametrize("n, others", [(10, 10), (3, 12)])
def test_interval_of_a_difference_covers_it_in_95_percent_of_cases(n, others):
    generator = np.random.default_rng(n)
    covered = 0
    for _ in range(2000):
        values, before = generator.normal(99.5, 0.05, n), generator.normal(98.8, 0.2, others)
        low, high = difference_interval(values, before)
        covered += low < 0.7 < high
    assert 0.93 < covered / 2000 < 0.97
    assert difference_interval([99.0], [98.0, 98.5]) is None


def test_description_and_its_text():
    part = describe([98.0, 99.0])
    assert (part["n"], part["mean"], part["min"], part["max"]) == (2, 98.5, 98.0, 99.0)
    assert format_mean(part, 1) == "98.5 [92.1, 104.9]"
    assert format_mean(part, 1, "+") == "+98.5 [+92.1, +104.9]"
    assert format_mean(describe([98.0]), 2) == "98.00"


def fake_runs(**finals):
    """Runs of one epoch with the given final test accuracies."""
    return [
        {"model_type": name, "seed": seed,
         "curves": {"test_accuracy": [value], "test_loss": [0.1],
                    "train_accuracy": [value], "train_loss": [0.1]},
         "calibration_error": 100 - value, "digit_accuracy": {"0": value, "7": 100.0}}
        for name, values in finals.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip


def test_differences_are_paired_by_seed_and_by_image_and_name_the_better():
    # The seeds differ by 2 points, the networks within a seed by 0.5 to 0.6.
    runs = fake_runs(CustomMLP=[97.0, 98.0, 99.0], LeNet5=[97.5, 98.6, 99.5])
    correct = {
        "CustomMLP": np.array([0.0, 1.0, 1.0, 0.5]),
        "LeNet5": np.array([1.0, 1.0, 1.0, 0.5]),
    }
    (pair,) = differences(runs, correct)
    assert (pair["better"], pair["than"], pair["n"]) == ("LeNet5", "CustomMLP", 3)
    assert pair["mean"] == pytest.approx(1.6 / 3)
    assert 0.3 < pair["interval"][0] < pair["mean"] < pair["interval"][1] < 0.7
    assert pair["interval_over_images"] == pytest.approx(t_interval([100.0, 0.0, 0.0, 0.0]))


def test_differences_use_the_seeds_that_both_networks_have():
    runs = fake_runs(CustomMLP=[98.0, 99.0, 50.0], LeNet5=[97.0, 98.0])
    (pair,) = differences(runs, {"CustomMLP": np.ones(4), "LeNet5": np.ones(4)})
    assert (pair["better"], pair["mean"], pair["n"]) == ("CustomMLP", 1.0, 2)
    assert differences(runs[:1] + runs[4:], {"CustomMLP": np.ones(4), "LeNet5": np.ones(4)}) == []


def test_summary_describes_the_last_epoch_and_the_images():
    correct = np.array([1.0, 0.5, 1.0, 0.0])
    network = summarise(fake_runs(LeNet5=[97.0, 99.0]), {"LeNet5": correct})["LeNet5"]
    assert network["test_accuracy"] == describe([97.0, 99.0])
    assert network["interval_over_images"] == t_interval(100 * correct)
    assert network["calibration_error"] == describe([3.0, 1.0])
    assert network["digit_accuracy"] == {"0": describe([97.0, 99.0]), "7": describe([100.0, 100.0])}


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
