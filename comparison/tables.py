"""Results as Markdown tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from comparison.analysis import BINS
from comparison.results import (
    Comparison,
    Difference,
    NetworkRuns,
    class_accuracies,
    network_differences,
)
from comparison.stats import (
    LOSS,
    METHOD,
    PERCENT,
    Interval,
    Summary,
    describe,
    format_interval,
    format_mean,
)
from main import AUGMENTED, Args
from model import TITLES
from utils.classes import CLASSES

DIFFERENCE_HEADS = ["difference", "over the runs", "over the test images", "verdict"]


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def column_table(head: str, columns: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Return a Markdown table of titled columns, each a mapping row -> cell.

    The rows are those of the first column; a cell that another column lacks is empty.
    """
    heads = [head, *(title for title, _ in columns)]
    rows = [[row, *(cells.get(row, "") for _, cells in columns)] for row in columns[0][1]]
    return markdown(heads, rows)


def figures(runs: NetworkRuns) -> dict[str, str]:
    """Return the column of a network: what is known of its runs after the last epoch."""
    over_images = describe(100 * runs.correct_shares)
    over_epochs = describe(runs.curves("test_accuracy").mean(axis=1))
    calibration = describe([run.calibration_error for run in runs.runs])

    def last(column: str, limits: Interval = PERCENT) -> Summary:
        return describe(runs.curves(column)[:, -1], limits)

    return {
        "test accuracy, %": format_mean(describe(runs.accuracies), 2),
        "over the test images": format_interval(over_images.interval, 2),
        "lowest to highest": f"{runs.accuracies.min():.2f} to {runs.accuracies.max():.2f}",
        "test accuracy, %, mean over epochs": format_mean(over_epochs, 2),
        "test loss": format_mean(last("test_loss", LOSS), 4),
        "calibration error, points": format_mean(calibration, 2),
        "train accuracy, %": format_mean(last("train_accuracy"), 2),
        "train loss": format_mean(last("train_loss", LOSS), 4),
    }


def difference_cells(difference: Difference) -> list[str]:
    """Return a difference as cells: mean, both intervals, verdict."""
    return [
        f"{difference.mean:+.2f}",
        format_interval(difference.over_runs, 2, "+"),
        format_interval(difference.over_images, 2, "+"),
        difference.verdict,
    ]


def difference_table(networks: Mapping[str, NetworkRuns]) -> str:
    """Return the difference of each pair of networks, with its verdict; nothing without a pair."""
    rows = [
        [f"{TITLES[better]} against {TITLES[than]}", *difference_cells(difference)]
        for (better, than), difference in network_differences(networks).items()
    ]
    return markdown(["test accuracy, points", *DIFFERENCE_HEADS], rows) if rows else ""


def class_table(comparison: Comparison) -> str:
    """Return each network's accuracy per class, a row per class that occurs."""
    images = zip(CLASSES, comparison.test_images, strict=True)
    columns = [("test images", {name: f"{count:,}" for name, count in images if count})]
    for model_type, runs in comparison.networks.items():
        accuracies = class_accuracies(runs, comparison.test_images).items()
        column = {name: format_mean(accuracy, 2) for name, accuracy in accuracies}
        columns.append((TITLES[model_type], column))
    return column_table("accuracy per class, %", columns)


def trained_on(settings: Mapping[str, Any], metric: str) -> str:
    """Return what sets the loss or accuracy in training apart from that on the test images."""
    parts = []
    if metric == "loss" and settings["label_smoothing"] > 0:
        parts.append("smoothed labels")
    if any(settings.get(name) for name in AUGMENTED):
        parts.append("augmented images")
    return " and ".join(parts)


def setup_table(setup: Mapping[str, Any], rows: Mapping[str, str]) -> str:
    """Return how numbers were made: rows of a command's own, then data, versions, method."""
    common = {
        "data": setup["data"],
        "PyTorch": f"{setup['versions']['torch']} on {setup['processor']}",
        "in brackets": METHOD,
    }
    return column_table("how", [("", dict(rows) | common)])


def describe_seeds(seeds: Sequence[int]) -> str:
    """Return "10 (seeds 0 to 9)", or "2 (seeds 0, 2)" if one between them is missing."""
    if len(seeds) == 1:
        return f"1 (seed {seeds[0]})"
    complete = len(seeds) == seeds[-1] - seeds[0] + 1
    names = f"{seeds[0]} to {seeds[-1]}" if complete else ", ".join(map(str, seeds))
    return f"{len(seeds)} (seeds {names})"


def changed_settings(settings: Mapping[str, Any]) -> str:
    """Return the settings that are not the default, but for those that tables show elsewhere."""
    defaults = dataclasses.asdict(Args())
    elsewhere = ("epochs", "device", "threads")
    changed = [
        f"{name} {value}"
        for name, value in settings.items()
        if name not in elsewhere and value != defaults.get(name, value)
    ]
    return ", ".join(changed) or "the defaults"


def comparison_tables(comparison: Comparison) -> str:
    """Return what is known of the runs: figures, differences, classes, how they were made."""
    networks, settings = comparison.networks, comparison.setup["settings"]
    counts = {TITLES[name]: describe_seeds(runs.seeds) for name, runs in networks.items()}
    if len(set(counts.values())) > 1:  # as runs failed
        runs_done = "; ".join(f"{title} {count}" for title, count in counts.items())
    else:
        runs_done = next(iter(counts.values()))
    training = "means over the last epoch, while the weights change"
    if others := trained_on(settings, "loss"):
        training = f"{training}, on {others}"
    rows = {
        "runs per network": runs_done,
        "epochs": str(settings["epochs"]),
        "other settings": changed_settings(settings),
        "train accuracy and loss": training,
        "calibration error": f"expected (Guo et al., 2017), in {BINS} bins",
        "significant": "at the 95 % level, both over the runs and over the test images",
    }
    columns = [(TITLES[name], figures(runs)) for name, runs in networks.items()]
    tables = [
        column_table("mean over the runs", columns),
        difference_table(networks),
        class_table(comparison),
        setup_table(comparison.setup, rows),
    ]
    return "\n\n".join(table for table in tables if table)
