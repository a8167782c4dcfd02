"""How accurate the compared networks are on perturbed test images.

    python -m experiments.robustness             the runs of compare.py, baseline and best recipe

The perturbations are in experiments/perturb.py, the runs those of two commands: python compare.py,
and the same with --recipe best --first_seed 10. Those that are missing are trained.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # an editor's button starts it without -m

from utils.command import run_command  # isort: split

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from comparison.results import class_probabilities, describe_setup
from comparison.runs import ManyRunsParser, cores
from comparison.stats import first_reached, format_mean
from comparison.tables import column_table, describe_seeds, setup_table
from dataset import Batches, Split, load_splits, prepare
from experiments import perturb
from experiments.study import Study, draw_band, finish_study, train_runs
from main import EVALUATION_BATCH, RECIPES, Args, run
from model import COLOURS, MODELS, TITLES
from utils.checkpoint import load_checkpoint
from utils.device import select_device

SEEDS = 10
FIRST_SEEDS = {"baseline": 0, "best": 10}  # of each recipe's runs
SEED = 0  # of directions, places and noise
LIMIT = 90  # percent: from where on a network counts as failing


class Perturbation(NamedTuple):
    """A perturbation, its strengths, the one that changes nothing, and those in the table."""

    change: Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]
    unit: str
    strengths: tuple[float, ...]
    neutral: float
    in_table: tuple[float, float, float]


PERTURBATIONS = {
    "shift": Perturbation(perturb.shift, "pixels", (0, 1, 2, 3, 4, 8), 0, (2, 4, 8)),
    "rotation": Perturbation(perturb.rotate, "degrees", (0, 10, 20, 30, 45, 60), 0, (20, 30, 60)),
    "scale": Perturbation(
        perturb.scale, "factor", (0.5, 0.65, 0.8, 1, 1.15, 1.3, 1.5), 1, (0.5, 0.8, 1.5)
    ),
    "noise": Perturbation(
        perturb.noise, "standard deviation in grey levels", (0, 32, 64, 96, 128), 0, (32, 64, 128)
    ),
    "blur": Perturbation(
        perturb.blur, "standard deviation in pixels", (0, 0.75, 1.5, 2, 3), 0, (0.75, 1.5, 3)
    ),
    "contrast": Perturbation(
        perturb.contrast, "factor", (0.1, 0.2, 0.35, 0.6, 1), 1, (0.6, 0.2, 0.1)
    ),
    "covered square": Perturbation(
        perturb.cover, "side in pixels", (0, 4, 7, 10, 14), 0, (4, 7, 14)
    ),
}
# (recipe, network) -> weights of its runs, in order of seed
Weights = dict[tuple[str, str], list[dict[str, torch.Tensor]]]


# --- Measuring --------------------------------------------------------------------------------


def measure(weights: Weights, test: Split) -> dict[tuple[str, str, str, float], np.ndarray]:
    """Return (recipe, network, perturbation, strength) -> each run's accuracy in percent.

    The test split is as loaded, on the device.
    """
    pixels, labels, accuracies = test.images.float(), test.labels.cpu().numpy(), {}
    strengths = [(name, s) for name, about in PERTURBATIONS.items() for s in about.strengths]
    # A thread per run at work: several threads for one network are slow on a busy machine.
    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for name, strength in tqdm(strengths, unit=" strengths", leave=False, disable=None):
            about, perturbed = PERTURBATIONS[name], pixels
            if strength != about.neutral:
                generator = torch.Generator().manual_seed(SEED)
                perturbed = about.change(pixels, strength, generator)
            for (recipe, model_type), runs in weights.items():
                split = Split(perturbed, test.labels)
                deskewed = Args(**RECIPES[recipe]).deskew
                batches = Batches(prepare(split, deskewed, pixels.device), EVALUATION_BATCH)
                futures = [pool.submit(class_probabilities, model_type, w, batches) for w in runs]
                predictions = np.array([future.result().argmax(axis=1) for future in futures])
                correct = predictions == labels
                accuracies[recipe, model_type, name, strength] = 100 * correct.mean(axis=1)
    return accuracies


# --- Reporting --------------------------------------------------------------------------------


def failures(means: dict[float, float], neutral: float) -> str:
    """Return at which strengths, on either side of the neutral one, a mean falls below LIMIT."""
    parts = []
    for sign in (-1, 1):
        side = sorted((s for s in means if sign * (s - neutral) >= 0), key=lambda s: sign * s)
        if len(side) > 1:
            reached = first_reached(side, [-means[s] for s in side], -LIMIT)
            parts.append("never" if reached is None else f"{reached:.3g}")
    return " and ".join(parts)


def render(study: Study) -> str:
    """Return the study as Markdown tables."""
    accuracies, limits = [], []
    for recipe in study.values("recipe"):
        for model_type in study.values("model_type"):
            title = f"{TITLES[model_type]}, `{recipe}`"
            cells, failing = {}, {}
            for name in study.values("perturbation"):
                about = PERTURBATIONS[name]
                summaries = {s: study.summary(recipe, model_type, name, s) for s in about.strengths}
                for strength in about.in_table:
                    row = f"{name}, {about.unit}: {strength:g}"
                    cells[row] = format_mean(summaries[strength], 1)
                means = {strength: summary.mean for strength, summary in summaries.items()}
                failing[f"{name}, {about.unit}"] = failures(means, about.neutral)
            accuracies.append((title, cells))
            limits.append((title, failing))
    count = study.setup["seeds"]
    seeds = [f"`{name}` {describe_seeds(range(n, n + count))}" for name, n in FIRST_SEEDS.items()]
    rows = {
        "accuracy": f"percent of {study.setup['images']:,} perturbed test images",
        "runs of each network": ", ".join(seeds),
    }
    limit_head = f"strength at which the mean falls below {LIMIT} %, interpolated linearly"
    tables = [
        column_table("perturbation", accuracies),
        column_table(limit_head, limits),
        setup_table(study.setup, rows),
    ]
    return "\n\n".join(tables)


def draw(study: Study) -> bytes:
    """Draw small multiples: for each recipe a panel per perturbation, accuracy over strength."""
    from matplotlib.figure import Figure

    from utils.plots import to_png

    recipes, names = study.values("recipe"), study.values("perturbation")
    columns = 4
    rows = -(-(len(names) + 1) // columns)  # one panel is left to the legend
    figure = Figure(figsize=(10.5, 5 * len(recipes)), layout="constrained")
    parts = figure.subfigures(len(recipes), squeeze=False).flat
    for part, recipe in zip(parts, recipes, strict=True):
        axes = part.subplots(rows, columns, sharey=True, squeeze=False)
        part.suptitle(f"Recipe {recipe}")
        for axis, name in zip(axes.flat, names, strict=False):
            about = PERTURBATIONS[name]
            for model_type in study.values("model_type"):
                summaries = [study.summary(recipe, model_type, name, s) for s in about.strengths]
                style = {"color": COLOURS[model_type], "label": TITLES[model_type]}
                draw_band(axis, about.strengths, summaries, **style)
            axis.set(title=name, xlabel=about.unit, ylim=(0, 102))
            axis.grid(alpha=0.3)
        for axis in axes[:, 0]:
            axis.set(ylabel="Test accuracy (%)")
        for axis in axes.flat[len(names) :]:
            axis.axis("off")
        legend = f"mean of {study.setup['seeds']} runs,\nband: its 95 % interval"
        axes.flat[len(names)].legend(
            *axes.flat[0].get_legend_handles_labels(), title=legend, loc="center"
        )
    return to_png(figure)


# --- The command ------------------------------------------------------------------------------


def main() -> None:
    """Train what is missing, perturb the test images, then report the accuracies on them."""
    parser = ManyRunsParser(__doc__, SEEDS, list(MODELS))
    parser.add_argument("--epochs", type=int, default=Args.epochs, help="of the runs (default: 20)")
    flags = parser.parse_args()
    shared = {"epochs": flags.epochs, "data_dir": flags.data_dir, "val_size": 0}
    plan = {
        (recipe, model_type): [
            Args(model_type=model_type, seed=seed, **(shared | RECIPES[recipe]))
            for seed in range(first, first + flags.seeds)
        ]
        for recipe, first in FIRST_SEEDS.items()
        for model_type in flags.models
    }
    splits = load_splits(flags.data_dir, 0)
    trained = train_runs(run, plan, splits, flags.cluster)
    weights = {
        key: [load_checkpoint(folder)["model"] for folder in folders]
        for key, folders in trained.items()
    }
    args = Args(**shared)
    device = select_device(args.device)
    test = Split(splits[1].images.to(device), splits[1].labels.to(device))
    accuracies = measure(weights, test)
    setup = {"seeds": flags.seeds, "epochs": flags.epochs, "images": len(test.labels)}
    setup |= describe_setup(args, splits)
    study = Study(setup, ("recipe", "model_type", "perturbation", "strength"), accuracies)
    finish_study("robustness", study, render(study), draw)


if __name__ == "__main__":
    run_command(main)
