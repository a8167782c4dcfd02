"""What each part of the best recipe brings, measured on validation images.

    python -m experiments.ablation             5 seeds per step, the last 10,000 training images

Goes from the baseline to main.py's best recipe one step at a time and on to its record recipe, and
tries a few changes of the best one that were not kept. The test set is not touched. Finished runs
are kept in runs/compare/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for python experiments/ablation.py

from utils.command import run_command  # isort: split

import argparse
from typing import Any

import torch

from comparison.results import describe_setup
from comparison.runs import ManyRunsParser
from comparison.stats import POINTS, Summary, describe, format_mean
from comparison.tables import describe_seeds, markdown, setup_table
from dataset import Split, load_splits, prepare
from experiments.study import Study, finish_study, train_study
from main import RECIPES, Args, run
from model import TITLES
from utils.augment import deskew, make_augmentation

BEST = RECIPES["best"]
NETWORKS = ["LeNet5", "CustomMLP"]
SEEDS = 5
VAL_SIZE = 10_000


def _of_best(*names: str) -> dict[str, Any]:
    return {name: BEST[name] for name in names}


# Each step changes these settings of the one before.
STEPS = {
    "baseline": {},
    "one-cycle schedule, lr 0.05": {"schedule": "onecycle", "lr": 0.05},
    "label smoothing": _of_best("label_smoothing"),
    "affine augmentation": _of_best("rotate", "shift", "stretch", "shear"),
    "elastic augmentation": _of_best("elastic"),
    "weight decay": _of_best("weight_decay"),
    "deskewing": _of_best("deskew"),
    "lr 0.1": _of_best("lr"),
}
# Each of these changes the best recipe. KEPT sets the epochs, so --epochs leaves it out.
KEPT = {"80 epochs": {"epochs": 80}}
EXTRAS = {
    "lr 0.2": {"lr": 0.2},
    "label smoothing 0.1": {"label_smoothing": 0.1},
}
BLOCKS = {  # -> head of their table
    "best": "step",
    "record": "on top of the best recipe, kept as `record`",
    "extra": "on top of the best recipe, not kept",
}


def all_steps() -> dict[str, dict[str, Any]]:
    """Return step -> its block, the step it is compared with ("" for none), its settings."""
    steps: dict[str, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    before = ""
    for name, change in STEPS.items():
        settings = settings | change
        steps[name] = {"block": "best", "compared_with": before, "settings": settings}
        before = name
    for block, changes in (("record", KEPT), ("extra", EXTRAS)):
        for name, change in changes.items():
            changed = settings | change
            steps[name] = {"block": block, "compared_with": before, "settings": changed}
    return steps


# What is published.
FULL = {"epochs": None, "val_size": VAL_SIZE, "model_type": NETWORKS, "step": list(all_steps())}


# --- Reporting --------------------------------------------------------------------------------


def gain(study: Study, model_type: str, step: str) -> Summary | None:
    """Return what a step brings, in percentage points paired by seed; None for the first."""
    before = study.setup["steps"][step]["compared_with"]
    if not before:
        return None
    gains = study.accuracies[model_type, step] - study.accuracies[model_type, before]
    return describe(gains, POINTS)


def render(study: Study) -> str:
    """Return the ablation as Markdown tables."""
    models, tables = study.values("model_type"), []
    for block, head in BLOCKS.items():
        heads, rows = [head], []
        for model_type in models:
            heads += [TITLES[model_type], "gain"]
        for step, about in study.setup["steps"].items():
            if about["block"] != block:
                continue
            row = [step]
            for model_type in models:
                summary = gain(study, model_type, step)
                row.append(format_mean(study.summary(model_type, step), 2))
                row.append(format_mean(summary, 2, "+") if summary else "")
            rows.append(row)
        if rows:
            tables.append(markdown(heads, rows))
    rows_of_setup = {
        "accuracy": f"percent of {study.setup['val_size']:,} validation images",
        "runs per step": describe_seeds(range(study.setup["seeds"])),
    }
    return "\n\n".join([*tables, setup_table(study.setup, rows_of_setup)])


def plot_ablation(study: Study) -> bytes:
    """Draw each network's ablation: a row per step, its runs as dots, the mean and its interval."""
    from utils.plots import colour_of, subplots, to_png

    models = study.values("model_type")
    steps = [step for step, about in study.setup["steps"].items() if about["block"] != "extra"]
    figure, axes = subplots(
        1, len(models), figsize=(2 + 4 * len(models), 5), sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for axis, model_type in zip(axes[0], models, strict=True):
        colour = colour_of(TITLES, model_type)
        summaries = [study.summary(model_type, step) for step in steps]
        means = [summary.mean for summary in summaries]
        axis.plot(means, range(len(steps)), "D-", color=colour, lw=1)
        for row, (step, summary) in enumerate(zip(steps, summaries, strict=True)):
            accuracies = study.accuracies[model_type, step]
            axis.scatter(accuracies, [row - 0.2] * len(accuracies), s=16, color=colour, alpha=0.5)
            low, high = summary.interval or (summary.mean, summary.mean)
            axis.hlines(row, low, high, color=colour, lw=3)
            axis.annotate(
                f"{summary.mean:.2f}", (max(high, summary.max), row), xytext=(6, 0),
                textcoords="offset points", va="center",
            )  # fmt: skip
        axis.set_yticks(range(len(steps)), steps)
        axis.set(ylim=(len(steps) - 0.5, -0.6), xlabel="Accuracy on validation images (%)")
        axis.set_title(TITLES[model_type])
        axis.margins(x=0.2)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(
        "Each step adds to the one above; dots are runs, bars the means' 95 % intervals"
    )
    return to_png(figure)


def plot_augmentation(args: Args, training: Split) -> bytes:
    """Draw the first training images, and what deskewing and the augmentation make of them."""
    from utils.plots import image_grid, to_png

    cpu = torch.device("cpu")
    images = prepare(Split(training.images[:5], training.labels[:5]), False, cpu).images
    augmentation, deskewed = make_augmentation(args, cpu), deskew(images)
    assert augmentation is not None  # as the best recipe augments
    repeated = deskewed.repeat_interleave(8, dim=0)
    coefficients = augmentation.draw(len(repeated), torch.Generator().manual_seed(0))
    augmented = augmentation(repeated, coefficients).view(5, 8, 28, 28)
    figure, axes = image_grid(5, 10, (10, 5))
    columns = torch.cat([images, deskewed, augmented], dim=1)
    for axis, image in zip(axes.flat, columns.view(-1, 28, 28).numpy(), strict=True):
        axis.imshow(image, cmap="gray_r")
    titles = ["image", "deskewed", *(f"augmented {count}" for count in range(1, 9))]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    return to_png(figure)


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, seeds, epochs, val_size and data_dir."""
    parser = ManyRunsParser(__doc__, SEEDS, NETWORKS)
    parser.add_argument("--epochs", type=int, help="per run (default: 20, or the step's)")
    parser.add_argument(
        "--val_size", type=int, default=VAL_SIZE, help=f"images (default: {VAL_SIZE})"
    )
    parser.add_argument("--data_dir", default=Args.data_dir, help="of the images (default: data)")
    flags = parser.parse_args()
    if flags.val_size < 1:
        parser.error(f"--val_size {flags.val_size}: must be at least 1")
    return flags


def main() -> None:
    """Train what is missing, then report the ablation."""
    flags = parse_flags()
    shared: dict[str, Any] = {"val_size": flags.val_size, "data_dir": flags.data_dir}
    steps = all_steps()
    if flags.epochs is not None:
        shared["epochs"] = flags.epochs
        steps = {name: step for name, step in steps.items() if name not in KEPT}
    plan = {
        (model_type, name): [
            Args(model_type=model_type, seed=seed, **(step["settings"] | shared))
            for seed in range(flags.seeds)
        ]
        for model_type in dict.fromkeys(flags.models)
        for name, step in steps.items()
    }
    splits = load_splits(flags.data_dir, flags.val_size)
    accuracies = train_study(run, plan, splits)
    args = Args(**(BEST | shared))
    setup = {"seeds": flags.seeds, "epochs": flags.epochs, "val_size": flags.val_size}
    setup = setup | describe_setup(args, splits) | {"steps": steps}
    study = Study(setup, ("model_type", "step"), accuracies)
    finish_study(
        "ablation", study, render(study),
        lambda: {
            "ablation": plot_ablation(study),
            "augmentation": plot_augmentation(args, splits[0]),
        },
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
