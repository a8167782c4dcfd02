"""Train every network with many seeds and compare them: which is better, by how much, how sure.

    python compare.py                                       3 networks, 10 seeds, 20 epochs
    python compare.py --seeds 3 --epochs 5 --models LeNet5 CustomMLP
    python compare.py --recipe best --first_seed 10         another recipe, with seeds 10 to 19
    python compare.py --publish                             also renew what the README shows

On a CPU as many runs go side by side as there are cores, on a GPU one after the other. Finished
runs are kept in runs/compare/: started again, it trains only what is missing. The tables go to the
terminal, results and plots to the runs' folder; with --publish, which takes full comparisons on the
shipped data only, they go to plots/results/ and the tables into the READMEs too.
"""

from utils.command import run_command  # isort: split

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comparison import plots
from comparison.analysis import (
    calibration_error,
    confusion,
    correct_shares,
    digit_accuracies,
    majority,
    misread_counts,
    read_digits,
)
from comparison.identity import group_folder, run_folder
from comparison.runs import cores, runs_at_once, train_all
from comparison.stats import METHOD, differences, format_mean, summarise
from comparison.tables import (
    CALIBRATION,
    digit_table,
    figures,
    findings,
    gallery,
    hard_images,
    markdown,
    trained_on,
    verdict,
)
from dataset import Split, describe_data, digest, load_splits, prepare
from main import EVALUATION_BATCH, RECIPES, Args, run
from model import MODELS, TITLES, count_parameters
from utils.checkpoint import RUNS, load_checkpoint, pack_weights
from utils.device import processor_name, select_device
from utils.files import PLOTS, UserError, with_table, write_all
from utils.plots import plot_samples
from utils.settings import Parser, add_settings, given_settings

RESULTS = PLOTS / "results"
WEIGHTS, WEIGHTS_RECIPE = Path("data/weights"), "best"  # shipped for use without training
CONTRAST = ("LeNet5", "CustomMLP")  # what does convolution bring?
REGULARIZATION = ("LeNet5_regularization", "LeNet5")  # and what this?
EXTENDS = {"record": "best"}  # and is compared with it, as others are with the baseline
# Single runs reported elsewhere for these networks and the default settings, in percent.
REPORTED = {"CustomMLP": 97.14, "LeNet5": 98.77, "LeNet5_regularization": 98.86}


# --- Tables -----------------------------------------------------------------------------------


def summary_table(results: dict[str, dict[str, Any]]) -> str:
    """Return the README's table, a column per recipe, from recipe -> results."""
    rows = []
    for model_type in MODELS:
        cells = [
            format_mean(one["networks"][model_type]["test_accuracy"], 2)
            if model_type in one["networks"]
            else ""
            for one in results.values()
        ]
        if any(cells):
            rows.append([TITLES[model_type], f"{count_parameters(model_type):,}", *cells])
    heads = [f"`{recipe}`" for recipe in results]
    return markdown(["test accuracy in percent", "parameters", *heads], rows)


