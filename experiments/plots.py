"""The plots of the studies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator

from comparison.plots import _networks
from comparison.stats import describe
from utils.plots import Titles, colour_of, image_grid, subplots, to_png


def plot_ablation(steps: list[dict[str, Any]], titles: Titles) -> bytes:
    """Draw each network's ablation: a row per step, its runs as dots, the mean and its interval.

    Args:
        steps: as in ablation.json: model_type, step, block, accuracies (percent), accuracy.
        titles: of the networks.
    """
    models = _networks(steps)
    figure, axes = subplots(
        1, len(models), figsize=(2 + 4 * len(models), 5), sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for axis, model_type in zip(axes[0], models, strict=True):
        own = [
            step for step in steps if step["model_type"] == model_type and step["block"] != "extra"
        ]
        colour = colour_of(titles, model_type)
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
    return to_png(figure)


def plot_augmentation(images: np.ndarray) -> bytes:
    """Draw float [R, C, 28, 28]: per row an image, its deskewed form, then its augmentations."""
    rows, columns = images.shape[:2]
    figure, axes = image_grid(rows, columns, (columns, rows))
    for axis, image in zip(axes.flat, images.reshape(-1, 28, 28), strict=True):
        axis.imshow(image, cmap="gray_r")
    titles = ["image", "deskewed", *(f"augmented {count}" for count in range(1, columns - 1))]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    return to_png(figure)


def draw_band(
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
    figure, axes = subplots(1, 2, figsize=(10, 4.8), sharey=True)
    for axis, augmented in zip(axes, (False, True), strict=True):
        for model_type in _networks(points):
            own = [
                point for point in points
                if (point["model_type"], point["augmented"]) == (model_type, augmented)
            ]  # fmt: skip
            style = {"color": colour_of(titles, model_type), "label": titles[model_type]}
            sizes = [point["images"] for point in own]
            errors = [describe([100 - a for a in point["accuracies"]]) for point in own]
            draw_band(axis, sizes, errors, **style)
        axis.set(xscale="log", yscale="log", xlabel="Training images")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axis.set_title("with augmentation" if augmented else "without augmentation")
        axis.grid(alpha=0.3, which="both")
        axis.minorticks_off()
    axes[0].set(ylabel="Error (%)")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes[1].legend(title=f"mean of {errors[0]['n']} runs, band: its 95 % interval")
    return to_png(figure)


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
    figure = Figure(figsize=(11, 5 * len(curves)), layout="constrained")
    parts = figure.subfigures(len(curves), 1, squeeze=False)[:, 0]
    for part, (recipe, panels) in zip(parts, curves.items(), strict=True):
        axes = part.subplots(rows, columns, sharey=True, squeeze=False)
        part.suptitle(f"Recipe {recipe}")
        for axis, (name, networks) in zip(axes.flat, panels.items(), strict=False):
            for model_type, curve in networks.items():
                style = {"color": colour_of(titles, model_type), "label": titles[model_type]}
                draw_band(axis, list(curve), list(curve.values()), **style)
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
    return to_png(figure)
