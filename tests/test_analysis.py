"""comparison/analysis.py: calibration and confusions."""

import numpy as np
import pytest

from comparison.analysis import calibration_error, class_counts, confusion


@pytest.mark.parametrize("confidence, classes, expected", [
    ([1.0, 1.0, 1.0, 1.0], [1, 1, 2, 2], 50),  # sure, and half of them correct
    ([0.7, 0.7, 0.7, 0.7], [1, 1, 1, 1], 30),  # always correct, but timid
    ([0.74, 0.74, 0.74, 0.76], [1, 1, 1, 2], 0.5),  # in a bin too much and too little make up
    ([0.5, 0.5, 0.9, 0.9], [1, 1, 2, 1], 45),  # in two bins they don't
])  # fmt: skip
def test_calibration_error_of_known_cases(confidence, classes, expected):
    confidence = np.array(confidence)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(4), classes] = confidence
    assert calibration_error(probabilities, np.ones(4, int)) == pytest.approx(expected)


def test_confusion_is_the_mean_over_runs_and_rows_are_true_classes():
    labels = np.array([4, 4, 9])
    counts = confusion(np.array([[4, 9, 9], [9, 9, 9]]), labels)
    assert (counts[4, 4], counts[4, 9], counts[9, 4], counts[9, 9]) == (0.5, 1.5, 0, 1)
    assert counts.sum(axis=1).tolist() == class_counts(labels).tolist()
