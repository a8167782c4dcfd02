"""Every picture of this project: from plain numbers to a PNG in plots/."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no screen is needed
import matplotlib.pyplot as plt
import numpy as np

from files import write_whole

PLOTS = Path("plots")

# One colour a model everywhere, from the colour-blind safe palette of Okabe and Ito (2008).
COLOURS = {"LeNet5": "#0072B2", "LeNet5_regularization": "#009E73", "CustomMLP": "#D55E00"}
TITLES = {
    "LeNet5": "LeNet-5",
    "LeNet5_regularization": "LeNet-5 with regularization",
    "CustomMLP": "CustomMLP",
}


def _save(figure: plt.Figure, name: str) -> Path:
    """Write a figure as plots/{name}.png, whole or not at all; returns the path."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    plt.close(figure)
    path = PLOTS / f"{name}.png"
    write_whole(path, content.getbuffer())
    return path


def plot_samples(images: np.ndarray, labels: list[int]) -> Path:
    """Draw the first 50 images uint8 [N, 28, 28], each under its label; returns the path."""
    figure, axes = plt.subplots(5, 10, figsize=(8, 5), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        axis.set_title(str(label), fontsize=10)
    return _save(figure, "samples")


def plot_run(model_type: str, history: list[dict[str, float]]) -> list[Path]:
    """Draw loss and accuracy of one run over its epochs.

    Args:
        model_type: the network's name, for title and file name.
        history: one dict an epoch, with the columns of metrics.csv.

    Returns:
        The paths of loss_plot_{model_type}.png and accuracy_plot_{model_type}.png.
    """
    return [
        _plot_metric(model_type, history, "loss", "Loss (cross entropy)", "{:.4f}"),
        _plot_metric(model_type, history, "accuracy", "Accuracy (%)", "{:.2f} %"),
    ]


def _plot_metric(model_type: str, history: list[dict], metric: str, label: str, form: str) -> Path:
    epochs = [row["epoch"] for row in history]
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for split, colour, style in (("train", "#555555", "--"), ("test", COLOURS[model_type], "-")):
        values = [row[f"{split}_{metric}"] for row in history]
        final = form.format(values[-1])
        axis.plot(epochs, values, style, color=colour, label=f"{split}, final {final}")
        axis.plot(epochs[-1], values[-1], "o", color=colour)
    axis.set(xlabel="Epoch", ylabel=label, title=f"{TITLES[model_type]}: {metric}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, f"{metric}_plot_{model_type}")
