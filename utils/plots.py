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
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import (
    FixedLocator,
    FormatStrFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from utils.stats import describe

# The colour-blind safe palette of Okabe and Ito (2008): a network's colour is its place's.
PALETTE = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
Titles = Mapping[str, str]  # network -> title, in the order that gives the colours
# A README shows a picture about 830 pixels wide: what is F points in one W inches wide is there
# 8.6 * F / W points. So no font is smaller than 9.5 in those 10 inches wide, and 7.5 in 8.


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


def _nearness(accuracy: np.ndarray) -> np.ndarray:
    """Map accuracies in percent to a scale on which half the errors are one step everywhere."""
    return -np.log10(np.maximum(100 - np.asarray(accuracy), 0.01))


def _metric_scale(axis: Axes, metric: str) -> None:
    """Give the y axis a logarithmic scale, of the loss or of the errors.

    The first epochs are far from the last ones: on a plain scale they'd squeeze all others.
    """
    if metric == "loss":
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
        axis.set_ylabel("Loss (cross entropy), logarithmic")
    else:
        axis.set_yscale("function", functions=(_nearness, lambda y: 100 - 10 ** -np.asarray(y)))
        ticks = [0, 50, 70, 80, 90, 95, 97, 98, 99, 99.5, 99.7, 99.9, 99.95]
        axis.yaxis.set_major_locator(FixedLocator(ticks))
        axis.set_ylabel("Accuracy (%), logarithmic in the errors")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _whole_epochs(axis: Axes) -> None:
    axis.set(xlabel="Epoch")
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.grid(alpha=0.3)


def plot_samples(images: np.ndarray, labels: Sequence[int]) -> bytes:
    """Draw the first 50 images uint8 [N, 28, 28] as they are stored, each under its label."""
    figure, axes = _image_grid(1, 1, (8, 4.2))
    step, mosaic = (
        40,
        np.full((5 * 40 + 6, 10 * 40), 255, np.uint8),
    )  # one picture draws faster than 50
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
    places = {"loss": 4, "accuracy": 2}[metric]
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
    _metric_scale(axis, metric)
    axis.set(title=f"{titles[model_type]}, run {name}: {metric}")
    _whole_epochs(axis)
    axis.legend()
    return _png(figure)


# --- Many runs --------------------------------------------------------------------------------


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
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=shared, layout="constrained")
    for axis, split in zip(axes, ("train", "test"), strict=True):
        for model_type in _networks(runs):
            curves = _curves(runs, model_type, f"{split}_{metric}")
            epochs = np.arange(1, curves.shape[1] + 1)
            colour = _colour(titles, model_type)
            axis.plot(epochs, curves.mean(axis=0), color=colour, label=titles[model_type])
            low, high = curves.min(axis=0), curves.max(axis=0)
            axis.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        note = f" ({trained_on})" if split == "train" and trained_on else ""
        axis.set_title(f"{split} {metric}{note}", fontsize=11)
        _metric_scale(axis, metric)
        _whole_epochs(axis)
    axes[1].set_ylabel("")
    count = len({run["seed"] for run in runs})
    figure.legend(
        *axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=len(titles),
        title=f"line: mean of {count} run{'s' if count > 1 else ''}, band: lowest to highest run",
    )  # fmt: skip
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
        heights = row - 0.16 - 0.2 * np.linspace(0, 1, len(finals))  # apart, in order of seed
        colour, accuracy = _colour(titles, model_type), network["test_accuracy"]
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
    return _png(figure)


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
    figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for place, (model_type, network) in enumerate(networks.items()):
        digits, parts = zip(*network["digit_accuracy"].items(), strict=True)
        x = np.array([int(digit) for digit in digits]) + 0.2 * (place - (len(networks) - 1) / 2)
        colour, means = _colour(titles, model_type), [part["mean"] for part in parts]
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
    return _png(figure)


def plot_confusion(title: str, counts: np.ndarray, runs: int) -> bytes:
    """Draw a confusion matrix, float [10, 10]: rows are true digits, means over so many runs."""
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(10, dtype=bool)
    figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
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
    return _png(figure)


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
    figure, axes = _image_grid(4, 5, (8, 7.6))
    for axis, index in zip(axes.flat, worst, strict=False):
        axis.imshow(images[index], cmap="gray_r")
        guess = predictions[index]
        text = f"{labels[index]} taken for {guess}\n{100 * probabilities[index, guess]:.1f} %"
        axis.set_title(text, fontsize=9)
    figure.suptitle(title)
    return _png(figure)


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
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(10, 0.6 + sum(0.45 + 1.42 * count for count in rows)),
        height_ratios=rows, squeeze=False, layout="constrained",
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
                    color=_colour(titles, model_type),
                )  # fmt: skip
        axis.set(xlim=(0, 400), ylim=(57 * count, 0))  # which imshow has changed
    patches = [Patch(color=_colour(titles, name), label=titles[name]) for name in said]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=len(said), fontsize=10,
        title="number in the test set, true digit, image, and the digit that most runs read:",
    )  # fmt: skip
    return _png(figure)


