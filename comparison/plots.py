"""The plots of a comparison: many runs of every network."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from comparison.results import Comparison, NetworkRuns, class_accuracies
from comparison.stats import describe
from model import COLOURS, PALETTE, TITLES
from utils.classes import CLASSES
from utils.plots import NAMES, drawable, epoch_axis, metric_scale, subplots, to_png


def legend_below(figure: Figure, axis: Axes, title: str) -> None:
    """Give a figure the legend of one of its axes, below them and with a title."""
    handles, labels = axis.get_legend_handles_labels()
    columns = min(4, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title)


def plot_comparison(metric: str, networks: Mapping[str, NetworkRuns], trained_on: str) -> bytes:
    """Draw every network's curves: the mean line, and the band from the lowest to the highest run.

    The metric is accuracy (percent) or loss. The training images are not plain, but trained_on.
    """
    # Losses of smoothed labels are of another size than those of the test images.
    shared = metric == "accuracy"
    figure, axes = subplots(1, 2, figsize=(10, 5), sharey=shared)
    for axis, split in zip(axes, ("train", "test"), strict=True):
        for model_type, runs in networks.items():
            curves = runs.curves(f"{split}_{metric}")
            epochs = np.arange(1, curves.shape[1] + 1)
            colour = COLOURS[model_type]
            axis.plot(epochs, curves.mean(axis=0), color=colour, label=TITLES[model_type])
            low, high = curves.min(axis=0), curves.max(axis=0)
            axis.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        note = f" ({trained_on})" if split == "train" and trained_on else ""
        axis.set_title(f"{split} {metric}{note}", fontsize=11)
        metric_scale(axis, metric)
        epoch_axis(axis)
    axes[1].set_ylabel("")
    count = max(len(runs.seeds) for runs in networks.values())
    title = f"line: mean of {count} run{'s' if count > 1 else ''}, band: lowest to highest run"
    legend_below(figure, axes[1], title)
    return to_png(figure)


def draw_rows(axis: Axes, rows: Mapping[str, np.ndarray], colours: Sequence[str]) -> None:
    """Draw accuracies from the top: a dot per run, the mean as a diamond, its interval as a bar.

    Rows are title -> accuracy of each run in percent, float [R], in order of seed.
    """
    for row, (accuracies, colour) in enumerate(zip(rows.values(), colours, strict=True)):
        summary = describe(accuracies)
        heights = row - 0.16 - 0.2 * np.linspace(0, 1, len(accuracies))  # apart, in order of seed
        axis.scatter(accuracies, heights, s=22, color=colour, alpha=0.6, lw=0)
        axis.hlines(row, *summary.ends, color=colour, lw=3)
        axis.plot(summary.mean, row, "D", color=colour, ms=8)
        axis.annotate(
            f"{summary.mean:.2f}", (summary.mean, row), xytext=(0, -17),
            textcoords="offset points", ha="center",
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.4, -0.55)
    axis.grid(axis="x", alpha=0.3)


def plot_finals(networks: Mapping[str, NetworkRuns]) -> bytes:
    """Draw the final accuracies of each network's runs."""
    figure, axis = subplots(figsize=(8, 1.2 + 1.1 * len(networks)))
    rows = {TITLES[model_type]: runs.accuracies for model_type, runs in networks.items()}
    draw_rows(axis, rows, [COLOURS[model_type] for model_type in networks])
    axis.set_xlabel("Test accuracy after the last epoch (%)")
    # At least 0.6 points: close-up, differences of few images would look large.
    low, high = axis.get_xlim()
    missing = max(0, 0.6 - (high - low)) / 2
    axis.set_xlim(low - missing, high + missing)
    figure.suptitle("Each dot is a run; diamond and bar: mean and its 95 % interval", fontsize=11)
    return to_png(figure)


