"""Means with their intervals, and how they are printed."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from scipy import stats

METHOD = "95 % interval of the mean by Student's t"
MEASURES = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")


def t_interval(values: Sequence[float] | np.ndarray) -> list[float] | None:
    """Return [low, high], the 95 % interval of the mean of n values; None for fewer than two.

    Student's t with n - 1 degrees of freedom: mean +- t * standard deviation / sqrt(n).
    """
    n = len(values)
    if n < 2:
        return None
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    mean = np.mean(values)
    return [float(mean - half), float(mean + half)]


def proportion_interval(hits: int, n: int) -> list[float]:
    """Return [low, high] in percent, the 95 % interval of a proportion (Wilson, 1927).

    Unlike Student's t it is of use where all of few are hits.
    """
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return [float(100 * interval.low), float(100 * interval.high)]


def describe(values: Sequence[float]) -> dict[str, Any]:
    """Return n, mean, its 95 % interval, min and max of values."""
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "interval": t_interval(values),
        "min": min(values),
        "max": max(values),
    }


def difference_interval(values: Sequence[float], others: Sequence[float]) -> list[float] | None:
    """Return the 95 % interval of the difference of two means, by Welch's t; None if unknown."""
    if min(len(values), len(others)) < 2:
        return None
    found = stats.ttest_ind(values, others, equal_var=False).confidence_interval()
    return [float(found.low), float(found.high)]


def format_interval(interval: list[float] | None, places: int, sign: str = "") -> str:
    """Return an interval as [low, high], nothing for none; the sign "+" shows that of gains."""
    return f"[{', '.join(f'{end:{sign}.{places}f}' for end in interval)}]" if interval else ""


def format_mean(part: dict[str, Any], places: int, sign: str = "") -> str:
    """Return a mean and, if there is one, its interval: 98.78 [98.71, 98.85]."""
    interval = format_interval(part["interval"], places, sign)
    return f"{part['mean']:{sign}.{places}f} {interval}".strip()


def first_reached(xs: Sequence[float], ys: Sequence[float], limit: float) -> float | None:
    """Return where the line through the points (x, y) first reaches the limit from below.

    That is xs[0] if it starts there or above, and None if it stays below.
    """
    if ys[0] >= limit:
        return xs[0]
    for (x, y), (next_x, next_y) in pairwise(zip(xs, ys, strict=True)):
        if next_y >= limit:
            return x + (next_x - x) * (limit - y) / (next_y - y)
    return None


# --- Networks ---------------------------------------------------------------------------------


def summarise(runs: list[dict[str, Any]], correct: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return for each network its final figures, described over its runs.

    Args:
        runs: model_type, seed, curves, calibration_error and digit_accuracy of each run.
        correct: for each network, the share of its runs that get each test image right, [N].
            Their mean is the mean test accuracy, so its interval over the images comes from them.
    """
    networks = {}
    for model_type, shares in correct.items():
        own = [run for run in runs if run["model_type"] == model_type]
        curves, digits = ([run[key] for run in own] for key in ("curves", "digit_accuracy"))
        networks[model_type] = {
            **{measure: describe([curve[measure][-1] for curve in curves]) for measure in MEASURES},
            "mean_over_epochs": describe([float(np.mean(c["test_accuracy"])) for c in curves]),
            "interval_over_images": t_interval(100 * shares),
            "calibration_error": describe([run["calibration_error"] for run in own]),
            "digit_accuracy": {d: describe([run[d] for run in digits]) for d in digits[0]},
        }
    return networks


def differences(runs: list[dict[str, Any]], correct: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the difference in final test accuracy of each pair of networks, arguments as above.

    Paired by seed for the interval over the runs, by image for that over the test images.
    """
    finals: dict[str, dict[int, float]] = {model_type: {} for model_type in correct}
    for run in runs:
        finals[run["model_type"]][run["seed"]] = run["curves"]["test_accuracy"][-1]
    pairs = []
    for one, other in combinations(correct, 2):
        seeds = sorted(finals[one].keys() & finals[other].keys())
        gains = np.array([finals[one][seed] - finals[other][seed] for seed in seeds])
        if not seeds:
            continue
        sign = 1 if gains.mean() >= 0 else -1
        better, than = (one, other)[::sign]
        images = 100 * sign * (correct[one] - correct[other])
        pair = {"better": better, "than": than, **describe((sign * gains).tolist())}
        pairs.append(pair | {"interval_over_images": t_interval(images)})
    return pairs
