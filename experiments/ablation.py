"""What each part of the best recipe brings, measured on validation images.

    python -m experiments.ablation             5 seeds per step, the last 10,000 training images
    python -m experiments.ablation --publish   also renew what the README shows

Goes from the baseline to main.py's best recipe one step at a time and on to its record recipe, and
tries a few changes of the best one that were not kept. The test set is not touched. Finished runs
are kept in runs/compare/.
"""

from utils.command import run_command  # isort: split

import argparse
from typing import Any

import torch

from compare import markdown
from comparison.identity import group_folder, run_folder
from comparison.runs import cores, train_all
from comparison.stats import describe, format_mean
from dataset import describe_data, digest, load_splits, prepare
from experiments.plots import plot_ablation, plot_augmentation
from experiments.study import (
    describe_setup,
    final_accuracies,
    refuse_failures,
    refuse_other_data,
    refuse_trials,
    write_study,
)
from main import RECIPES, Args, run
from model import TITLES
from utils.augment import deskew, make_augmentation
from utils.settings import Parser

BEST = RECIPES["best"]
NETWORKS = ["LeNet5", "CustomMLP"]
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


def _block(name: str) -> str:
    return "best" if name in STEPS else "record" if name in KEPT else "extra"


def all_steps() -> list[tuple[str, str, dict[str, Any]]]:
    """Return (name, name of the step it is compared with, settings) of every block's steps."""
    settings: dict[str, Any] = {}
    found, before = [], ""
    for name, change in STEPS.items():
        settings = settings | change
        found.append((name, before, settings))
        before = name
    changes = KEPT | EXTRAS
    return found + [(name, before, settings | change) for name, change in changes.items()]


def measure(model_type: str, accuracies: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return for each step of a network its accuracies and its gains, described.

    Args:
        model_type: the network's name.
        accuracies: of each measured step's runs, by seed, by which gains are paired.
    """
    measured = []
    for name, before, settings in all_steps():
        if name not in accuracies:
            continue
        own = accuracies[name]
        step: dict[str, Any] = {"model_type": model_type, "step": name, "block": _block(name)}
        step |= {"settings": settings, "accuracies": own, "accuracy": describe(own)}
        if before:
            gains = [new - old for new, old in zip(own, accuracies[before], strict=True)]
            step |= {"compared_with": before, "gain": describe(gains)}
        measured.append(step)
    return measured


def render(ablation: dict[str, Any]) -> str:
    """Return the ablation as Markdown, for the terminal and the README."""
    found = {(step["model_type"], step["step"]): step for step in ablation["steps"]}
    models = list(dict.fromkeys(model_type for model_type, _ in found))
    parts = []
    for block, head in BLOCKS.items():
        heads, rows = [head], []
        for model_type in models:
            heads += [TITLES[model_type], "gain"]
        for name in dict.fromkeys(s["step"] for s in ablation["steps"] if s["block"] == block):
            rows.append([name])
            for step in (found[model_type, name] for model_type in models):
                gain = format_mean(step["gain"], 2, "+") if "gain" in step else ""
                rows[-1] += [format_mean(step["accuracy"], 2), gain]
        if rows:
            parts.append(markdown(heads, rows))
    parts.append(
        f"Accuracy in percent on {ablation['val_size']:,} validation images, the last of the "
        f"training set; means of {ablation['seeds']} seeds (0 to {ablation['seeds'] - 1}), in "
        f"brackets the {ablation['method']}. A gain is paired by seed, against the step above or, "
        f"on top of the best recipe, against that. Data: {ablation['data']}. PyTorch "
        f"{ablation['versions']['torch']} on {ablation['processor']}."
    )
    return "\n\n".join(parts)


def augmentation_picture(args: Args) -> bytes:
    """Draw the first training images, and what deskewing and the augmentation make of them."""
    cpu = torch.device("cpu")
    images = prepare(load_splits(args.data_dir, args.val_size)[0], False, cpu).images[:5]
    augmentation, deskewed = make_augmentation(args, cpu), deskew(images)
    assert augmentation is not None  # as the best recipe augments
    repeated = deskewed.repeat_interleave(8, dim=0)
    coefficients = augmentation.draw(len(repeated), torch.Generator().manual_seed(0))
    augmented = augmentation(repeated, coefficients).view(5, 8, 28, 28)
    return plot_augmentation(torch.cat([images, deskewed, augmented], dim=1).numpy())


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, seeds, epochs, val_size, data_dir and publish."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=NETWORKS, help=f"networks (default: {' '.join(NETWORKS)})"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs per step (default: 5)")
    parser.add_argument("--epochs", type=int, help="per run (default: 20, or the step's)")
    parser.add_argument("--val_size", type=int, default=VAL_SIZE, help="images (default: 10000)")
    parser.add_argument("--data_dir", default=Args.data_dir, help="of the images (default: data)")
    parser.add_argument("--publish", action="store_true", help="renew what the README shows")
    flags = parser.parse_args()
    if flags.val_size < 1:
        parser.error(f"--val_size {flags.val_size}: must be at least 1")
    refuse_trials(parser, flags, 5, ["models", "epochs", "val_size"])
    return flags


def train_steps(flags: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Train what is missing; return (network, step) -> final validation accuracies by seed."""
    shared: dict[str, Any] = {"val_size": flags.val_size, "data_dir": flags.data_dir}
    if flags.epochs is not None:
        shared["epochs"] = flags.epochs
    runs = {
        (model_type, name): [
            Args(model_type=model_type, seed=seed, **(settings | shared))
            for seed in range(flags.seeds)
        ]
        for model_type in dict.fromkeys(flags.models)
        for name, _, settings in all_steps()
        if flags.epochs is None or name not in KEPT
    }
    for own in runs.values():
        splits = load_splits(
            own[0].data_dir, own[0].val_size
        )  # before any training, so that mistakes show at once
    data = [digest(split) for split in splits]
    folders = {
        key: [run_folder(args, group_folder(args, data)) for args in own]
        for key, own in runs.items()
    }
    jobs = {
        folder: args
        for key, own in runs.items()
        for folder, args in zip(folders[key], own, strict=True)
    }
    refuse_failures(train_all(run, jobs, cores()), jobs)
    return {key: final_accuracies(own, "val_accuracy") for key, own in folders.items()}


def main() -> None:
    """Train what is missing, then report the ablation."""
    flags = parse_flags()
    args = Args(flags.models[0], data_dir=flags.data_dir, val_size=flags.val_size, **BEST)
    data = describe_data(flags.data_dir, flags.val_size)
    refuse_other_data(flags, data)
    accuracies = train_steps(flags)
    measured = []
    for model_type in dict.fromkeys(flags.models):
        own = {name: values for (owner, name), values in accuracies.items() if owner == model_type}
        measured += measure(model_type, own)
    ablation = {
        # "epochs" of all runs, None if each has its step's own.
        **{"seeds": flags.seeds, "epochs": flags.epochs, "val_size": flags.val_size, "data": data},
        **{**describe_setup(args), "steps": measured},
    }
    pictures = {
        "ablation": plot_ablation(measured, TITLES),
        "augmentation": augmentation_picture(args),
    }
    write_study("ablation", ablation, render(ablation), pictures, flags.publish)


if __name__ == "__main__":
    run_command(main)
