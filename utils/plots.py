"""Every plot of this project: from plain numbers to the bytes of a PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no screen is needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator

from utils.stats import describe

# The colour-blind safe palette of Okabe and Ito (2008): a network's colour is its place's.
PALETTE = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
Titles = Mapping[str, str]  # network -> title, in the order that gives the colours


def _colour(titles: Titles, model_type: str) -> str:
    return PALETTE[list(titles).index(model_type) % len(PALETTE)]


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    plt.close(figure)
    return content.getvalue()


def _image_grid(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _whole_epochs(axis: Axes) -> None:
    axis.set(xlabel="Epoch")
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.grid(alpha=0.3)


def plot_samples(images: np.ndarray, labels: Sequence[int]) -> bytes:
    """Draw the first 50 images uint8 [N, 28, 28] as they are stored, each under its label."""
    figure, axes = _image_grid(1, 1, (8, 4.6))
    step, mosaic = 40, np.full((5 * 40, 10 * 40), 255, np.uint8)  # one picture draws faster than 50
    for index, (image, label) in enumerate(zip(images[:50], labels[:50], strict=True)):
        row, column = (step * place for place in divmod(index, 10))
        mosaic[row + 12 :, column + 6 :][:28, :28] = image
        axes[0, 0].text(column + 20, row + 10, str(label), ha="center", fontsize=11)
    axes[0, 0].imshow(mosaic, cmap="gray", vmin=0, vmax=255)
    return _png(figure)


# --- One run ----------------------------------------------------------------------------------


def plot_run(
    metric: str, name: str, model_type: str, history: list[dict[str, float]], titles: Titles
) -> bytes:
    """Draw one run's loss or accuracy over its epochs.

    Args:
        metric: loss or accuracy.
        name: of the run.
        model_type: of the run.
        history: one dict per epoch, with the columns of metrics.csv.
        titles: of the networks.
    """
    label, places = {"loss": ("Loss (cross entropy)", 4), "accuracy": ("Accuracy (%)", 2)}[metric]
    epochs = [row["epoch"] for row in history]
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for column in (column for column in history[0] if column.endswith(metric)):
        split, values = column.split("_")[0], [row[column] for row in history]
        train = split == "train"
        axis.plot(
            epochs, values, "--" if train else "-", marker="o", ms=4,
            color="#555555" if train else _colour(titles, model_type),
            label=f"{split}, final {values[-1]:.{places}f}",
        )  # fmt: skip
    if len(history) == 1:
        axis.set_xlim(0, 2)
    axis.set(ylabel=label, title=f"{titles[model_type]}, run {name}: {metric}")
    _whole_epochs(axis)
    axis.legend()
    return _png(figure)


# --- Many runs --------------------------------------------------------------------------------


def _curves(runs: list[dict[str, Any]], model_type: str, column: str) -> np.ndarray:
    """Return a network's curves, [runs, epochs]."""
    return np.array([run["curves"][column] for run in runs if run["model_type"] == model_type])


def _networks(runs: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(run["model_type"] for run in runs))