def full_table(results: dict[str, Any]) -> str:
    """Return what is known of the runs, as Markdown: figures, how they were made, verdicts."""
    runs, settings = results["runs"], results["settings"]
    free = ("epochs", "device", "threads")
    changed = [f"{n} {v}" for n, v in settings.items() if n not in free and v != getattr(Args, n)]
    seeds, epochs = sorted({one["seed"] for one in runs}), settings["epochs"]
    notes = (
        f"Means of {len(seeds)} runs (seeds {seeds[0]} to {seeds[-1]}) after {epochs} "
        f"epoch{'s' if epochs > 1 else ''}, in brackets the {results['method']}, over the runs "
        f"where nothing else is said. Settings: {', '.join(changed) or 'the defaults'}. Data: "
        f"{results['data']}. PyTorch {results['versions']['torch']} on {results['processor']}. "
        "Training figures are means over the last epoch, while the weights change"
        f"{f', on {on}' if (on := trained_on(settings, 'loss')) else ''}. {CALIBRATION}"
    )
    if not changed:
        reported = [f"{n} {REPORTED[n]:.2f}" for n in results["networks"] if n in REPORTED]
        notes += f" Reported elsewhere, single runs: {', '.join(reported) or 'none'}."
    if all(one["at_once"] == 1 for one in runs):  # side by side, runs take longer
        seconds = [sum(one["curves"]["seconds"]) for one in runs]
        notes += (
            " Seconds of a whole run, one at a time, from the loaded images to the last test: "
            f"median {np.median(seconds):.1f}, {min(seconds):.1f} to {max(seconds):.1f}."
        )
    verdicts = "\n".join(f"- {verdict(pair, TITLES)}" for pair in results["pairs"])
    parts = (figures(results, TITLES), notes, verdicts, digit_table(results, TITLES))
    return "\n\n".join(part for part in parts if part)


def summary_and_findings(results: dict[str, dict[str, Any]]) -> str:
    """Return what the README says of the recipes' results, from recipe -> results."""
    found = findings(results, TITLES, EXTENDS, CONTRAST, REGULARIZATION)
    return f"{summary_table(results)}\n\n{found}".strip()


# --- Results ----------------------------------------------------------------------------------


def collect(args: Args, folder: Path) -> dict[str, Any]:
    """Return a finished run: model_type, seed, at_once, curves and weights."""
    checkpoint = load_checkpoint(folder)
    history = checkpoint["history"]
    return {
        **{"model_type": args.model_type, "seed": args.seed, "at_once": runs_at_once(folder)},
        "curves": {column: [row[column] for row in history] for column in history[0]},
        "weights": checkpoint["model"],
    }


@torch.inference_mode()
def probabilities(one: dict[str, Any], images: torch.Tensor) -> np.ndarray:
    """Return a run's class probabilities, float32 [N, 10], for images [N, 1, 28, 28]."""
    model = MODELS[one["model_type"]]().to(images.device).eval()
    model.load_state_dict(one["weights"])
    logits = [model(batch) for batch in images.split(EVALUATION_BATCH)]
    return torch.cat(logits).softmax(dim=1).cpu().numpy()


def build_results(
    runs: list[dict[str, Any]], shares: list[np.ndarray], args: Args, splits: tuple[Split, Split]
) -> dict[str, Any]:
    """Return what the results' JSON holds: how the runs were made, their curves, the statistics.

    Args:
        runs: as collect() returns them.
        shares: each run's probabilities for the test images.
        args: the settings of one of the runs.
        splits: the loaded images.
    """
    labels, kept = splits[1].labels.numpy(), []
    for one, share in zip(runs, shares, strict=True):
        own = {key: value for key, value in one.items() if key != "weights"}
        own["calibration_error"] = calibration_error(share, labels)
        kept.append(own | {"digit_accuracy": digit_accuracies(share.argmax(axis=1), labels)})
    predictions = read_digits(runs, shares)
    misread = {name: misread_counts(own, labels) for name, own in predictions.items()}
    correct = {
        name: correct_shares(counts, len(predictions[name]), len(labels))
        for name, counts in misread.items()
    }
    digits, counts = np.unique(labels, return_counts=True)
    settings = dataclasses.asdict(args)
    for name in ("model_type", "seed", "data_dir"):
        del settings[name]
    return {
        "settings": settings,
        "data": describe_data(args.data_dir),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "processor": processor_name(args.device, args.threads),
        "method": METHOD,
        "test_images": dict(zip(map(str, digits), counts.tolist(), strict=True)),  # of each digit
        "networks": summarise(kept, correct),
        "pairs": differences(kept, correct),
        "misread": misread,  # for each network, test image -> how many of its runs misread it
        "runs": kept,
    }


