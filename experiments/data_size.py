"""How many training images each network needs.

    python -m experiments.data_size             7 sizes, with and without augmentation, 5 seeds

Every run has the same number of steps, so a small training set is seen more often, not less long.
The training sets are nested and have the classes' shares of the whole. Finished runs are kept in
runs/compare/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for python experiments/data_size.py

from utils.command import run_command  # isort: split

import argparse
import math

from comparison.results import describe_setup
from comparison.runs import ManyRunsParser
from comparison.stats import Summary, first_reached, format_mean
from comparison.tables import describe_seeds, markdown, setup_table
from dataset import load_splits
from experiments.study import Study, draw_band, finish_study, train_study
from experiments.subset import STEPS, SubsetArgs, nested_order, run_on_subset
from main import AUGMENTED, Args
from model import MODELS, TITLES
from utils.files import UserError

SIZES = [100, 300, 1000, 3000, 10_000, 30_000, 60_000]
SEEDS = 5
# Chosen with --val_size 10000 --models LeNet5 CustomMLP --sizes 300 30000 --seeds 2 and each --lr:
# of the 8 means, 0.05 has higher ones than 0.02 in all and than 0.1 in 7, where a run diverged.
LR = 0.05
TARGETS = [95, 98]  # percent
# What is published.
FULL = {"steps": STEPS, "lr": LR, "val_size": 0, "model_type": list(MODELS),
        "augmented": [False, True], "images": SIZES}  # fmt: skip


# --- Reporting --------------------------------------------------------------------------------


def means(study: Study, model_type: str, augmented: bool) -> dict[int, float]:
    """Return training images -> mean accuracy in percent."""
    sizes = study.values("images")
    return {size: study.summary(model_type, augmented, size).mean for size in sizes}


def images_for(means: dict[int, float], target: float) -> int | None:
    """Return how many images it takes to a mean accuracy, linear between logarithms; None if more.

    Args:
        means: images -> mean accuracy, in order; the answer is at least their smallest number.
        target: in percent.
    """
    reached = first_reached([math.log(images) for images in means], list(means.values()), target)
    return None if reached is None else round(math.exp(reached))


def format_images(images: int | None, sizes: list[int]) -> str:
    """Return a number of images with two significant digits, or that it lies beyond the sizes."""
    if images is None:
        return f"more than {max(sizes):,}"
    if images <= min(sizes):
        return f"at most {min(sizes):,}"
    return f"{round(images, 2 - len(str(images))):,}"


def render(study: Study) -> str:
    """Return the study as Markdown tables."""
    setup, sizes = study.setup, study.values("images")
    columns = [(name, kind) for kind in (False, True) for name in study.values("model_type")]
    heads = [f"{TITLES[name]}{', augmented' if kind else ''}" for name, kind in columns]
    accuracies, needed = [], []
    for size in sizes:
        cells = [format_mean(study.summary(*column, size), 2) for column in columns]
        accuracies.append([f"{size:,}", *cells])
    for target in TARGETS:
        cells = [
            format_images(images_for(means(study, *column), target), sizes) for column in columns
        ]
        needed.append([f"for {target} %", *cells])
    kind = f"{setup['val_size']:,} validation images" if setup["val_size"] else "the test images"
    rows = {
        "accuracy": f"percent of {kind}",
        "runs of each": describe_seeds(range(setup["seeds"])),
        "training": f"{setup['steps']:,} steps of {Args.batch_size} images, one cycle of the "
        f"learning rate up to {setup['lr']:g}",
        "augmented": ", ".join(f"{name} {value:g}" for name, value in AUGMENTED.items()),
    }
    return "\n\n".join(
        [
            markdown(["training images", *heads], accuracies),
            markdown(["images needed", *heads], needed),
            setup_table(setup, rows),
        ]
    )


def plot_data_size(study: Study) -> bytes:
    """Draw each network's error over the number of training images, plain and augmented."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    from utils.plots import colour_of, subplots, to_png

    sizes = study.values("images")
    figure, axes = subplots(1, 2, figsize=(10, 4.8), sharey=True)
    for axis, augmented in zip(axes, (False, True), strict=True):
        for model_type in study.values("model_type"):
            errors = [error(study.summary(model_type, augmented, size)) for size in sizes]
            style = {"color": colour_of(TITLES, model_type), "label": TITLES[model_type]}
            draw_band(axis, sizes, errors, **style)
        axis.set(xscale="log", yscale="log", xlabel="Training images")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30, ha="right")
        axis.set_title("with augmentation" if augmented else "without augmentation")
        axis.grid(alpha=0.3, which="both")
        axis.minorticks_off()
    axes[0].set(ylabel="Error (%)")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes[1].legend(title=f"mean of {study.setup['seeds']} runs, band: its 95 % interval")
    return to_png(figure)


def error(accuracy: Summary) -> Summary:
    """Return a described accuracy in percent as a described error."""
    interval = accuracy.interval and (100 - accuracy.interval[1], 100 - accuracy.interval[0])
    return Summary(
        accuracy.n, 100 - accuracy.mean, interval, 100 - accuracy.max, 100 - accuracy.min
    )


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, sizes, seeds, steps, lr, val_size and data_dir."""
    parser = ManyRunsParser(__doc__, SEEDS, list(MODELS))
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, help="training images (default: 100 to all)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"per run (default: {STEPS})")
    parser.add_argument("--lr", type=float, default=LR, help=f"largest (default: {LR})")
    parser.add_argument("--val_size", type=int, default=0, help="as in main.py (default: 0)")
    parser.add_argument("--data_dir", default=Args.data_dir, help="of the images (default: data)")
    flags = parser.parse_args()
    if min(flags.sizes) < 1:
        parser.error(f"--sizes {min(flags.sizes)}: must be at least 1")
    if flags.steps * Args.batch_size < max(flags.sizes):
        parser.error(f"--steps {flags.steps}: too few to see {max(flags.sizes):,} images once")
    return flags


def main() -> None:
    """Train what is missing, then report the study."""
    flags = parse_flags()
    plan: dict[tuple[str, bool, int], list[SubsetArgs]] = {}
    shared = {"epochs": 1, "schedule": "onecycle", "lr": flags.lr, "steps": flags.steps}
    shared |= {"data_dir": flags.data_dir, "val_size": flags.val_size}
    for model_type in dict.fromkeys(flags.models):
        for augmented in (False, True):
            settings = shared | (AUGMENTED if augmented else {})
            for size in sorted(set(flags.sizes)):
                plan[model_type, augmented, size] = [
                    SubsetArgs(model_type, seed=seed, images=size, **settings)
                    for seed in range(flags.seeds)
                ]
    splits = load_splits(flags.data_dir, flags.val_size)
    count = len(splits[0].labels)
    if max(flags.sizes) > count:
        raise UserError(
            f"--sizes {max(flags.sizes)}: there are only {count:,} images to train on; choose less"
        )
    accuracies = train_study(run_on_subset, plan, splits, (run_on_subset, nested_order))
    setup = {name: getattr(flags, name) for name in ("seeds", "steps", "lr", "val_size")}
    args = Args(data_dir=flags.data_dir, val_size=flags.val_size)
    study = Study(
        setup | describe_setup(args, splits), ("model_type", "augmented", "images"), accuracies
    )
    finish_study("data_size", study, render(study), lambda: {"data_size": plot_data_size(study)})


if __name__ == "__main__":
    run_command(main)
