"""The plots of a comparison: many runs of every network."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from utils.plots import Titles, colour_of, epoch_axis, image_grid, metric_scale, subplots, to_png


def _curves(runs: list[dict[str, Any]], model_type: str, column: str) -> np.ndarray:
    """Return a network's curves, [runs, epochs]."""
    return np.array([run["curves"][column] for run in runs if run["model_type"] == model_type])


def _networks(runs: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(run["model_type"] for run in runs))


def plot_comparison(
    metric: str, runs: list[dict[str, Any]], titles: Titles, trained_on: str
) -> bytes:
    """Draw every network's curves: the mean line, and the band from the lowest to the highest run.

    Args:
        metric: accuracy (percent) or loss.
        runs: as in the results' JSON: model_type, seed, curves.
        titles: of the networks.
        trained_on: what sets the training images apart from the test images; "" for nothing.
    """
    # Losses of smoothed labels are of another size than those of the test images.
    shared = metric == "accuracy"
    figure, axes = subplots(1, 2, figsize=(10, 5), sharey=shared)
    for axis, split in zip(axes, ("train", "test"), strict=True):
        for model_type in _networks(runs):
            curves = _curves(runs, model_type, f"{split}_{metric}")
            epochs = np.arange(1, curves.shape[1] + 1)
            colour = colour_of(titles, model_type)
            axis.plot(epochs, curves.mean(axis=0), color=colour, label=titles[model_type])
            low, high = curves.min(axis=0), curves.max(axis=0)
            axis.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        note = f" ({trained_on})" if split == "train" and trained_on else ""
        axis.set_title(f"{split} {metric}{note}", fontsize=11)
        metric_scale(axis, metric)
        epoch_axis(axis)
    axes[1].set_ylabel("")
    count = len({run["seed"] for run in runs})
    figure.legend(
        *axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=len(titles),
        title=f"line: mean of {count} run{'s' if count > 1 else ''}, band: lowest to highest run",
    )  # fmt: skip
    return to_png(figure)


def plot_finals(runs: list[dict[str, Any]], networks: dict[str, Any], titles: Titles) -> bytes:
    """Draw every run's final test accuracy as a dot, and each network's mean with its interval.

    Args:
        runs: as in the results' JSON: model_type, seed, curves.
        networks: as in the results' JSON: accuracy with its mean and interval.
        titles: of the networks.
    """
    figure, axis = subplots(figsize=(8, 1.2 + 1.1 * len(networks)))
    for row, (model_type, network) in enumerate(networks.items()):
        finals = _curves(runs, model_type, "test_accuracy")[:, -1]
        heights = row - 0.16 - 0.2 * np.linspace(0, 1, len(finals))  # apart, in order of seed
        colour, accuracy = colour_of(titles, model_type), network["test_accuracy"]
        axis.scatter(finals, heights, s=22, color=colour, alpha=0.6, lw=0)
        mean = accuracy["mean"]
        axis.hlines(row, *(accuracy["interval"] or (mean, mean)), color=colour, lw=3)
        axis.plot(mean, row, "D", color=colour, ms=8)
        axis.annotate(
            f"{mean:.2f}", (mean, row), xytext=(0, -17), textcoords="offset points", ha="center"
        )
    axis.set_yticks(range(len(networks)), [titles[model_type] for model_type in networks])
    axis.set(ylim=(len(networks) - 0.4, -0.55), xlabel="Test accuracy after the last epoch (%)")
    _widen(axis, 0.6)
    figure.suptitle("Each dot is a run; diamond and bar: mean and its 95 % interval", fontsize=11)
    axis.grid(axis="x", alpha=0.3)
    return to_png(figure)


def _widen(axis: Axes, width: float) -> None:
    """Make the x axis at least so wide: close-up, differences of few images would look large."""
    low, high = axis.get_xlim()
    missing = max(0, width - (high - low)) / 2
    axis.set_xlim(low - missing, high + missing)


def plot_digits(networks: dict[str, Any], titles: Titles) -> bytes:
    """Draw each network's accuracy per digit: mean and interval.

    Args:
        networks: as in the results' JSON: digit_accuracy with a mean and an interval per digit.
        titles: of the networks.
    """
    figure, axis = subplots(figsize=(8, 4.4))
    for place, (model_type, network) in enumerate(networks.items()):
        digits, parts = zip(*network["digit_accuracy"].items(), strict=True)
        x = np.array([int(digit) for digit in digits]) + 0.2 * (place - (len(networks) - 1) / 2)
        colour, means = colour_of(titles, model_type), [part["mean"] for part in parts]
        intervals = [part["interval"] or (part["mean"], part["mean"]) for part in parts]
        axis.vlines(x, *np.transpose(intervals), color=colour, lw=3)
        axis.plot(x, means, "D", color=colour, ms=6, label=titles[model_type])
    for between in np.arange(0.5, 9):
        axis.axvline(between, color="#dddddd", lw=0.8)
    axis.set(xticks=range(10), xlim=(-0.5, 9.5), xlabel="Digit", ylabel="Test accuracy (%)")
    axis.grid(axis="y", alpha=0.3)
    figure.legend(
        loc="outside lower center", ncols=len(networks),
        title="mean over the runs and its 95 % interval",
    )  # fmt: skip
    return to_png(figure)