def plot_classes(comparison: Comparison) -> bytes:
    """Draw each network's accuracy per class, with its interval."""
    figure, axis = subplots(figsize=(8, 4.4))
    for place, (model_type, runs) in enumerate(comparison.networks.items()):
        classes = class_accuracies(runs, comparison.test_images)
        aside = 0.2 * (place - (len(comparison.networks) - 1) / 2)
        x = [CLASSES.index(name) + aside for name in classes]
        ends = np.array([summary.ends for summary in classes.values()])
        means = [summary.mean for summary in classes.values()]
        colour = COLOURS[model_type]
        axis.vlines(x, ends[:, 0], ends[:, 1], color=colour, lw=3)
        axis.plot(x, means, "D", color=colour, ms=6, label=TITLES[model_type])
    count = len(CLASSES)
    for between in np.arange(0.5, count - 1):
        axis.axvline(between, color="#dddddd", lw=0.8)
    axis.set_xticks(range(count), NAMES)
    axis.set(xlim=(-0.5, count - 0.5), xlabel="Class", ylabel="Test accuracy (%)")
    axis.grid(axis="y", alpha=0.3)
    legend_below(figure, axis, "mean over the runs and its 95 % interval")
    return to_png(figure)


def plot_confusion(title: str, counts: np.ndarray, runs: int) -> bytes:
    """Draw a confusion matrix, float [C, C]: rows are true classes, means over so many runs."""
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    correct = np.eye(len(counts), dtype=bool)
    scale = max(1, len(counts) / 13)  # so that the numbers of more classes fit, too
    figure, axis = subplots(figsize=(8 * scale, 7 * scale))
    # Two scales, as what is correct, a hundred times as much, would drown the errors.
    axis.imshow(np.ma.array(percent, mask=~correct), cmap="Blues", vmin=0, vmax=250)
    errors = np.ma.array(percent, mask=correct)
    norm = PowerNorm(0.5, 0, max(errors.max(), 0.01))
    drawn = axis.imshow(errors, cmap="Oranges", norm=norm)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            share = percent[row, column]
            number = f"{count:,.1f}" if runs > 1 else f"{count:,.0f}"
            dark = row != column and norm(share) > 0.75
            axis.text(
                column, row, f"{number}\n{share:.1f} %" if share >= 0.05 else number,
                ha="center", va="center", fontsize=8, color="white" if dark else "black",
                weight="bold" if row == column else "normal",
            )  # fmt: skip
    axis.set(xlabel="Predicted class", ylabel="True class")
    axis.set_xticks(range(len(CLASSES)), NAMES)
    axis.set_yticks(range(len(CLASSES)), NAMES)
    figure.colorbar(drawn, label="errors, percent of the row's images", shrink=0.8)
    mean = f"mean of {runs} runs" if runs > 1 else "one run"
    figure.suptitle(f"{title}: test images ({mean}) and percent of the row", fontsize=11)
    return to_png(figure)


def plot_misclassified(
    title: str, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> bytes:
    """Draw the 20 most confident mistakes of one run.

    Images float [N, 28, 28] as the network sees them, labels int [N], probabilities float [N, C].
    """
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-probabilities[wrong, predictions[wrong]])][:20]
    figure, axes = subplots(4, 5, figsize=(8, 7.6))
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, worst, strict=False):
        axis.imshow(images[index], cmap="gray_r")
        guess = predictions[index]
        text = f"{NAMES[labels[index]]} taken for {NAMES[guess]}\n"
        axis.set_title(f"{text}{100 * probabilities[index, guess]:.1f} %", fontsize=9)
    figure.suptitle(title)
    return to_png(figure)