def plot_filters(
    title: str, filters: np.ndarray, image: np.ndarray, maps: np.ndarray, note: str
) -> bytes:
    """Draw a first layer: filters [6, 5, 5] and, below, the maps [6, 24, 24] of an image.

    The note, on the image, goes into its title.
    """
    top = [f"filter {number}" for number in range(1, 1 + len(filters))]
    bottom = [f"map of {name}" for name in top]
    figure, axes = plt.subplot_mosaic(
        [["image", *top], ["image", *bottom]], figsize=(10, 3.5), layout="constrained",
        width_ratios=[1.2, *([1] * len(filters))],
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
    return _png(figure)


# --- Pictures ---------------------------------------------------------------------------------

MAX_PICTURES, MAX_TILES = 8, 24  # of them are drawn, and so many digits of each
TILE_COLUMNS = 6


def _tile(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return a picture uint8 [160, 120, 3] of a digit [28, 28] over bars of its probabilities."""
    tile = np.full((160, 120, 3), 255, np.uint8)
    tile[:112, 4:116] = np.kron(image, np.ones((4, 4), np.uint8))[..., None]
    for digit, share in enumerate(shares):
        height, left = max(1, round(30 * share)), 5 + 11 * digit
        colour = (0, 114, 178) if digit == shares.argmax() else (150, 150, 150)
        tile[148 - height : 148, left : left + 9] = colour
    return tile


def plot_predictions(
    pictures: Sequence[tuple[str, np.ndarray, Sequence[Any], np.ndarray]],
) -> bytes:
    """Draw pictures with boxes around their digits, what the network saw, and its answers.

    Args:
        pictures: of each the name, the picture uint8 [H, W, 3], the digits (box and image uint8
            [28, 28]) and their probabilities float [N, 10].
    """
    rows = [-(-min(len(digits), MAX_TILES) // TILE_COLUMNS) for _, _, digits, _ in pictures]
    figure, axes = plt.subplots(
        len(pictures), 2, figsize=(11, 0.3 + 1.9 * sum(rows)),
        squeeze=False, layout="constrained",
        height_ratios=rows, width_ratios=[4, TILE_COLUMNS],
    )  # fmt: skip
    for (left, right), (name, picture, digits, shares) in zip(axes, pictures, strict=True):
        left.imshow(picture)
        for digit in digits:
            x, y, x_end, y_end = digit.box
            left.add_patch(
                Rectangle((x, y), x_end - x, y_end - y, fill=False, ec="#D55E00", lw=1.5)
            )
        left.set_title(name, fontsize=10)
        count = min(len(digits), MAX_TILES)
        mosaic = np.full((185 * -(-count // TILE_COLUMNS), 130 * TILE_COLUMNS, 3), 255, np.uint8)
        for index in range(count):
            row, column = divmod(index, TILE_COLUMNS)
            y, x = 185 * row + 20, 130 * column
            mosaic[y : y + 160, x : x + 120] = _tile(digits[index].image, shares[index])
            guess = shares[index].argmax()
            text = f"{guess} ({100 * shares[index, guess]:.1f} %)"
            right.text(x + 60, y - 3, text, ha="center", va="bottom", fontsize=9)
            for digit in range(10):
                right.text(x + 9.5 + 11 * digit, y + 149, digit, ha="center", va="top", fontsize=6)
        right.imshow(mosaic)
        if count < len(digits):
            right.set_title(f"the first {count} of {len(digits)} digits", fontsize=10)
        left.axis("off")
        right.axis("off")
    return _png(figure)


# --- Studies ----------------------------------------------------------------------------------


def plot_ablation(steps: list[dict[str, Any]], titles: Titles) -> bytes:
    """Draw each network's ablation: a row per step, its runs as dots, the mean and its interval.

    Args:
        steps: as in ablation.json: model_type, step, block, accuracies (percent), accuracy.
        titles: of the networks.
    """
    models = _networks(steps)
    figure, axes = plt.subplots(
        1, len(models), figsize=(2 + 4 * len(models), 5), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, model_type in zip(axes[0], models, strict=True):
        own = [
            step for step in steps if step["model_type"] == model_type and step["block"] != "extra"
        ]
        colour = _colour(titles, model_type)
        means = [step["accuracy"]["mean"] for step in own]
        axis.plot(means, range(len(own)), "D-", color=colour, lw=1)
        for row, (step, mean) in enumerate(zip(own, means, strict=True)):
            accuracies = step["accuracies"]
            axis.scatter(accuracies, [row - 0.2] * len(accuracies), s=16, color=colour, alpha=0.5)
            low, high = step["accuracy"]["interval"] or (mean, mean)
            axis.hlines(row, low, high, color=colour, lw=3)
            axis.annotate(
                f"{mean:.2f}", (max(high, *accuracies), row), xytext=(6, 0),
                textcoords="offset points", va="center",
            )  # fmt: skip
        axis.set_yticks(range(len(own)), [step["step"] for step in own])
        axis.set(ylim=(len(own) - 0.5, -0.6), xlabel="Accuracy on validation images (%)")
        axis.set_title(titles[model_type])
        axis.margins(x=0.2)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(
        "Each step adds to the one above; dots are runs, bars the means' 95 % intervals"
    )
    return _png(figure)


def plot_augmentation(images: np.ndarray) -> bytes:
    """Draw float [R, C, 28, 28]: per row an image, its deskewed form, then its augmentations."""
    rows, columns = images.shape[:2]
    figure, axes = _image_grid(rows, columns, (columns, rows))
    for axis, image in zip(axes.flat, images.reshape(-1, 28, 28), strict=True):
        axis.imshow(image, cmap="gray_r")
    titles = ["image", "deskewed", *(f"augmented {count}" for count in range(1, columns - 1))]
    for axis, title in zip(axes[0], titles, strict=True):
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