def plot_confusion(title: str, counts: np.ndarray, runs: int) -> bytes:
    """Draw a confusion matrix, float [10, 10]: rows are true digits, means over so many runs."""
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(10, dtype=bool)
    figure, axis = subplots(figsize=(8, 7))
    # Two scales, as what is right, a hundred times as much, would drown the errors.
    axis.imshow(np.ma.array(percent, mask=~right), cmap="Blues", vmin=0, vmax=250)
    errors = np.ma.array(percent, mask=right)
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
    axis.set(xlabel="Predicted digit", ylabel="True digit", xticks=range(10), yticks=range(10))
    figure.colorbar(drawn, label="errors, percent of the row's images", shrink=0.8)
    mean = f"mean of {runs} runs" if runs > 1 else "one run"
    figure.suptitle(f"{title}: test images ({mean}) and percent of the row", fontsize=11)
    return to_png(figure)


def plot_misclassified(
    title: str, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> bytes:
    """Draw the 20 most confident mistakes of one run.

    Args:
        title: of the picture.
        images: float [N, 28, 28], as the network sees them.
        labels: int [N].
        probabilities: float [N, 10] that the network gives the digits.
    """
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-probabilities[wrong, predictions[wrong]])][:20]
    figure, axes = image_grid(4, 5, (8, 7.6))
    for axis, index in zip(axes.flat, worst, strict=False):
        axis.imshow(images[index], cmap="gray_r")
        guess = predictions[index]
        text = f"{labels[index]} taken for {guess}\n{100 * probabilities[index, guess]:.1f} %"
        axis.set_title(text, fontsize=9)
    figure.suptitle(title)
    return to_png(figure)


def plot_misread(
    groups: Mapping[str, Sequence[int]],
    images: np.ndarray,
    labels: np.ndarray,
    said: Mapping[str, np.ndarray],
    titles: Titles,
    note: str,
) -> bytes:
    """Draw groups of misread images, of each the first 20: place, label, what networks read.

    Args:
        groups: caption -> places of images.
        images: float [N, 28, 28], as the networks see them.
        labels: int [N].
        said: the digit that most runs of a network read, int [N], of each network.
        titles: of the networks.
        note: on the images, for the captions.
    """
    shown = {caption: places[:20] for caption, places in groups.items()}
    rows = [max(1, -(-len(places) // 10)) for places in shown.values()]
    figure, axes = subplots(
        len(rows), 1, figsize=(10, 0.6 + sum(0.45 + 1.42 * count for count in rows)),
        height_ratios=rows, squeeze=False,
    )  # fmt: skip
    for axis, count, (caption, places) in zip(axes.flat, rows, shown.items(), strict=True):
        total = len(groups[caption])
        more = ", the first 20" if total > 20 else ""
        plural = "" if total == 1 else "s"
        axis.set_title(f"{caption}: {total} image{plural}{more}{note}", fontsize=11, loc="left")
        axis.set(xlim=(0, 400), ylim=(57 * count, 0), aspect="equal")
        axis.axis("off")
        for index, place in enumerate(places):
            top, left = 57 * (index // 10), 40 * (index % 10)
            extent = (left + 6, left + 34, top + 43, top + 15)
            axis.imshow(images[place], cmap="gray_r", extent=extent)
            text = f"{place}\ntrue {labels[place]}"
            axis.text(left + 20, top + 14, text, ha="center", va="bottom", fontsize=9.5)
            for column, (model_type, digits) in enumerate(said.items()):
                axis.text(
                    left + 20 + 8 * (column - (len(said) - 1) / 2), top + 49, str(digits[place]),
                    ha="center", va="center", fontsize=10, weight="bold",
                    color=colour_of(titles, model_type),
                )  # fmt: skip
        axis.set(xlim=(0, 400), ylim=(57 * count, 0))  # which imshow has changed
    patches = [Patch(color=colour_of(titles, name), label=titles[name]) for name in said]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=len(said), fontsize=10,
        title="number in the test set, true digit, image, and the digit that most runs read:",
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
    figure.suptitle(f"{title}: the learned 5x5 filters, and their outputs after ReLU", fontsize=11)
    return to_png(figure)
