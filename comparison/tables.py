"""Results as Markdown tables."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from comparison.analysis import BINS
from comparison.results import (
    Comparison,
    Difference,
    class_accuracies,
    network_differences,
    summarise,
)
from comparison.stats import format_interval, format_mean
from model import TITLES
from utils.augment import make_augmentation
from utils.classes import CLASSES


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def accuracy_table(comparison: Comparison) -> str:
    """Return every network's figures, a row per figure."""
    summaries = {name: summarise(runs) for name, runs in comparison.networks.items()}

    def row(title: str, key: str, places: int) -> list[str]:
        return [title, *(format_mean(summary[key], places) for summary in summaries.values())]

    over_images = ["over the test images"]
    ends = ["lowest to highest"]
    for summary in summaries.values():
        over_images.append(format_interval(summary["over_images"].interval, 2))
        accuracy = summary["test_accuracy"]
        ends.append(f"{accuracy.min:.2f} to {accuracy.max:.2f}")
    rows = [
        row("test accuracy, %", "test_accuracy", 2),
        over_images,
        ends,
        row("test accuracy, %, mean over epochs", "mean_over_epochs", 2),
        row("test loss", "test_loss", 4),
        row("calibration error, points", "calibration_error", 2),
        row("train accuracy, %", "train_accuracy", 2),
        row("train loss", "train_loss", 4),
    ]
    return markdown(["mean over the runs", *(TITLES[name] for name in summaries)], rows)


def difference_cells(difference: Difference) -> list[str]:
    """Return a difference as cells: mean, both intervals, verdict."""
    return [
        f"{difference.mean:+.2f}",
        format_interval(difference.over_runs, 2, "+"),
        format_interval(difference.over_images, 2, "+"),
        difference.verdict,
    ]


def difference_table(comparison: Comparison) -> str:
    """Return the difference of each pair of networks, with its verdict; nothing without a pair."""
    rows = [
        [f"{TITLES[better]} against {TITLES[than]}", *difference_cells(difference)]
        for (better, than), difference in network_differences(comparison.networks).items()
    ]
    heads = ["test accuracy, points", "difference", "over the runs", "over the test images"]
    return markdown([*heads, "verdict"], rows) if rows else ""


def class_table(comparison: Comparison) -> str:
    """Return each network's accuracy per class, a row per class that occurs."""
    accuracies = {
        name: class_accuracies(runs, comparison.test_images)
        for name, runs in comparison.networks.items()
    }
    rows = []
    for title, count in zip(CLASSES, comparison.test_images, strict=True):
        if count:
            cells = [format_mean(summaries[title], 2) for summaries in accuracies.values()]
            rows.append([title, f"{count:,}", *cells])
    heads = ["accuracy per class, %", "test images", *(TITLES[name] for name in accuracies)]
    return markdown(heads, rows)


def trained_on(settings: Mapping[str, Any], metric: str) -> str:
    """Return what sets the loss or accuracy in training apart from that on the test images."""
    parts = []
    if metric == "loss" and settings["label_smoothing"] > 0:
        parts.append("smoothed labels")
    if make_augmentation(SimpleNamespace(**settings), torch.device("cpu")):
        parts.append("augmented images")
    return " and ".join(parts)


def setup_table(setup: Mapping[str, Any], rows: Mapping[str, str]) -> str:
    """Return how numbers were made: rows of a command's own, then data, versions, method."""
    common = {
        "data": setup["data"],
        "PyTorch": f"{setup['versions']['torch']} on {setup['processor']}",
        "in brackets": setup["method"],
    }
    return markdown(["how", ""], [[name, text] for name, text in (dict(rows) | common).items()])


def describe_seeds(seeds: Sequence[int]) -> str:
    """Return "10 (seeds 0 to 9)"."""
    ends = f"s {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f" {seeds[0]}"
    return f"{len(seeds)} (seed{ends})"


def comparison_tables(comparison: Comparison, defaults: Mapping[str, Any]) -> str:
    """Return what is known of the runs: figures, differences, classes, how they were made.

    Args:
        comparison: the runs.
        defaults: of the settings; those that differ are named.
    """
    settings = comparison.setup["settings"]
    leave_out = ("epochs", "device", "threads")  # which stand elsewhere
    changed = [
        f"{name} {value}"
        for name, value in settings.items()
        if name not in leave_out and value != defaults.get(name, value)
    ]
    seeds = sorted({int(seed) for runs in comparison.networks.values() for seed in runs.seeds})
    training = "means over the last epoch, while the weights change"
    if others := trained_on(settings, "loss"):
        training = f"{training}, on {others}"
    rows = {
        "runs per network": describe_seeds(seeds),
        "epochs": str(settings["epochs"]),
        "other settings": ", ".join(changed) or "the defaults",
        "train accuracy and loss": training,
        "calibration error": f"expected (Guo et al., 2017), in {BINS} bins",
        "significant": "at the 95 % level, both over the runs and over the test images",
    }
    tables = [
        accuracy_table(comparison),
        difference_table(comparison),
        class_table(comparison),
        setup_table(comparison.setup, rows),
    ]
    return "\n\n".join(table for table in tables if table)
