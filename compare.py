"""Train every network with many seeds and compare them: which is better, by how much, how sure.

    python compare.py                                       3 networks, 10 seeds, 20 epochs
    python compare.py --seeds 3 --epochs 5 --models LeNet5 CustomMLP
    python compare.py --recipe best --first_seed 10         another recipe, with seeds 10 to 19
    python compare.py --cluster tcp://HOST:8786             on the workers of a Dask cluster
    python compare.py --runs LeNet5 LeNet5-2                runs of main.py, nothing is trained

On a CPU as many runs go side by side as there are cores, on a GPU one after the other. Finished
runs are kept in runs/compare/: started again, it trains only what is missing. The tables go to the
terminal, results and plots to the runs' folder; with --runs, the plot goes to plots/.
"""

from utils.command import run_command  # isort: split

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comparison import analysis, results, tables
from comparison.identity import group_folder, run_folder
from comparison.results import Comparison, NetworkRuns, Predictions
from comparison.runs import ManyRunsParser, cores, train_all
from dataset import Split, digest, load_splits, prepare
from main import RECIPES, Args, run
from model import MODELS, TITLES
from utils.checkpoint import RUNS, has_checkpoint, load_checkpoint
from utils.files import PLOTS, UserError, atomic_write, write_all
from utils.settings import add_settings, given_settings, positive

CONTRAST = ("LeNet5", "CustomMLP")  # what does convolution bring?


# --- Many seeds of every network --------------------------------------------------------------


def plan_runs(flags: argparse.Namespace) -> list[Args]:
    """Return the settings of all runs, a seed at a time: comparable however far it has come."""
    given = given_settings(flags, Args, RECIPES) | {"val_size": 0}  # the test set is compared on
    recipe_model = given.pop("model_type", None)
    models = flags.models or ([recipe_model] if recipe_model else list(MODELS))
    return [
        Args(model_type=model_type, seed=seed, **given)
        for seed in range(flags.first_seed, flags.first_seed + flags.seeds)
        for model_type in models
    ]


def hard_images(networks: Mapping[str, NetworkRuns]) -> dict[str, np.ndarray]:
    """Return caption -> images that all runs of all networks misclassify, or of the MLP alone.

    Images are places in the test set, int [M].
    """
    wrong = {name: runs.correct_shares == 0 for name, runs in networks.items()}  # with every seed
    whose = "all networks" if len(networks) > 1 else TITLES[next(iter(networks))]
    everywhere = np.all(list(wrong.values()), axis=0)
    groups = {f"Misclassified by all runs of {whose}": np.flatnonzero(everywhere)}
    cnn, mlp = CONTRAST
    if cnn in networks and mlp in networks:
        caption = f"Misclassified by all runs of {TITLES[mlp]}, and by none of {TITLES[cnn]}"
        groups[caption] = np.flatnonzero(wrong[mlp] & (networks[cnn].errors == 0))
    return groups


def draw_results(comparison: Comparison) -> dict[str, bytes]:
    """Return the plots of a comparison that need no predictions, name -> PNG."""
    from comparison import plots  # here, as matplotlib takes long to import

    settings, networks = comparison.setup["settings"], comparison.networks
    pictures = {"final": plots.plot_finals(networks), "digits": plots.plot_classes(comparison)}
    if settings["epochs"] > 1:  # a curve of one point is none
        for metric in ("accuracy", "loss"):
            trained_on = tables.trained_on(settings, metric)
            pictures[metric] = plots.plot_comparison(metric, networks, trained_on)
    return pictures


def draw_plots(
    comparison: Comparison, predictions: Mapping[str, Predictions], test: Split
) -> dict[str, bytes]:
    """Return every plot of a comparison, name -> PNG; test is as loaded."""
    from scipy import stats

    from comparison import plots

    settings, networks = comparison.setup["settings"], comparison.networks
    prepared = prepare(test, settings["deskew"], torch.device("cpu")).images
    images, labels = prepared.squeeze(1).numpy(), test.labels.numpy()
    note = ", deskewed" if settings["deskew"] else ""
    pictures = draw_results(comparison)
    pictures["hard_images"] = plots.plot_hard_images(
        hard_images(networks), images, labels,
        {name: stats.mode(of.classes).mode for name, of in predictions.items()}, note,
    )  # fmt: skip
    for name, predicted in predictions.items():
        title, seed = TITLES[name], networks[name].seeds[0]
        counts = analysis.confusion(predicted.classes, labels)
        confusion = plots.plot_confusion(title, counts, len(predicted.classes))
        pictures[f"confusion_matrix_{name}"] = confusion
        caption = f"{title}: the most confident mistakes (seed {seed}{note})"
        mistakes = plots.plot_misclassified(caption, images, labels, predicted.probabilities)
        pictures[f"misclassified_{name}"] = mistakes
        if name == "LeNet5" and "conv1.weight" in predicted.weights:  # as it is shipped
            weight, bias = predicted.weights["conv1.weight"], predicted.weights.get("conv1.bias")
            maps = torch.relu(torch.nn.functional.conv2d(prepared[:1], weight, bias))[0]
            pictures[f"filters_{name}"] = plots.plot_filters(
                f"{title} (seed {seed})", weight.squeeze(1).numpy(), images[0], maps.numpy(), note
            )
    return pictures


