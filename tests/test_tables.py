"""comparison/results.py and comparison/tables.py: what follows from runs, JSON there and back."""

import numpy as np
import pytest

from comparison.results import (
    Comparison,
    NetworkRuns,
    Run,
    accuracy_difference,
    network_differences,
)
from comparison.stats import t_interval, welch_interval
from comparison.tables import comparison_tables
from main import Args

TEST_IMAGES = np.array([2, 0, 0, 0, 0, 0, 0, 2, 0, 0])  # of each class


def network(accuracies, errors, first_seed=0):
    """Runs of two epochs with the given final test accuracies; 7s are always correct."""
    runs = []
    for index, accuracy in enumerate(accuracies):
        curves = {"test_accuracy": [accuracy - 10, accuracy], "test_loss": [2.0, 1.5]}
        curves |= {"train_accuracy": [50.0, 60.0], "train_loss": [0.75, 0.5]}
        hits = [index % 3, *[0] * 6, 2, 0, 0]
        runs.append(Run("LeNet5", first_seed + index, hits, 100 - accuracy, curves))
    return NetworkRuns(runs, np.array(errors))


def comparison(**networks):
    settings = {name: value for name, value in vars(Args()).items() if name != "seed"}
    setup = {"settings": settings, "data": "some", "shipped": False}
    setup |= {"versions": {"torch": "1"}, "processor": "one"}
    for model_type, runs in networks.items():
        for run in runs.runs:
            run.model_type = model_type
    return Comparison(setup, TEST_IMAGES, networks)


def test_differences_are_paired_by_seed_and_by_image_and_name_the_better():
    # The seeds differ by 2 points, the networks within a seed by 0.5 to 0.6.
    networks = {"CustomMLP": network([97.0, 98.0, 99.0], [3, 0, 0, 1]),
                "LeNet5": network([97.5, 98.6, 99.5], [0, 0, 0, 1])}  # fmt: skip
    ((names, difference),) = network_differences(networks).items()
    assert names == ("LeNet5", "CustomMLP")
    assert difference.mean == pytest.approx(1.6 / 3)
    assert 0.3 < difference.over_runs[0] < difference.mean < difference.over_runs[1] < 0.7
    low, high = t_interval([100.0, 0.0, 0.0, 0.0])
    assert difference.over_images == (low, min(high, 100))


def test_differences_are_those_of_the_means_where_runs_are_missing():
    mlp, cnn = network([98.0, 99.0, 50.0], [0, 1, 1, 1]), network([97.0, 98.0], [0, 0, 1, 1])
    ((names, difference),) = network_differences({"CustomMLP": mlp, "LeNet5": cnn}).items()
    assert names == ("LeNet5", "CustomMLP") and difference.mean == pytest.approx(97.5 - 247 / 3)
    assert difference.over_runs == welch_interval(cnn.accuracies, mlp.accuracies)
    assert np.mean(difference.over_images) == pytest.approx(0)  # both misclassify a fourth


def test_runs_of_other_seeds_are_compared_without_pairs():
    new, old = network([99.0, 99.2], [0] * 4, 10), network([98.0, 98.4, 98.2], [1] * 4)
    difference = accuracy_difference(new, old)
    assert difference.mean == pytest.approx(0.9) and difference.verdict == "significant"
    assert difference.over_images == pytest.approx((100 / 3, 100 / 3))
    assert accuracy_difference(old, new).verdict == "significant"  # worse
    few_images = network([99.0, 99.2], [0, 0, 0, 1], 10)
    assert accuracy_difference(few_images, old).verdict == "not significant"
    assert accuracy_difference(network([99.0], [0] * 4), old).verdict == "unknown (one run)"


def test_a_run_that_stopped_early_keeps_its_last_epoch():
    runs = network([90.0, 80.0], [0] * 4)
    runs.runs[0].curves = {name: curve[-1:] for name, curve in runs.runs[0].curves.items()}
    assert runs.curves("test_accuracy").tolist() == [[90.0, 90.0], [70.0, 80.0]]


def test_tables_hold_what_differs_and_intervals_of_what_can_be():
    runs = comparison(LeNet5=network([40.0, 99.0], [0, 0, 0, 2]),
                      CustomMLP=network([97.0, 98.0], [1] * 4))  # fmt: skip
    text = comparison_tables(runs)
    for row in (
        "| mean over the runs | LeNet-5 | CustomMLP |",
        "| test accuracy, % | 69.50 [0.00, 100.00] | 97.50 [91.15, 100.00] |",
        "| over the test images | [0.00, 100.00] | [50.00, 50.00] |",
        "| lowest to highest | 40.00 to 99.00 | 97.00 to 98.00 |",
        "| test accuracy, %, mean over epochs | 64.50 [0.00, 100.00] | 92.50 [86.15, 98.85] |",
        "| test loss | 1.5000 [1.5000, 1.5000] | 1.5000 [1.5000, 1.5000] |",
        "| calibration error, points | 30.50 [0.00, 100.00] | 2.50 [0.00, 8.85] |",
        "| train accuracy, % | 60.00 [60.00, 60.00] | 60.00 [60.00, 60.00] |",
        "| train loss | 0.5000 [0.5000, 0.5000] | 0.5000 [0.5000, 0.5000] |",
        "| 7 | 2 | 100.00 [100.00, 100.00] | 100.00 [100.00, 100.00] |",
        "| other settings | the defaults |",
        "| runs per network | 2 (seeds 0 to 1) |",
    ):
        assert f"{row}\n" in text, row
    runs.setup["settings"] |= {"lr": 0.5, "deskew": True, "epochs": 7}
    changed = comparison_tables(runs)
    assert "| other settings | lr 0.5, deskew True |" in changed and "| epochs | 7 |" in changed
    uneven = comparison(LeNet5=network([99.0], [0] * 4), CustomMLP=network([98.0, 97.0], [0] * 4))
    counts = "LeNet-5 1 (seed 0); CustomMLP 2 (seeds 0 to 1)"  # as runs failed
    assert f"| runs per network | {counts} |\n" in comparison_tables(uneven)
    alone = comparison_tables(comparison(LeNet5=network([99.0], [0] * 4)))
    assert "| test accuracy, % | 99.00 |" in alone and "verdict" not in alone