def plot_hard_images(
    groups: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    note: str,
) -> bytes:
    """Draw groups of misclassified images, of each the first 20: place, label, predictions.

    Args:
        groups: caption -> places in the test set, int [M].
        images: as the network sees them, float [N, 28, 28].
        labels: int [N].
        predictions: network -> the class that most of its runs predict, int [N].
        note: on the images, with which captions end.
    """
    rows = [max(1, -(-min(len(places), 20) // 10)) for places in groups.values()]
    figure, axes = subplots(
        len(rows), 1, figsize=(10, 0.6 + sum(0.45 + 1.42 * count for count in rows)),
        height_ratios=rows, squeeze=False,
    )  # fmt: skip
    for axis, count, (caption, places) in zip(axes.flat, rows, groups.items(), strict=True):
        plural = "" if len(places) == 1 else "s"
        more = ", the first 20" if len(places) > 20 else ""
        title = f"{caption}: {len(places)} image{plural}{more}{note}"
        axis.set_title(title, fontsize=11, loc="left")
        axis.axis("off")
        for index, place in enumerate(places[:20]):
            top, left = 57 * (index // 10), 40 * (index % 10)
            extent = (left + 6, left + 34, top + 43, top + 15)
            axis.imshow(images[place], cmap="gray_r", extent=extent)
            text = f"{place}\ntrue {NAMES[labels[place]]}"
            axis.text(left + 20, top + 14, text, ha="center", va="bottom", fontsize=9.5)
            for column, (model_type, classes) in enumerate(predictions.items()):
                axis.text(
                    left + 20 + 8 * (column - (len(predictions) - 1) / 2), top + 49,
                    NAMES[classes[place]], ha="center", va="center", fontsize=10, weight="bold",
                    color=COLOURS[model_type],
                )  # fmt: skip
        axis.set(xlim=(0, 400), ylim=(57 * count, 0), aspect="equal")  # imshow has set others
    patches = [Patch(color=COLOURS[name], label=TITLES[name]) for name in predictions]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=len(patches), fontsize=10,
        title="number in the test set, true class, image, and the class that most runs predict:",
    )  # fmt: skip
    return to_png(figure)


def plot_filters(
    title: str, filters: np.ndarray, image: np.ndarray, maps: np.ndarray, note: str
) -> bytes:
    """Draw a first layer: filters [6, 5, 5] and, below, the maps [6, 24, 24] of an image.

    The note, on the image, goes into its title.
    """
    top = [f"filter {number}" for number in range(1, 1 + len(filters))]
    bottom = [f"map of {name}" for name in top]
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    axes = figure.subplot_mosaic(
        [["image", *top], ["image", *bottom]], width_ratios=[1.2, *([1] * len(filters))],
    )  # fmt: skip
    for name, axis in axes.items():
        axis.axis("off")
        axis.set_title(name, fontsize=9.5)
    axes["image"].imshow(image, cmap="gray_r")
    axes["image"].set_title(f"image{note}", fontsize=9.5)
    limit = np.abs(filters).max()
    for index, (weights, result) in enumerate(zip(filters, maps, strict=True)):
        drawn = axes[top[index]].imshow(weights, cmap="PuOr", vmin=-limit, vmax=limit)
        shown = axes[bottom[index]].imshow(result, cmap="gray_r", vmin=0, vmax=maps.max())
    figure.colorbar(drawn, ax=[axes[name] for name in top], label="weight", shrink=0.9)
    figure.colorbar(shown, ax=[axes[name] for name in bottom], label="output", shrink=0.9)
    size = "x".join(map(str, filters.shape[1:]))
    caption = f"{title}: the learned {size} filters, and their outputs after ReLU"
    figure.suptitle(caption, fontsize=11)
    return to_png(figure)


def plot_runs(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Draw the curves of runs, run -> history: train dashed, others solid, a colour per run."""
    figure, axes = subplots(1, 2, figsize=(10, 5))
    for axis, metric in zip(axes, ("accuracy", "loss"), strict=True):
        for index, (name, history) in enumerate(histories.items()):
            epochs = [row["epoch"] for row in history]
            label = drawable(name)
            label = f" {label}" if label[0] == "_" else label  # else legends leave it out
            for column in (column for column in history[0] if column.endswith(metric)):
                train = column.startswith("train")
                axis.plot(
                    epochs, [row.get(column, math.nan) for row in history], "--" if train else "-",
                    color=PALETTE[index % len(PALETTE)], label=None if train else label,
                    marker="o" if len(history) == 1 else "", mfc="none" if train else None,
                    alpha=0.6 if train else 1,
                )  # fmt: skip
        axis.set_title(metric, fontsize=11)
        metric_scale(axis, metric)
        epoch_axis(axis)
    legend_below(figure, axes[0], "solid: test or validation images, dashed: training")
    return to_png(figure)
