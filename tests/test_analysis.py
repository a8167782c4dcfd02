"""comparison/analysis.py: calibration and confusions."""

import numpy as np
import pytest

from comparison.analysis import calibration_error, class_counts, confusion, majority


def one_guess(confidence, classes):
    """Probabilities that give these classes the confidence; the others share the rest."""
    confidence = np.broadcast_to(confidence, len(classes))
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(len(classes)), classes] = confidence
    return probabilities.astype(np.float32)


def test_calibration_error_of_known_cases():
    labels = np.array([1, 1, 1, 1])
    sure = one_guess(1.0, [1, 1, 2, 2])  # half of them correct
    assert calibration_error(sure, labels) == pytest.approx(50)
    timid = one_guess(0.7, [1, 1, 1, 1])
    assert calibration_error(timid, labels) == pytest.approx(30, abs=1e-4)
    # Within a bin too much and too little make up for each other, in two bins they don't.
    one_bin = one_guess([0.74, 0.74, 0.74, 0.76], [1, 1, 1, 2])
    assert calibration_error(one_bin, labels) == pytest.approx(100 * abs(3 - 2.98) / 4, abs=1e-3)
    two_bins = one_guess([0.5, 0.5, 0.9, 0.9], [1, 1, 2, 1])
    assert calibration_error(two_bins, labels) == pytest.approx(100 * (1.0 + 0.8) / 4, abs=1e-3)
    last_bin = one_guess([1.0, 0.95], [2, 1])  # full confidence belongs to it
    assert calibration_error(last_bin, labels[:2]) == pytest.approx(100 * 0.95 / 2)


def test_a_network_that_is_as_often_correct_as_it_says_is_calibrated():
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=20_000)
    confidence = generator.uniform(0.3, 1, size=20_000)
    correct = generator.random(20_000) < confidence
    guesses = np.where(correct, labels, (labels + 1) % 10)
    assert calibration_error(one_guess(confidence, guesses), labels) < 1.5
    assert calibration_error(one_guess(confidence**2, guesses), labels) > 10


def test_confusion_is_the_mean_over_runs_and_rows_are_true_classes():
    labels = np.array([4, 4, 9])
    counts = confusion(np.array([[4, 9, 9], [9, 9, 9]]), labels)
    assert (counts[4, 4], counts[4, 9], counts[9, 4], counts[9, 9]) == (0.5, 1.5, 0, 1)
    assert counts.sum(axis=1).tolist() == class_counts(labels).tolist()
    assert class_counts(labels).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 1]


def test_most_runs_decide():
    assert majority(np.array([[1, 2], [1, 3], [5, 3]])).tolist() == [1, 3]
