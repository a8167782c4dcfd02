"""How many training images each network needs.

    python -m experiments.data_size             7 sizes, with and without augmentation, 5 seeds

Every run has the same number of steps, so a small training set is seen more often, not less long.
The training sets are nested and have the classes' shares of the whole. Finished runs are kept in
runs/compare/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # an editor's button starts it without -m

from utils.command import run_command  # isort: split

import math

from comparison.results import describe_setup
from comparison.runs import ManyRunsParser
from comparison.stats import describe, first_reached, format_mean
from comparison.tables import column_table, describe_seeds, setup_table
from dataset import load_splits
from experiments.study import Study, draw_band, final_accuracies, finish_study, train_runs
from experiments.subset import STEPS, SubsetArgs, run_on_subset
from main import AUGMENTED, Args
from model import COLOURS, MODELS, TITLES
from utils.files import UserError

SIZES = [100, 300, 1000, 3000, 10_000, 30_000, 60_000]
SEEDS = 5
# Chosen with --val_size 10000 --models LeNet5 CustomMLP --sizes 300 30000 --seeds 2 and each --lr:
# of the 8 means, 0.05 has higher ones than 0.02 in all and than 0.1 in 7, where a run diverged.
LR = 0.05
TARGETS = [95, 98]  # percent


# --- Reporting --------------------------------------------------------------------------------


def images_for(means: dict[int, float], target: float) -> int | None:
    """Return how many images it takes to a mean accuracy, linear between logarithms; None if more.

    Means are images -> mean accuracy, in order; the result is at least their smallest number.
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
    accuracies, needed = [], []
    for augmented in (False, True):
        for model_type in study.values("model_type"):
            title = f"{TITLES[model_type]}{', augmented' if augmented else ''}"
            summaries = {size: study.summary(model_type, augmented, size) for size in sizes}
            column = {f"{size:,}": format_mean(value, 2) for size, value in summaries.items()}
            accuracies.append((title, column))
            means = {size: summary.mean for size, summary in summaries.items()}
            images = {f"for {target} %": images_for(means, target) for target in TARGETS}
            needed.append((title, {row: format_images(n, sizes) for row, n in images.items()}))
    kind = f"{setup['val_size']:,} validation images" if setup["val_size"] else "the test images"
    rows = {
        "accuracy": f"percent of {kind}",
        "runs of each": describe_seeds(range(setup["seeds"])),
        "training": f"{setup['steps']:,} steps of {Args.batch_size} images, one cycle of the "
        f"learning rate up to {setup['lr']:g}",
        "augmented": ", ".join(f"{name} {value:g}" for name, value in AUGMENTED.items()),
    }
    tables = [
        column_table("training images", accuracies),
        column_table("images needed", needed),
        setup_table(setup, rows),
    ]
    return "\n\n".join(tables)


def draw(study: Study) -> bytes:
    """Draw each network's error over the number of training images, plain and augmented."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    from utils.plots import subplots, to_png

    sizes = study.values("images")
    figure, axes = subplots(1, 2, figsize=(10, 4.8), sharey=True)
    for axis, augmented in zip(axes, (False, True), strict=True):
        for model_type in study.values("model_type"):
            errors = [describe(100 - study.accuracies[model_type, augmented, n]) for n in sizes]
            style = {"color": COLOURS[model_type], "label": TITLES[model_type]}
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


# --- The command ------------------------------------------------------------------------------


def main() -> None:
    """Train what is missing, then report the study."""
    parser = ManyRunsParser(__doc__, SEEDS, list(MODELS))
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, help="training images (default: 100 to all)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"per run (default: {STEPS})")
    parser.add_argument("--lr", type=float, default=LR, help=f"largest (default: {LR})")
    parser.add_argument("--val_size", type=int, default=0, help="as in main.py (default: 0)")
    flags = parser.parse_args()
    if flags.steps * Args.batch_size < max(flags.sizes):
        parser.error(f"--steps {flags.steps}: too few to see {max(flags.sizes):,} images once")
    plan: dict[tuple[str, bool, int], list[SubsetArgs]] = {}
    shared = {"epochs": 1, "schedule": "onecycle", "lr": flags.lr, "steps": flags.steps}
    shared |= {"data_dir": flags.data_dir, "val_size": flags.val_size}
    for model_type in flags.models:
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
    folders = train_runs(run_on_subset, plan, splits, flags.cluster)
    column = "val_accuracy" if flags.val_size else "test_accuracy"
    setup = {name: getattr(flags, name) for name in ("seeds", "steps", "lr", "val_size")}
    args = Args(data_dir=flags.data_dir, val_size=flags.val_size)
    setup |= describe_setup(args, splits)
    study = Study(setup, ("model_type", "augmented", "images"), final_accuracies(folders, column))
    finish_study("data_size", study, render(study), draw)


if __name__ == "__main__":
    run_command(main)
