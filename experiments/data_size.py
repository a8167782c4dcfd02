"""How many training images each network needs.

    python -m experiments.data_size             7 sizes, with and without augmentation, 5 seeds
    python -m experiments.data_size --publish   also renew what the README shows

Every run has the same number of steps, so a small training set is seen more often, not less long.
The training sets are nested and have the digits' shares of the whole. Finished runs are kept in
runs/compare/.
"""

from utils.command import run_command  # isort: split

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compare import markdown
from comparison.identity import group_folder, run_folder
from comparison.runs import cores, train_all
from comparison.stats import describe, first_reached, format_mean
from dataset import Split, describe_data, digest, load_splits
from experiments.plots import plot_data_size
from experiments.study import (
    describe_setup,
    final_accuracies,
    refuse_failures,
    refuse_other_data,
    refuse_trials,
    write_study,
)
from main import RECIPES, Args
from main import run as train_run
from model import MODELS, TITLES
from utils.checkpoint import History
from utils.files import UserError
from utils.settings import Parser, setting

SIZES = [100, 300, 1000, 3000, 10_000, 30_000, 60_000]
STEPS = 2000
# Chosen with --val_size 10000 --models LeNet5 CustomMLP --sizes 300 30000 --seeds 2 and each --lr:
# of the 8 means, 0.05 has higher ones than 0.02 in all and than 0.1 in 7, where a run diverged.
LR = 0.05
CHOICES = "0.02, 0.05 and 0.1"
AUGMENTATION = {
    name: RECIPES["best"][name] for name in ("rotate", "shift", "stretch", "shear", "elastic")
}
TARGETS = [95, 98]  # percent


@dataclass
class StudyArgs(Args):
    """The settings of a run, two more than main.py's."""

    images: int = setting(60_000, "training images", 1)
    steps: int = setting(STEPS, "steps of SGD", 1)


# --- One run ----------------------------------------------------------------------------------


def nested_order(labels: torch.Tensor) -> torch.Tensor:
    """Return an order, int64 [N], whose first n images have the class shares of the whole.

    The j-th of a class's m images stands at (j - 1/2) / m, and images are sorted by that. So the
    first n hold the first images of each class, as many as Sainte-Lague's method allots.
    """
    place = torch.empty(len(labels), dtype=torch.float64)
    for digit in labels.unique():
        own = labels == digit
        place[own] = (torch.arange(int(own.sum()), dtype=torch.float64) + 0.5) / own.sum()
    return place.argsort(stable=True)


def run(args: StudyArgs, folder: Path, verbose: bool = True) -> History:
    """Train on the first images of the nested order, repeated to fill all steps; test once.

    Returns:
        The history of the one pass, as main.run() returns it.
    """
    training, evaluation = load_splits(args.data_dir, args.val_size)
    chosen = nested_order(training.labels)[: args.images]
    repeated = chosen[torch.arange(args.steps * args.batch_size) % len(chosen)]
    subset = Split(training.images[repeated], training.labels[repeated])
    return train_run(args, folder, verbose, (subset, evaluation))


# --- All runs ---------------------------------------------------------------------------------