def compare_seeds(flags: argparse.Namespace) -> None:
    """Train what is missing, then report the results."""
    all_args = plan_runs(flags)
    args = all_args[0]
    splits = load_splits(args.data_dir, args.val_size)
    group = group_folder(args, [digest(split) for split in splits], run)
    jobs = {run_folder(args, group): args for args in all_args}
    at_once = flags.at_once or max(1, cores() // args.threads)
    failed = train_all(run, jobs, at_once, flags.cluster)
    finished = {folder: args for folder, args in jobs.items() if folder not in failed}
    if finished:
        comparison, predictions = results.evaluate(finished, splits)
        atomic_write(group / "results.json", results.pack_comparison(comparison))
        print(tables.comparison_tables(comparison), flush=True)
        pictures = draw_plots(comparison, predictions, splits[1])
        write_all({group / f"{name}.png": picture for name, picture in pictures.items()})
        print(f"\nresults and plots: {group}")
    if failed:
        names = ", ".join(folder.name for folder in failed)
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {names}; see above")


# --- Single runs of any settings --------------------------------------------------------------


def runs_table(checkpoints: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in which settings runs differ, and their last metrics, from run -> checkpoint."""
    defaults = dataclasses.asdict(Args())
    settings = {name: defaults | run["settings"] for name, run in checkpoints.items()}
    last = {name: run["history"][-1] for name, run in checkpoints.items()}
    columns = []
    for key in defaults:
        values = {name: str(own_settings[key]) for name, own_settings in settings.items()}
        if key != "epochs" and len(set(values.values())) > 1:
            columns.append((key, values))
    epochs = {
        name: f"{run['epoch']} of {settings[name]['epochs']}" for name, run in checkpoints.items()
    }
    columns.append(("epochs", epochs))
    for metric in dict.fromkeys(name for row in last.values() for name in row):
        if metric.endswith(("loss", "accuracy")):
            places = 4 if metric.endswith("loss") else 2
            title = metric.replace("_", " ").replace("val ", "validation ")
            cells = {run: f"{row[metric]:.{places}f}" for run, row in last.items() if metric in row}
            columns.append((title, cells))
    return tables.column_table("run", columns)


def compare_runs(names: list[str]) -> None:
    """Print and draw runs of main.py, finished or not, beside each other."""
    folders = []
    for name in names:
        folder = Path(name) if has_checkpoint(Path(name)) else RUNS / name
        if not has_checkpoint(folder):
            there = sorted(path.parent.name for path in RUNS.glob("*/checkpoint.pt"))
            raise UserError(
                f"--runs {name}: no such run in {RUNS.resolve()}, which has "
                f"{', '.join(there) or 'none'}"
            )
        folders.append(folder)
    short = [folder.name for folder in folders]
    unique = len(set(short)) == len(set(folders))
    checkpoints = {
        folder.name if unique else str(folder): load_checkpoint(folder) for folder in folders
    }
    print(runs_table(checkpoints), flush=True)
    from comparison.plots import plot_runs  # here, as matplotlib takes long to import

    path = PLOTS / f"runs_{'_'.join(short)[:100]}.png"
    atomic_write(path, plot_runs({name: run["history"] for name, run in checkpoints.items()}))
    print(f"\n{path}")


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> argparse.Namespace:
    """Return the flags, among them the settings of all runs that are given."""
    parser = ManyRunsParser(__doc__, seeds=10)
    parser.add_argument("--first_seed", type=int, default=0, help="then 1 more each (default: 0)")
    parser.add_argument(
        "--at_once", type=positive, help="side by side on a CPU (default: cores / threads)"
    )
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="show these runs of main.py")
    add_settings(parser, Args, RECIPES, leave_out=("model_type", "seed", "val_size", "data_dir"))
    flags = parser.parse_args()
    others = [name for name in vars(flags) if vars(flags)[name] != parser.get_default(name)]
    if flags.runs and others != ["runs"]:
        parser.error(f"--runs trains nothing, so --{min(set(others) - {'runs'})} has no meaning")
    return flags


def main() -> None:
    """Compare many seeds of every network, or runs of main.py."""
    flags = parse_flags()
    if flags.runs:
        compare_runs(flags.runs)
    else:
        compare_seeds(flags)


if __name__ == "__main__":
    run_command(main)
