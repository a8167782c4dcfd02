"""What each part of the best recipe brings, measured on validation images.

    python -m experiments.ablation             5 seeds per step, the last 10,000 training images

Goes from the baseline to main.py's best recipe one step at a time and on to its record recipe, and
tries a few changes of the best one that were not kept. The test set is not touched. Finished runs
are kept in runs/compare/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # an editor's button starts it without -m

from utils.command import run_command  # isort: split

from typing import Any, NamedTuple

from comparison.results import describe_setup
from comparison.runs import ManyRunsParser
from comparison.stats import POINTS, Summary, describe, format_mean
from comparison.tables import column_table, describe_seeds, setup_table
from dataset import load_splits
from experiments.study import Study, final_accuracies, finish_study, train_runs
from main import RECIPES, Args, run
from model import COLOURS, TITLES
from utils.files import UserError
from utils.settings import positive

BEST = RECIPES["best"]
NETWORKS = ["LeNet5", "CustomMLP"]
SEEDS = 5
VAL_SIZE = 10_000


def _of_best(*names: str) -> dict[str, Any]:
    return {name: BEST[name] for name in names if name in BEST}


# Each step changes these settings of the one before.
STEPS = {
    "baseline": {},
    "one-cycle schedule, lr 0.05": {"schedule": "onecycle", "lr": 0.05},
    "label smoothing": _of_best("label_smoothing"),
    "affine augmentation": _of_best("rotate", "shift", "stretch", "shear"),
    "elastic augmentation": _of_best("elastic"),
    "weight decay": _of_best("weight_decay"),
    "deskewing": _of_best("deskew"),
    "lr 0.1": {"lr": 0.1},
}
# Each of these changes the best recipe. KEPT sets the epochs, so --epochs leaves it out.
KEPT = {"80 epochs": {"epochs": 80}}
EXTRAS = {
    "lr 0.2": {"lr": 0.2},
    "label smoothing 0.1": {"label_smoothing": 0.1},
}
HEADS = {  # of a table for each of them
    "steps": "step",
    "kept": "on top of the best recipe, kept as `record`",
    "extras": "on top of the best recipe, not kept",
}


class Step(NamedTuple):
    table: str  # that shows it
    before: str  # the step it is compared with, "" for none
    settings: dict[str, Any]


def all_steps() -> dict[str, Step]:
    """Return every step by its name."""
    steps = {}
    settings: dict[str, Any] = {}
    before = ""
    for name, change in STEPS.items():
        settings = settings | change
        steps[name] = Step("steps", before, settings)
        before = name
    for table, changes in (("kept", KEPT), ("extras", EXTRAS)):
        for name, change in changes.items():
            steps[name] = Step(table, before, settings | change)
    return steps


# --- Reporting --------------------------------------------------------------------------------


def gain(study: Study, model_type: str, step: str) -> Summary | None:
    """Return what a step brings, in percentage points paired by seed; None for the first."""
    before = all_steps()[step].before
    if not before:
        return None
    gains = study.accuracies[model_type, step] - study.accuracies[model_type, before]
    return describe(gains, POINTS)


def render(study: Study) -> str:
    """Return the ablation as Markdown tables."""
    tables = []
    for table, head in HEADS.items():
        steps = [name for name in study.values("step") if all_steps()[name].table == table]
        columns = []
        for model_type in study.values("model_type"):
            accuracies, gains = {}, {}
            for step in steps:
                accuracies[step] = format_mean(study.summary(model_type, step), 2)
                if summary := gain(study, model_type, step):
                    gains[step] = format_mean(summary, 2, "+")
            columns += [(TITLES[model_type], accuracies), ("gain", gains)]
        if steps:
            tables.append(column_table(head, columns))
    rows = {
        "accuracy": f"percent of {study.setup['val_size']:,} validation images",
        "runs per step": describe_seeds(range(study.setup["seeds"])),
    }
    return "\n\n".join([*tables, setup_table(study.setup, rows)])


def draw(study: Study) -> bytes:
    """Draw each network's ablation: a row per step, its runs as dots, the mean and its interval."""
    from comparison.plots import draw_rows
    from utils.plots import subplots, to_png

    models = study.values("model_type")
    steps = [name for name in study.values("step") if all_steps()[name].table != "extras"]
    size = (2 + 4 * len(models), 6)
    figure, axes = subplots(1, len(models), size, sharex=True, sharey=True, squeeze=False)
    for axis, model_type in zip(axes[0], models, strict=True):
        rows = {step: study.accuracies[model_type, step] for step in steps}
        draw_rows(axis, rows, [COLOURS[model_type]] * len(rows))
        axis.set(xlabel="Accuracy on validation images (%)", title=TITLES[model_type])
    title = "Each step adds to the one above; dots are runs, bars the means' 95 % intervals"
    figure.suptitle(title)
    return to_png(figure)


# --- The command ------------------------------------------------------------------------------


def main() -> None:
    """Train what is missing, then report the ablation."""
    parser = ManyRunsParser(__doc__, SEEDS, NETWORKS)
    parser.add_argument("--epochs", type=int, help="per run (default: 20, or the step's)")
    parser.add_argument(
        "--val_size", type=positive, default=VAL_SIZE, help=f"images (default: {VAL_SIZE})"
    )
    flags = parser.parse_args()
    shared: dict[str, Any] = {"val_size": flags.val_size, "data_dir": flags.data_dir}
    steps = all_steps()
    if steps[list(STEPS)[-1]].settings != BEST:
        raise UserError(
            "experiments/ablation.py: its STEPS do not add up to the recipe best in main.py; let "
            "them set what that sets"
        )
    if flags.epochs is not None:
        shared["epochs"] = flags.epochs
        steps = {name: step for name, step in steps.items() if name not in KEPT}
    plan = {
        (model_type, name): [
            Args(model_type=model_type, seed=seed, **(step.settings | shared))
            for seed in range(flags.seeds)
        ]
        for model_type in flags.models
        for name, step in steps.items()
    }
    splits = load_splits(flags.data_dir, flags.val_size)
    folders = train_runs(run, plan, splits, flags.cluster)
    accuracies = final_accuracies(folders, "val_accuracy")
    setup = {"seeds": flags.seeds, "epochs": flags.epochs, "val_size": flags.val_size}
    setup |= describe_setup(Args(**shared), splits)
    setup["steps"] = {name: step.settings for name, step in steps.items()}
    study = Study(setup, ("model_type", "step"), accuracies)
    finish_study("ablation", study, render(study), draw)


if __name__ == "__main__":
    run_command(main)
