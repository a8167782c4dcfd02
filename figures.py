"""Every picture of this project: from plain numbers to a PNG in plots/."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no screen is needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm

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


def plot_run(model_type: str, history: list[dict[str, float]], tested: str = "test") -> list[Path]:
    """Draw loss and accuracy of one run over its epochs.

    Args:
        model_type: the network's name, for title and file name.
        history: one dict an epoch, with the columns of metrics.csv.
        tested: what the test columns are of: test, or held-out.

    Returns:
        The paths of loss_plot_{model_type}.png and accuracy_plot_{model_type}.png.
    """
    return [
        _plot_metric(model_type, history, tested, "loss", "Loss (cross entropy)", "{:.4f}"),
        _plot_metric(model_type, history, tested, "accuracy", "Accuracy (%)", "{:.2f} %"),
    ]


def _plot_metric(
    model_type: str, history: list[dict], tested: str, metric: str, label: str, form: str
) -> Path:
    epochs = [row["epoch"] for row in history]
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for split, colour, style in (("train", "#555555", "--"), ("test", COLOURS[model_type], "-")):
        values = [row[f"{split}_{metric}"] for row in history]
        final = form.format(values[-1])
        name = tested if split == "test" else split
        axis.plot(epochs, values, style, color=colour, label=f"{name}, final {final}")
        axis.plot(epochs[-1], values[-1], "o", color=colour)
    axis.set(xlabel="Epoch", ylabel=label, title=f"{TITLES[model_type]}: {metric}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, f"{metric}_plot_{model_type}")


def _curves(runs: list[dict], model_type: str, column: str) -> np.ndarray:
    """Return a model's curves, [runs, epochs]."""
    return np.array([run["curves"][column] for run in runs if run["model_type"] == model_type])


def _models_of(runs: list[dict]) -> list[str]:
    return list(dict.fromkeys(run["model_type"] for run in runs))