def plot_all(
    runs: list[dict[str, Any]], shares: list[np.ndarray], results: dict[str, Any], test: Split
) -> dict[str, bytes]:
    """Return every plot of a comparison, name -> PNG; test is the test split as loaded."""
    pictures, settings, networks = {}, results["settings"], results["networks"]
    if settings["epochs"] > 1:  # a curve of one point is none
        for metric in ("accuracy", "loss"):
            on = trained_on(settings, metric)
            pictures[metric] = plots.plot_comparison(metric, runs, TITLES, on)
    pictures["final"] = plots.plot_finals(runs, networks, TITLES)
    pictures["digits"] = plots.plot_digits(networks, TITLES)
    labels = test.labels.numpy()
    deskewed = prepare(test, settings["deskew"], torch.device("cpu")).images
    images, note = deskewed.squeeze(1).numpy(), ", deskewed" if settings["deskew"] else ""
    predictions = read_digits(runs, shares)
    said = {name: majority(own) for name, own in predictions.items()}
    groups = hard_images(results, CONTRAST, TITLES)
    pictures["misread"] = plots.plot_misread(groups, images, labels, said, TITLES, note)
    for model_type, own in predictions.items():
        first = [one["model_type"] for one in runs].index(model_type)
        title, seed = TITLES[model_type], runs[first]["seed"]
        pictures[f"confusion_matrix_{model_type}"] = plots.plot_confusion(
            title, confusion(own, labels), len(own)
        )
        caption = f"{title}: the most confident mistakes (seed {seed}{note})"
        pictures[f"misclassified_{model_type}"] = plots.plot_misclassified(
            caption, images, labels, shares[first]
        )
        if model_type == "LeNet5":
            weight, bias = (runs[first]["weights"][f"conv1.{part}"] for part in ("weight", "bias"))
            maps = torch.relu(torch.nn.functional.conv2d(deskewed[:1], weight, bias))[0]
            pictures[f"filters_{model_type}"] = plots.plot_filters(
                f"{title} (seed {seed})", weight.squeeze(1).numpy(), images[0], maps.numpy(), note
            )
    return pictures


def check_publishable(flags: argparse.Namespace, given: dict[str, Any], data: str) -> None:
    """Raise UserError unless this is a full comparison of a recipe on the shipped data."""
    reasons = {
        f"--data_dir {given.get('data_dir')}: not the shipped data": not data.startswith("MNIST,"),
        f"--seeds {flags.seeds}: at least 10 are needed": flags.seeds < 10,
        "--models: all networks of the recipe are needed": flags.models is not None,
    }
    recipe = RECIPES[flags.recipe or "baseline"]
    for name in given.keys() - {"data_dir", "device"}:
        other = given[name] != recipe.get(name, getattr(Args, name))
        reasons[f"--{name} {given[name]}: not the recipe's own"] = other
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"{reason}, so that --publish would show what the README does not say")


def first_weights(runs: list[dict[str, Any]], deskew: bool) -> dict[Path, bytes]:
    """Return the files of weights that the repository ships: those of each network's first run."""
    firsts = {one["model_type"]: one["weights"] for one in reversed(runs)}
    return {
        WEIGHTS / f"{model_type}.pt": pack_weights(model_type, deskew, weights)
        for model_type, weights in firsts.items()
    }


def count_others(group: Path) -> None:
    """Say how many runs there are that don't belong to this comparison."""
    paths = (RUNS / "compare").glob("*/*/checkpoint.pt")
    others = [path for path in paths if group not in path.parents]
    if others:
        print(
            f"{len(others)} runs in {RUNS / 'compare'} have other settings, code, data, device or "
            "PyTorch: not shown, not deleted"
        )


