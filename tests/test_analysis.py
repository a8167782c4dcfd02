"""comparison/analysis.py: calibration, digits, and who misreads what."""

import numpy as np
import pytest

from comparison.analysis import (
    calibration_error,
    confusion,
    correct_shares,
    digit_accuracies,
    majority,
    misread_by_all,
    misread_by_one,
    misread_counts,
    read_digits,
)


def one_guess(confidence, digits):
    """Probabilities that give these digits the confidence; the others share the rest."""
    confidence = np.broadcast_to(confidence, len(digits))
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(len(digits)), digits] = confidence
    return probabilities.astype(np.float32)


def test_calibration_error_of_known_cases():
    labels = np.array([1, 1, 1, 1])
    sure = one_guess(1.0, [1, 1, 2, 2])  # half of them right
    assert calibration_error(sure, labels) == pytest.approx(50)
    timid = one_guess(0.7, [1, 1, 1, 1])
    assert calibration_error(timid, labels) == pytest.approx(30, abs=1e-4)
    # Within a bin too much and too little make up for each other, in two bins they don't.
    one_bin = one_guess([0.74, 0.74, 0.74, 0.76], [1, 1, 1, 2])
    assert calibration_error(one_bin, labels) == pytest.approx(100 * abs(3 - 2.98) / 4, abs=1e-3)
    two_bins = one_guess([0.5, 0.5, 0.9, 0.9], [1, 1, 2, 1])
    assert calibration_error(two_bins, labels) == pytest.approx(100 * (1.0 + 0.8) / 4, abs=1e-3)


def test_a_network_that_is_as_often_right_as_it_says_is_calibrated():
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=20_000)
    confidence = generator.uniform(0.3, 1, size=20_000)
    right = generator.random(20_000) < confidence
    guesses = np.where(right, labels, (labels + 1) % 10)
    assert calibration_error(one_guess(confidence, guesses), labels) < 1.5
    assert calibration_error(one_guess(confidence**2, guesses), labels) > 10


def test_full_confidence_shares_the_last_bin():
    probabilities = one_guess([1.0, 0.95], [2, 1])  # wrong, and right
    assert calibration_error(probabilities, np.array([1, 1])) == pytest.approx(100 * 0.95 / 2)


def test_accuracy_of_each_digit_that_occurs():
    labels = np.array([3, 3, 3, 3, 7])
    found = digit_accuracies(np.array([3, 3, 3, 8, 1]), labels)
    assert found == {"3": 75.0, "7": 0.0}


def test_confusion_is_the_mean_over_runs_and_rows_are_true_digits():
    labels = np.array([4, 4, 9])
    counts = confusion(np.array([[4, 9, 9], [9, 9, 9]]), labels)
    assert (counts[4, 4], counts[4, 9], counts[9, 4], counts[9, 9]) == (0.5, 1.5, 0, 1)
    assert counts.sum(axis=1).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 1]


def test_most_runs_decide():
    assert majority(np.array([[1, 2], [1, 3], [5, 3]])).tolist() == [1, 3]


def test_runs_are_sorted_by_network():
    runs = [{"model_type": name} for name in ("A", "B", "A")]
    shares = [one_guess(0.9, [digit, 0]) for digit in (1, 2, 3)]
    read = read_digits(runs, shares)
    assert {name: own.tolist() for name, own in read.items()} == {
        "A": [[1, 0], [3, 0]], "B": [[2, 0]],
    }  # fmt: skip


def test_misread_images_of_several_networks():
    labels = np.zeros(5, dtype=int)
    cnn = misread_counts(np.array([[1, 0, 0, 2, 0], [1, 0, 0, 0, 0]]), labels)
    mlp = misread_counts(np.array([[2, 3, 0, 2, 0], [1, 3, 0, 2, 7]]), labels)
    assert cnn == {"0": 2, "3": 1} and mlp == {"0": 2, "1": 2, "3": 2, "4": 1}
    misread, runs = {"cnn": cnn, "mlp": mlp}, {"cnn": 2, "mlp": 2}
    assert misread_by_all(misread, runs) == [0]
    assert misread_by_one(misread, runs, ("mlp", "cnn")) == [1]  # not 3: one of the cnn's runs
    assert misread_by_one(misread, runs, ("cnn", "mlp")) == []
    assert correct_shares(mlp, 2, 5).tolist() == [0, 0, 1, 0, 0.5]