def plot_comparison(metric: str, runs: list[dict[str, Any]], titles: Titles) -> bytes:
    """Draw every network's curves: the mean line, and the band from the lowest to the highest run.

    Args:
        metric: accuracy (percent) or loss.
        runs: as in the results' JSON: model_type, seed, curves.
        titles: of the networks.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
    means = []
    for axis, split in zip(axes, ("train", "test"), strict=True):
        for model_type in _networks(runs):
            curves = _curves(runs, model_type, f"{split}_{metric}")
            epochs = np.arange(1, curves.shape[1] + 1)
            colour, mean = _colour(titles, model_type), curves.mean(axis=0)
            axis.plot(epochs, mean, color=colour, label=titles[model_type])
            low, high = curves.min(axis=0), curves.max(axis=0)
            axis.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
            # The first epochs, far from where the lines live, run out of the picture.
            means.append(mean[min(2, len(mean) - 1) :])
        axis.set(title=f"{split} {metric}")
        _whole_epochs(axis)
    if metric == "accuracy":
        axes[0].set(ylabel="Accuracy (%)", ylim=(np.concatenate(means).min() - 0.5, 100))
    else:
        axes[0].set(ylabel="Loss (cross entropy)", ylim=(0, np.concatenate(means).max() * 1.05))
    count = len({run["seed"] for run in runs})
    axes[1].legend(title=f"mean of {count} runs, band: lowest to highest", fontsize=9, loc="best")
    return _png(figure)


def plot_finals(runs: list[dict[str, Any]], networks: dict[str, Any], titles: Titles) -> bytes:
    """Draw every run's final test accuracy as a dot, and each network's mean with its interval.

    Args:
        runs: as in the results' JSON: model_type, seed, curves.
        networks: as in the results' JSON: accuracy with its mean and interval.
        titles: of the networks.
    """
    figure, axis = plt.subplots(figsize=(8, 1.2 + 1.1 * len(networks)), layout="constrained")
    for row, (model_type, network) in enumerate(networks.items()):
        finals = _curves(runs, model_type, "test_accuracy")[:, -1]
        heights = row + 0.16 + 0.2 * np.linspace(0, 1, len(finals))  # apart, in order of seed
        colour, accuracy = _colour(titles, model_type), network["test_accuracy"]
        axis.scatter(finals, heights, s=22, color=colour, alpha=0.6, lw=0)
        mean = accuracy["mean"]
        axis.hlines(row, *(accuracy["interval"] or (mean, mean)), color=colour, lw=3)
        axis.plot(mean, row, "D", color=colour, ms=8)
        axis.annotate(
            f"{mean:.2f}", (mean, row), xytext=(0, -17), textcoords="offset points", ha="center"
        )
    axis.set_yticks(range(len(networks)), [titles[model_type] for model_type in networks])
    axis.set(
        ylim=(-0.55, len(networks) - 0.4),
        xlabel="Test accuracy after the last epoch (%)",
    )
    figure.suptitle("Each dot is a run; diamond and bar: mean and its 95 % interval", fontsize=11)
    axis.grid(axis="x", alpha=0.3)
    return _png(figure)


def plot_confusion(title: str, counts: np.ndarray, runs: int) -> bytes:
    """Draw a confusion matrix, int [10, 10]: rows are true digits, summed over so many runs."""
    errors = counts - np.diag(np.diag(counts))
    figure, axis = plt.subplots(figsize=(6.5, 6), layout="constrained")
    # Coloured by the errors alone: the diagonal, a hundred times as large, would drown them.
    axis.imshow(errors, cmap="Blues", norm=PowerNorm(0.5))
    for (row, column), count in np.ndenumerate(counts):
        dark = row != column and count > 0.4 * errors.max()
        axis.text(
            column, row, f"{count:,}" if count else "", ha="center", va="center", fontsize=7.5,
            color="white" if dark else "black", weight="bold" if row == column else "normal",
        )  # fmt: skip
    axis.set(xlabel="Predicted digit", ylabel="True digit", xticks=range(10), yticks=range(10))
    plural = "s" if runs > 1 else ""
    axis.set_title(f"{title}: test images by digit, sum of {runs} run{plural}", fontsize=11)
    return _png(figure)


def plot_misclassified(
    title: str, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> bytes:
    """Draw the 20 most confident mistakes of one run.

    Args:
        title: of the picture.
        images: uint8 [N, 28, 28].
        labels: int [N].
        probabilities: float [N, 10] that the network gives the digits.
    """
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-probabilities[wrong, predictions[wrong]])][:20]
    figure, axes = _image_grid(4, 5, (8, 7.6))
    for axis, index in zip(axes.flat, worst, strict=False):
        axis.imshow(images[index], cmap="gray_r")
        guess = predictions[index]
        text = f"{labels[index]} taken for {guess}\n{100 * probabilities[index, guess]:.1f} %"
        axis.set_title(text, fontsize=9)
    figure.suptitle(title)
    return _png(figure)


def plot_filters(filters: np.ndarray, image: np.ndarray, maps: np.ndarray) -> bytes:
    """Draw a first layer: filters [6, 5, 5] and, below, the maps [6, 24, 24] of an image."""
    figure, axes = _image_grid(2, 1 + len(filters), (10, 3.4))
    axes[1, 0].imshow(image, cmap="gray_r")
    axes[1, 0].set_title("digit", fontsize=9)
    limit = np.abs(filters).max()
    for column, (weights, result) in enumerate(zip(filters, maps, strict=True), start=1):
        drawn = axes[0, column].imshow(weights, cmap="PuOr", vmin=-limit, vmax=limit)
        axes[0, column].set_title(f"filter {column}", fontsize=9)
        axes[1, column].imshow(result, cmap="gray_r", vmin=0, vmax=maps.max())
        axes[1, column].set_title(f"map {column}", fontsize=9)
    figure.colorbar(drawn, ax=axes[0].tolist(), label="weight", shrink=0.9)
    figure.suptitle("LeNet-5: the six learned 5x5 filters, and their maps of one digit (ReLU)")
    return _png(figure)


# --- Studies ----------------------------------------------------------------------------------


def plot_ablation(steps: list[dict[str, Any]], titles: Titles) -> bytes:
    """Draw each network's ablation: a row per step, its runs as dots, the mean and its interval.

    Args:
        steps: as in ablation.json: model_type, step, extra, accuracies (percent), accuracy.
        titles: of the networks.
    """
    models = _networks(steps)
    figure, axes = plt.subplots(
        1, len(models), figsize=(5.5 * len(models), 5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, model_type in zip(axes[0], models, strict=True):
        own = [step for step in steps if step["model_type"] == model_type and not step["extra"]]
        colour = _colour(titles, model_type)
        means = [step["accuracy"]["mean"] for step in own]
        axis.plot(means, range(len(own)), "D-", color=colour, lw=1)
        for row, (step, mean) in enumerate(zip(own, means, strict=True)):
            accuracies = step["accuracies"]
            axis.scatter(accuracies, [row + 0.2] * len(accuracies), s=16, color=colour, alpha=0.5)
            low, high = step["accuracy"]["interval"] or (mean, mean)
            axis.hlines(row, low, high, color=colour, lw=3)
            axis.annotate(
                f"{mean:.2f}", (max(high, *accuracies), row), xytext=(6, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
        axis.set_yticks(range(len(own)), [step["step"] for step in own])
        axis.set(ylim=(-0.6, len(own) - 0.5), xlabel="Accuracy on validation images (%)")
        axis.set_title(titles[model_type])
        axis.margins(x=0.15)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(
        "Each step adds to the one below; dots are runs, bars the means' 95 % intervals"
    )
    return _png(figure)


def plot_augmentation(images: np.ndarray) -> bytes:
    """Draw float [R, C, 28, 28]: per row an image, its deskewed form, then its augmentations."""
    rows, columns = images.shape[:2]
    figure, axes = _image_grid(rows, columns, (columns, rows))
    for axis, image in zip(axes.flat, images.reshape(-1, 28, 28), strict=True):
        axis.imshow(image, cmap="gray_r")
    for axis, title in zip(axes[0], ("image", "deskewed", "augmented"), strict=False):
        axis.set_title(title, fontsize=10)
    return _png(figure)


def _draw_band(
    axis: Axes, xs: Sequence[float], described: Sequence[dict[str, Any]], **style: Any
) -> None:
    """Draw described values, each with its mean and interval, as a line and a band."""
    means = [one["mean"] for one in described]
    intervals = [one["interval"] or (one["mean"], one["mean"]) for one in described]
    axis.plot(xs, means, marker="o", ms=3, **style)
    axis.fill_between(xs, *np.transpose(intervals), color=style["color"], alpha=0.2, lw=0)


def plot_data_size(points: list[dict[str, Any]], titles: Titles) -> bytes:
    """Draw each network's error over the number of training images, plain and augmented.

    Args:
        points: as in data_size.json: model_type, augmented, images, accuracies (percent).
        titles: of the networks.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharey=True, layout="constrained")
    for axis, augmented in zip(axes, (False, True), strict=True):
        for model_type in _networks(points):
            own = [
                point for point in points
                if (point["model_type"], point["augmented"]) == (model_type, augmented)
            ]  # fmt: skip
            style = {"color": _colour(titles, model_type), "label": titles[model_type]}
            sizes = [point["images"] for point in own]
            errors = [describe([100 - a for a in point["accuracies"]]) for point in own]
            _draw_band(axis, sizes, errors, **style)
        axis.set(xscale="log", yscale="log", xlabel="Training images")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axis.set_title("with augmentation" if augmented else "without augmentation")
        axis.grid(alpha=0.3, which="both")
        axis.minorticks_off()
    axes[0].set(ylabel="Error (%)")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes[1].legend(title=f"mean of {errors[0]['n']} runs, band: its 95 % interval")
    return _png(figure)