def plot_comparison(runs: list[dict], metric: str, suffix: str = "") -> Path:
    """Draw every model's curves: the mean line, and the band from the lowest to the highest run.

    Args:
        runs: as in results.json: model_type, seed, curves.
        metric: accuracy (percent) or loss.
        suffix: ends the file's name, here and below.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
    seen = []
    for axis, split in zip(axes, ("train", "test"), strict=True):
        for model_type in _models_of(runs):
            curves = _curves(runs, model_type, f"{split}_{metric}")
            epochs = np.arange(1, curves.shape[1] + 1)
            colour = COLOURS[model_type]
            axis.plot(epochs, curves.mean(axis=0), color=colour, label=TITLES[model_type])
            axis.fill_between(
                epochs, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, lw=0
            )
            # The first epochs, far from where the lines live, run out of the picture.
            seen.append(curves.mean(axis=0)[min(2, curves.shape[1] - 1) :])
        axis.set(xlabel="Epoch", title=f"{split} {metric}")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    seen = np.concatenate(seen)
    if metric == "accuracy":
        axes[0].set(ylabel="Accuracy (%)", ylim=(seen.min() - 0.5, 100))
    else:
        axes[0].set(ylabel="Loss (cross entropy)", ylim=(0, seen.max() * 1.05))
    count = len({run["seed"] for run in runs})
    title = f"mean of {count} runs, band: lowest to highest"
    axes[1].legend(title=title, fontsize=9, loc="best")
    return _save(figure, f"comparison_{metric}{suffix}")


def plot_finals(runs: list[dict], summary: dict, suffix: str = "") -> Path:
    """Draw every run's final test accuracy as a dot, and each model's mean with its interval."""
    models = _models_of(runs)
    figure, axis = plt.subplots(figsize=(8, 1.2 + 1.1 * len(models)), layout="constrained")
    for row, model_type in enumerate(models):
        finals = _curves(runs, model_type, "test_accuracy")[:, -1]
        heights = row + 0.16 + 0.2 * np.linspace(0, 1, len(finals))  # apart, in order of seed
        colour = COLOURS[model_type]
        axis.scatter(finals, heights, s=22, color=colour, alpha=0.6, lw=0)
        part = summary[model_type]["final"]["test_accuracy"]
        low, high = part["interval"] or (part["mean"], part["mean"])
        axis.hlines(row, low, high, color=colour, lw=3)
        axis.plot(part["mean"], row, "D", color=colour, ms=8)
        text = f"{part['mean']:.2f}"
        axis.annotate(
            text, (part["mean"], row), xytext=(0, -17), textcoords="offset points", ha="center"
        )
    axis.set_yticks(range(len(models)), [TITLES[model_type] for model_type in models])
    axis.set(
        ylim=(-0.55, len(models) - 0.4),
        xlabel="Test accuracy after the last epoch (%)",
        title="Each dot a run; diamond and bar: mean and its 95 % interval",
    )
    axis.grid(axis="x", alpha=0.3)
    return _save(figure, f"comparison_final{suffix}")


def plot_confusion(model_type: str, counts: np.ndarray, runs: int, suffix: str = "") -> Path:
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
    axis.set_title(
        f"{TITLES[model_type]}: test images by digit, sum of {runs} run{plural}", fontsize=11
    )
    return _save(figure, f"confusion_matrix_{model_type}{suffix}")


def plot_misclassified(
    model_type: str,
    images: np.ndarray,
    labels: np.ndarray,
    shares: np.ndarray,
    seed: int,
    suffix: str = "",
) -> Path:
    """Draw the 20 most confident mistakes of one run.

    Args:
        model_type: the network's name.
        images: float [N, 28, 28], in any scale.
        labels: int [N].
        shares: probabilities float [N, 10] that the network gives the digits.
        seed: of the run.
        suffix: ends the file's name.
    """
    predictions = shares.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-shares[wrong, predictions[wrong]])][:20]
    figure, axes = plt.subplots(4, 5, figsize=(8, 7.6), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, worst, strict=False):
        axis.imshow(images[index], cmap="gray_r")
        guess = predictions[index]
        title = f"{labels[index]} taken for {guess}\n{100 * shares[index, guess]:.1f} %"
        axis.set_title(title, fontsize=9)
    figure.suptitle(f"{TITLES[model_type]}: the most confident mistakes (seed {seed})")
    return _save(figure, f"misclassified_{model_type}{suffix}")


def plot_filters(
    filters: np.ndarray, image: np.ndarray, maps: np.ndarray, suffix: str = ""
) -> Path:
    """Draw LeNet-5's first layer: filters [6, 5, 5] and, below, maps [6, 24, 24] of an image."""
    figure, axes = plt.subplots(2, 7, figsize=(10, 3.4), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    axes[1, 0].imshow(image, cmap="gray_r")
    axes[1, 0].set_title("digit", fontsize=9)
    limit = np.abs(filters).max()
    for column, (weights, result) in enumerate(zip(filters, maps, strict=True), start=1):
        drawn = axes[0, column].imshow(weights, cmap="PuOr", vmin=-limit, vmax=limit)
        axes[0, column].set_title(f"filter {column}", fontsize=9)
        axes[1, column].imshow(result, cmap="gray_r", vmin=0, vmax=maps.max())
    figure.colorbar(drawn, ax=axes[0], label="weight", shrink=0.9)
    figure.suptitle("LeNet-5: the six learned 5x5 filters, and what they make of one digit (ReLU)")
    return _save(figure, f"filters_LeNet5{suffix}")


def plot_ladder(steps: list[dict]) -> Path:
    """Draw each network's ladder: a row a rung, dots its runs, the mean and its interval.

    Args:
        steps: as in ladder.json: model_type, step, side_step, accuracies (percent), accuracy.
    """
    models = _models_of(steps)
    figure, axes = plt.subplots(
        1, len(models), figsize=(11, 5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, model_type in zip(axes[0], models, strict=True):
        own = [step for step in steps if step["model_type"] == model_type and not step["side_step"]]
        colour = COLOURS[model_type]
        means = [step["accuracy"]["mean"] for step in own]
        axis.plot(means, range(len(own)), "D-", color=colour, lw=1)
        for row, step in enumerate(own):
            accuracies = step["accuracies"]
            axis.scatter(accuracies, [row + 0.2] * len(accuracies), s=16, color=colour, alpha=0.5)
            low, high = step["accuracy"]["interval"] or (means[row], means[row])
            axis.hlines(row, low, high, color=colour, lw=3)
            axis.annotate(
                f"{means[row]:.2f}", (high, row), xytext=(6, 0),
                textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
        axis.set_yticks(range(len(own)), [step["step"] for step in own])
        axis.set(ylim=(-0.6, len(own) - 0.5), xlabel="Accuracy on held-out images (%)")
        axis.set_title(TITLES[model_type])
        axis.margins(x=0.15)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(
        "Each rung adds to the one below; dots are runs, bars the means' 95 % intervals"
    )
    return _save(figure, "ladder")


def plot_warps(images: np.ndarray) -> Path:
    """Draw float [R, C, 28, 28]: in each row an image, the same set upright, then its warps."""
    rows, columns = images.shape[:2]
    figure, axes = plt.subplots(rows, columns, figsize=(columns, rows), layout="constrained")
    for axis, image in zip(axes.flat, images.reshape(-1, 28, 28), strict=True):
        axis.imshow(image, cmap="gray_r")
        axis.axis("off")
    for axis, title in zip(axes[0], ("image", "upright", "warps"), strict=False):
        axis.set_title(title, fontsize=10)
    return _save(figure, "warps")