def train_points(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Train what is missing; return for each network, augmentation and size its accuracies."""
    keys = [
        (model_type, augmented, images)
        for model_type in dict.fromkeys(flags.models)
        for augmented in (False, True)
        for images in sorted(set(flags.sizes))
    ]
    shared = {"epochs": 1, "schedule": "onecycle", "lr": flags.lr, "steps": flags.steps}
    shared |= {"data_dir": flags.data_dir, "val_size": flags.val_size}
    # Everything is checked before any training, so that mistakes show at once.
    splits = load_splits(flags.data_dir, flags.val_size)
    data, count = [digest(split) for split in splits], len(splits[0].labels)
    folders: dict[tuple[str, bool, int], list[Path]] = {}
    jobs: dict[Path, StudyArgs] = {}
    for model_type, augmented, images in keys:
        changed = shared | (AUGMENTATION if augmented else {})
        own = [StudyArgs(model_type, seed=s, images=images, **changed) for s in range(flags.seeds)]
        if images > count:
            raise UserError(f"--sizes {images}: there are only {count:,} images to train on")
        group = group_folder(own[0], data, (run, nested_order))
        folders[model_type, augmented, images] = [run_folder(args, group) for args in own]
        jobs |= {run_folder(args, group): args for args in own}
    refuse_failures(train_all(run, jobs, cores()), jobs)
    column = "val_accuracy" if flags.val_size else "test_accuracy"
    points = []
    for model_type, augmented, images in keys:
        accuracies = final_accuracies(folders[model_type, augmented, images], column)
        point = {"model_type": model_type, "augmented": augmented, "images": images}
        points.append(point | {"accuracies": accuracies, "accuracy": describe(accuracies)})
    return points


# --- Reporting --------------------------------------------------------------------------------


def group_means(points: list[dict[str, Any]]) -> dict[bool, dict[str, dict[int, float]]]:
    """Return augmented or not -> network -> images -> mean accuracy."""
    means: dict[bool, dict[str, dict[int, float]]] = {False: {}, True: {}}
    for point in points:
        own = means[point["augmented"]].setdefault(point["model_type"], {})
        own[point["images"]] = point["accuracy"]["mean"]
    return means


def images_for(means: dict[int, float], target: float) -> int | None:
    """Return how many images it takes to a mean accuracy, linear between logarithms; None if more.

    Args:
        means: images -> mean accuracy, in order; the answer is at least their smallest number.
        target: in percent.
    """
    reached = first_reached([math.log(images) for images in means], list(means.values()), target)
    return None if reached is None else round(math.exp(reached))


def format_images(images: int | None, sizes: list[int]) -> str:
    """Return a number of images with two digits that count, or that it lies beyond the sizes."""
    if images is None:
        return f"more than {max(sizes):,}"
    if images <= min(sizes):
        return f"at most {min(sizes):,}"
    return f"{round(images, 2 - len(str(images))):,}"


def findings(points: list[dict[str, Any]]) -> list[str]:
    """Return what the means say, as sentences."""
    means, needs, words = group_means(points), [], {False: "without", True: "with"}
    sizes = list(dict.fromkeys(point["images"] for point in points))
    for augmented, networks in means.items():
        needed = {name: images_for(own, TARGETS[0]) or math.inf for name, own in networks.items()}
        least, most = min(needed, key=needed.__getitem__), max(needed, key=needed.__getitem__)
        factor, more = min(needed[most], max(sizes)) / min(needed[least], max(sizes)), ""
        if needed[most] == math.inf:
            more = "more than "
        needs.append(
            f"{words[augmented]} augmentation {TITLES[most]} needs {more}{factor:.1f} times as "
            f"many as {TITLES[least]}"
        )
    lines = [f"Training images for {TARGETS[0]} %: {'; '.join(needs)}."]
    spreads = sorted(
        (max(column) - min(column), f"{images:,} images {words[augmented]} augmentation")
        for augmented, networks in means.items()
        for images in sizes
        for column in [[own[images] for own in networks.values()]]
    )
    lines.append(
        f"The networks are furthest apart at {spreads[-1][1]}, by {spreads[-1][0]:.1f} points, and "
        f"closest at {spreads[0][1]}, by {spreads[0][0]:.1f}."
    )
    gains = sorted(
        (means[True][name][images] - mean, f"{TITLES[name]}, {images:,} images")
        for name, own in means[False].items()
        for images, mean in own.items()
    )
    lines.append(
        f"Augmentation changes the means by {gains[0][0]:+.2f} points ({gains[0][1]}) to "
        f"{gains[-1][0]:+.2f} points ({gains[-1][1]})."
    )
    return lines


def render(study: dict[str, Any]) -> str:
    """Return the study as Markdown, for the terminal and the README."""
    points, means = study["points"], group_means(study["points"])
    found = {(p["model_type"], p["augmented"], p["images"]): p["accuracy"] for p in points}
    sizes = list(dict.fromkeys(point["images"] for point in points))
    columns = [(name, augmented) for augmented in means for name in means[augmented]]
    heads = [f"{TITLES[name]}{', augmented' if augmented else ''}" for name, augmented in columns]
    accuracies = [
        [f"{images:,}", *(format_mean(found[*column, images], 2) for column in columns)]
        for images in sizes
    ]
    needed = [
        [
            f"for {target} %",
            *(format_images(images_for(means[a][name], target), sizes) for name, a in columns),
        ]
        for target in TARGETS
    ]
    kind = f"{study['val_size']:,} validation" if study["val_size"] else "test"
    augmentation = ", ".join(f"{name} {value:g}" for name, value in AUGMENTATION.items())
    notes = (
        f"Accuracy in percent on the {kind} images; means of {study['seeds']} seeds (0 to "
        f"{study['seeds'] - 1}), in brackets the {study['method']}. Every run has "
        f"{study['steps']:,} steps of {StudyArgs.batch_size} images, one cycle of the learning "
        f"rate up to {study['lr']:g}, and one test at the end. Of {CHOICES} the learning rate {LR} "
        "was chosen on validation images, the last 10,000 of the training set. The training sets "
        "are nested, the same for every seed, and "
        "have the digits' shares of the whole: the j-th of a digit's m images stands at place "
        "(j - 1/2) / m, and the images at the lowest places are taken. Augmented: "
        f"{augmentation}. Images needed are interpolated between the means, linearly in the "
        f"logarithm of the number. Data: {study['data']}. PyTorch {study['versions']['torch']} on "
        f"{study['processor']}."
    )
    return "\n\n".join(
        [
            markdown(["training images", *heads], accuracies),
            markdown(["images needed", *heads], needed),
            notes,
            "\n".join(f"- {line}" for line in findings(points)),
        ]
    )


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, sizes, seeds, steps, lr, val_size, data_dir and publish."""
    parser = Parser(description=__doc__)
    networks = list(MODELS)
    parser.add_argument("--models", nargs="+", default=networks, help="networks (default: all)")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, help="training images (default: 100 to all)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs each (default: 5)")
    parser.add_argument("--steps", type=int, default=STEPS, help="per run (default: 2000)")
    parser.add_argument("--lr", type=float, default=LR, help=f"largest (default: {LR})")
    parser.add_argument("--val_size", type=int, default=0, help="as in main.py (default: 0)")
    parser.add_argument("--data_dir", default=Args.data_dir, help="of the images (default: data)")
    parser.add_argument("--publish", action="store_true", help="renew what the README shows")
    flags = parser.parse_args()
    refuse_trials(parser, flags, 5, ["models", "sizes", "steps", "lr", "val_size"])
    if min(flags.sizes) < 1:
        parser.error(f"--sizes {min(flags.sizes)}: must be at least 1")
    if flags.steps * StudyArgs.batch_size < max(flags.sizes):
        parser.error(f"--steps {flags.steps}: too few to see {max(flags.sizes):,} images once")
    return flags


def main() -> None:
    """Train what is missing, then report the study."""
    flags = parse_flags()
    data = describe_data(flags.data_dir, flags.val_size)
    refuse_other_data(flags, data)
    points = train_points(flags)
    study = {name: getattr(flags, name) for name in ("seeds", "steps", "lr", "val_size")}
    study |= {"data": data, **describe_setup(Args()), "points": points}
    picture = plot_data_size(points, TITLES)
    write_study("data_size", study, render(study), {"data_size": picture}, flags.publish)


if __name__ == "__main_":
    run_command(main)