def plot_robustness(
    curves: Mapping[str, Mapping[str, Mapping[str, Mapping[float, dict[str, Any]]]]],
    labels: Mapping[str, str],
    titles: Titles,
) -> bytes:
    """Draw small multiples: for each recipe a panel per perturbation, accuracy over strength.

    Args:
        curves: recipe -> perturbation -> network -> strength -> accuracy (percent, described).
        labels: perturbation -> label of its axis.
        titles: of the networks.
    """
    columns = 4
    rows = -(-(len(labels) + 1) // columns)  # one panel is left to the legend
    figure = plt.figure(figsize=(11, 5 * len(curves)), layout="constrained")
    parts = figure.subfigures(len(curves), 1, squeeze=False)[:, 0]
    for part, (recipe, panels) in zip(parts, curves.items(), strict=True):
        axes = part.subplots(rows, columns, sharey=True, squeeze=False)
        part.suptitle(f"Recipe {recipe}")
        for axis, (name, networks) in zip(axes.flat, panels.items(), strict=False):
            for model_type, curve in networks.items():
                style = {"color": _colour(titles, model_type), "label": titles[model_type]}
                _draw_band(axis, list(curve), list(curve.values()), **style)
            axis.set(title=name, xlabel=labels[name], ylim=(0, 102))
            axis.grid(alpha=0.3)
        for axis in axes[:, 0]:
            axis.set(ylabel="Test accuracy (%)")
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        count = next(iter(curve.values()))["n"]
        legend = f"mean of {count} runs,\nband: its 95 % interval"
        axes.flat[len(panels)].legend(
            *axes.flat[0].get_legend_handles_labels(), title=legend, loc="center"
        )
    return _png(figure)
