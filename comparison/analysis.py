"""Where networks fail: digits, calibration, and the test images that run after run misreads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 15  # of the calibration error, as Guo et al. have them
Counts = dict[str, int]  # test image -> how many runs of a network misread it


# --- One run ----------------------------------------------------------------------------------


def digit_accuracies(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the accuracy in percent of each digit that occurs, from int [N] and int [N]."""
    correct = predictions == labels
    return {str(d): float(100 * correct[labels == d].mean()) for d in np.unique(labels)}


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error in percentage points (Guo et al., 2017).

    The images are sorted into 15 bins of equal width by their largest probability; a bin counts by
    its share of the images: sum of share * |accuracy - mean of the largest probability|.

    Args:
        probabilities: float [N, 10].
        labels: int [N].
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    excess = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.ceil(confidence * BINS).astype(int)  # the upper edge belongs to the bin
    return float(100 * np.abs(np.bincount(bins, weights=excess)).sum() / len(labels))


# --- The runs of a network --------------------------------------------------------------------


def read_digits(
    runs: Sequence[Mapping[str, Any]], probabilities: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the digits that each network's runs read, int [runs, N].

    Args:
        runs: their model_type.
        probabilities: float [N, 10] of each run.
    """
    read: dict[str, list[np.ndarray]] = {}
    for one, own in zip(runs, probabilities, strict=True):
        read.setdefault(one["model_type"], []).append(own.argmax(axis=1))
    return {model_type: np.stack(own) for model_type, own in read.items()}


def confusion(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean confusion matrix, float [10, 10], of predictions int [runs, N].

    Rows are true digits, columns predicted ones; a row adds up to the digit's test images.
    """
    counts = np.zeros((10, 10))
    np.add.at(counts, (np.broadcast_to(labels, predictions.shape), predictions), 1)
    return counts / len(predictions)


def majority(predictions: np.ndarray) -> np.ndarray:
    """Return the digit that most runs read, int [N], of predictions int [runs, N]."""
    votes = [(predictions == digit).sum(axis=0) for digit in range(10)]
    return np.argmax(votes, axis=0)


def misread_counts(predictions: np.ndarray, labels: np.ndarray) -> Counts:
    """Return how many runs misread each image, if any does, from predictions int [runs, N]."""
    counts = (predictions != labels).sum(axis=0)
    return {str(i): int(counts[i]) for i in np.flatnonzero(counts)}


def correct_shares(misread: Counts, runs: int, images: int) -> np.ndarray:
    """Return the share of a network's runs that read each image right, float [images]."""
    shares = np.ones(images)
    for index, count in misread.items():
        shares[int(index)] -= count / runs
    return shares


# --- Several networks -------------------------------------------------------------------------


def misread_by_all(misread: Mapping[str, Counts], runs: Mapping[str, int]) -> list[int]:
    """Return the images that every run of every network misreads.

    Args:
        misread: of each network.
        runs: how many each network has.
    """
    sets = [
        {int(index) for index, count in counts.items() if count == runs[model_type]}
        for model_type, counts in misread.items()
    ]
    return sorted(set.intersection(*sets))


def misread_by_one(
    misread: Mapping[str, Counts], runs: Mapping[str, int], pair: Sequence[str]
) -> list[int]:
    """Return the images that every run of the pair's first network misreads, none of its second."""
    one, other = pair
    found = misread_by_all({one: misread[one]}, runs)
    return [index for index in found if str(index) not in misread[other]]
