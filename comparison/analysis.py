"""Where networks fail: calibration and confusions.

R runs of a network, N images, C classes.
"""

import numpy as np

from utils.classes import CLASSES

BINS = 15  # of the calibration error, as Guo et al. have them


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error in percentage points (Guo et al., 2017).

    The images are sorted into 15 bins of equal width by their largest probability; a bin counts by
    its share of the images: sum of share * |accuracy - mean of the largest probability|.

    Args:
        probabilities: float [N, C].
        labels: int [N].
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    excess = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.ceil(confidence * BINS).astype(int)  # the upper edge belongs to the bin
    return float(100 * np.abs(np.bincount(bins, weights=excess)).sum() / len(labels))


def class_counts(labels: np.ndarray) -> np.ndarray:
    """Return how many images of each class there are, int [C], from labels int [N]."""
    return np.bincount(labels, minlength=len(CLASSES))


def confusion(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean confusion matrix, float [C, C], of predictions int [R, N].

    Rows are true classes, columns predicted ones; a row adds up to the test images of its class.
    """
    counts = np.zeros((len(CLASSES), len(CLASSES)))
    np.add.at(counts, (np.broadcast_to(labels, predictions.shape), predictions), 1)
    return counts / len(predictions)
