"""The plots of one run and of the data, and what every plot shares: from values to a PNG's bytes.

Figures are made without pyplot, so that importing this changes nothing in a notebook.
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from utils.classes import CLASSES
from utils.command import IS_COMMAND

if IS_COMMAND:  # whatever the user's matplotlibrc says; in a notebook it stays as it is
    matplotlib.rcdefaults()

# A README shows a picture about 830 pixels wide: what is F points in one W inches wide is there
# 8.6 * F / W points. So no font is smaller than 9.5 in those 10 inches wide, and 7.5 in 8.


def subplots(
    rows: int = 1, columns: int = 1, figsize: tuple[float, float] = (7, 4.5), **options: Any
) -> tuple[Figure, Any]:
    """Return a figure and its axes, as pyplot.subplots() does."""
    figure = Figure(figsize=figsize, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def drawable(text: str) -> str:
    """Return a text with escapes such as \\u7167 in place of characters that the font lacks."""
    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(c if ord(c) in known else ascii(c)[1:-1] for c in text)


NAMES = [drawable(name) for name in CLASSES]


def to_png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def _nearness(accuracy: np.ndarray) -> np.ndarray:
    """Map accuracies in percent to a scale on which half the errors are one step everywhere."""
    return -np.log10(np.maximum(100 - np.asarray(accuracy), 0.01))


def metric_scale(axis: Axes, metric: str) -> None:
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


def epoch_axis(axis: Axes) -> None:
    axis.set(xlabel="Epoch")
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.grid(alpha=0.3)


def plot_samples(images: np.ndarray, labels: Sequence[int]) -> bytes:
    """Draw the first 50 images uint8 [N, 28, 28] as they are stored, each under its class."""
    figure, axis = subplots(figsize=(8, 4.2))
    axis.axis("off")
    side = 40  # pixels between two images: one picture draws faster than 50
    mosaic = np.full((5 * side + 6, 10 * side), 255, np.uint8)
    for index, (image, label) in enumerate(zip(images[:50], labels[:50], strict=True)):
        row, column = side * (index // 10), side * (index % 10)
        mosaic[row + 12 :, column + 6 :][:28, :28] = image
        axis.text(column + 20, row + 10, NAMES[label], ha="center", fontsize=11)
    axis.imshow(mosaic, cmap="gray", vmin=0, vmax=255)
    return to_png(figure)


# --- One run ----------------------------------------------------------------------------------


def plot_run(metric: str, title: str, colour: str, history: list[dict[str, float]]) -> bytes:
    """Draw one run's loss or accuracy, the metric, over its epochs, as a PNG."""
    places = {"loss": 4, "accuracy": 2}[metric]
    figure, axis = subplots()
    for column in (column for column in history[0] if column.endswith(metric)):
        rows = [row for row in history if column in row]  # later epochs may lack it
        epochs, values = [row["epoch"] for row in rows], [row[column] for row in rows]
        split = column.split("_")[0]
        line, ink = ("--", "#555555") if split == "train" else ("-", colour)
        label = f"{split}, final {values[-1]:.{places}f}"
        axis.plot(epochs, values, line, marker="o", ms=4, color=ink, label=label)
    if len(history) == 1:
        axis.set_xlim(0, 2)
    metric_scale(axis, metric)
    axis.set_title(drawable(f"{title}: {metric}"), parse_math=False)
    epoch_axis(axis)
    axis.legend()
    return to_png(figure)