def report(
    jobs: dict[Path, Args], group: Path, splits: tuple[Split, Split], recipe: str, publish: bool
) -> None:
    """Print the tables and write results and plots, to plots/results/ and the READMEs too."""
    runs = [collect(args, folder) for folder, args in jobs.items()]
    runs.sort(key=lambda one: (list(MODELS).index(one["model_type"]), one["seed"]))
    args = next(iter(jobs.values()))
    images = prepare(splits[1], args.deskew, select_device(args.device)).images
    shares = [probabilities(one, images) for one in runs]
    results = build_results(runs, shares, args, splits)
    content = (json.dumps(results, indent=1) + "\n").encode()
    pictures = plot_all(runs, shares, results, splits[1])
    table = full_table(results)
    files = {group / f"{name}.png": picture for name, picture in pictures.items()}
    files[group / "results.json"] = content
    if publish:
        files |= {RESULTS / f"{name}_{recipe}.png": picture for name, picture in pictures.items()}
        samples = (splits[0].images.numpy(), splits[0].labels.tolist())
        files[RESULTS / "samples.png"] = plot_samples(*samples)
        files[RESULTS / f"{recipe}.json"] = content
        section = f"{table}\n\n{gallery(results, recipe, TITLES)}"
        files[RESULTS / "README.md"] = with_table(RESULTS / "README.md", recipe, section)
        if recipe == WEIGHTS_RECIPE:
            files |= first_weights(runs, args.deskew)
        everything = {name: published(name) for name in RECIPES} | {recipe: results}
        summary = summary_and_findings({name: one for name, one in everything.items() if one})
        files[Path("README.md")] = with_table(Path("README.md"), "results", summary)
    write_all(files)
    print(table, f"results and plots: {RESULTS if publish else group}", sep="\n\n")


def published(recipe: str) -> dict[str, Any] | None:
    """Return a recipe's published results, None if there are none."""
    path = RESULTS / f"{recipe}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, seeds, and the settings of all runs."""
    parser = Parser(description=__doc__)
    parser.add_argument("--models", nargs="+", help="networks (default: the recipe's, or all)")
    parser.add_argument("--seeds", type=int, default=10, help="runs per network (default: 10)")
    parser.add_argument("--first_seed", type=int, default=0, help="then 1 more each (default: 0)")
    parser.add_argument(
        "--at_once", type=int, default=cores(), help="runs side by side on a CPU (default: cores)"
    )
    parser.add_argument("--publish", action="store_true", help="renew what the README shows")
    add_settings(parser, Args, RECIPES, leave_out=("model_type", "seed", "val_size"))
    flags = parser.parse_args()
    for name in ("seeds", "at_once"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} {getattr(flags, name)}: must be at least 1")
    if "RANK" in os.environ:
        parser.error("starts its own processes; run it without torchrun")
    return flags


def main() -> None:
    """Train what is missing, then report the results."""
    flags = parse_flags()
    given = given_settings(flags, Args, RECIPES)
    recipe_model = given.pop("model_type", None)
    models = flags.models or ([recipe_model] if recipe_model else list(MODELS))
    # A seed at a time, so that the networks are comparable however far it has come.
    all_args = [
        Args(model_type=model_type, seed=seed, **given)
        for seed in range(flags.first_seed, flags.first_seed + flags.seeds)
        for model_type in dict.fromkeys(models)
    ]
    for args in all_args[: len(models)]:
        splits = load_splits(
            args.data_dir, args.val_size
        )  # before any training, so that mistakes show at once
    if flags.publish:
        check_publishable(flags, given, describe_data(args.data_dir))
    group = group_folder(args, [digest(split) for split in splits])
    count_others(group)
    jobs = {run_folder(args, group): args for args in all_args}
    on_cpu = select_device(args.device).type == "cpu"
    failed = train_all(run, jobs, flags.at_once if on_cpu else 1)
    finished = {folder: args for folder, args in jobs.items() if folder not in failed}
    if finished:
        report(finished, group, splits, flags.recipe or "baseline", flags.publish and not failed)
    if failed:
        names = ", ".join(folder.name for folder in failed)
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {names}; start again to retry")


if __name__ == "__main__":
    run_command(main)
