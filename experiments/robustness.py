"""How well the compared networks read perturbed test images; nothing is trained.

    python -m experiments.robustness             the runs of compare.py, baseline and best recipe
    python -m experiments.robustness --publish   also renew what the README shows

The perturbations are in experiments/perturb.py, the runs those of two commands: python compare.py,
and the same with --recipe best --first_seed 10.
"""

from utils.command import run_command  # isort: split

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from compare import collect, markdown, probabilities
from comparison.identity import group_folder, run_folder
from comparison.runs import cores, is_finished
from comparison.stats import describe, first_reached, format_mean
from dataset import Split, describe_data, digest, load_splits, prepare
from experiments import perturb
from experiments.plots import plot_robustness
from experiments.study import describe_setup, refuse_other_data, refuse_trials, write_study
from main import RECIPES, Args
from model import MODELS, TITLES
from utils.device import select_device
from utils.files import UserError
from utils.settings import Parser

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
# recipe -> perturbation -> network -> strength -> described accuracy
Curves = dict[str, dict[str, dict[str, dict[float, dict[str, Any]]]]]


# --- Measuring --------------------------------------------------------------------------------


def find_runs(flags: argparse.Namespace, data: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the finished runs of each recipe, as compare.collect() does.

    Args:
        flags: as parse_flags() returns them.
        data: digests of the images to train on and to test on.

    Raises:
        UserError: if runs are missing, with the commands that make them.
    """
    found, missing = {}, 0
    for recipe, first in FIRST_SEEDS.items():
        shared = {"epochs": flags.epochs, "data_dir": flags.data_dir} | RECIPES[recipe]
        jobs = {}
        for model_type in dict.fromkeys(flags.models):
            for seed in range(first, first + flags.seeds):
                args = Args(model_type=model_type, seed=seed, **shared)
                jobs[run_folder(args, group_folder(args, data))] = args
        done = {folder: args for folder, args in jobs.items() if is_finished(args, folder)}
        found[recipe] = [collect(args, folder) for folder, args in done.items()]
        missing += len(jobs) - len(done)
    if missing:
        raise UserError(
            f"{missing} of the comparison's runs are missing; to train them: python compare.py and "
            "python compare.py --recipe best --first_seed 10, with the flags given here"
        )
    return found


def evaluate(
    runs: dict[str, list[dict[str, Any]]], pixels: torch.Tensor, labels: torch.Tensor
) -> dict[tuple[str, str], list[float]]:
    """Return (recipe, network) -> each run's accuracy in percent.

    Args:
        runs: of each recipe, which may deskew.
        pixels: float32 [N, 28, 28], 0 to 255.
        labels: int64 [N].
    """
    found: dict[tuple[str, str], list[float]] = {}
    # A thread per network at work: several for one network are slow on a busy machine.
    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for recipe, own in runs.items():
            # A copy, as normalising changes floats in place.
            split = Split(pixels.clone(), labels)
            images = prepare(split, RECIPES[recipe].get("deskew", False), pixels.device).images
            all_shares = pool.map(probabilities, own, repeat(images))
            for one, shares in zip(own, all_shares, strict=True):
                hits = shares.argmax(axis=1) == labels.cpu().numpy()
                accuracies = found.setdefault((recipe, one["model_type"]), [])
                accuracies.append(100 * float(hits.mean()))
    return found


def measure(runs: dict[str, list[dict[str, Any]]], test: Split) -> list[dict[str, Any]]:
    """Return the accuracies at each strength of each perturbation, for each recipe and network.

    Args:
        runs: of each recipe.
        test: the test split as loaded, on the device.
    """
    pixels, points = test.images.float(), []
    unchanged = evaluate(runs, pixels, test.labels)
    strengths = [(name, s) for name, one in PERTURBATIONS.items() for s in one.strengths]
    for name, strength in tqdm(strengths, unit=" strengths", leave=False, disable=None):
        found, one = unchanged, PERTURBATIONS[name]
        if strength != one.neutral:
            generator = torch.Generator().manual_seed(SEED)
            found = evaluate(runs, one.change(pixels, strength, generator), test.labels)
        for (recipe, model_type), accuracies in found.items():
            point = {"recipe": recipe, "model_type": model_type, "perturbation": name}
            point |= {"strength": strength, "accuracies": accuracies}
            points.append(point | {"accuracy": describe(accuracies)})
    return points


# --- Reporting --------------------------------------------------------------------------------


def make_curves(points: list[dict[str, Any]]) -> Curves:
    """Return what was measured by recipe, perturbation, network and strength."""
    curves: Curves = {}
    for point in points:
        panels = curves.setdefault(point["recipe"], {})
        networks = panels.setdefault(point["perturbation"], {})
        networks.setdefault(point["model_type"], {})[point["strength"]] = point["accuracy"]
    return curves


def failures(curve: dict[float, dict[str, Any]], neutral: float) -> str:
    """Return at which strengths, on either side of the neutral one, a mean falls below LIMIT."""
    parts = []
    for sign in (-1, 1):
        side = sorted((s for s in curve if sign * (s - neutral) >= 0), key=lambda s: sign * s)
        if len(side) > 1:
            reached = first_reached(side, [-curve[s]["mean"] for s in side], -LIMIT)
            parts.append("never" if reached is None else f"{reached:.3g}")
    return " and ".join(parts)


def findings(curves: Curves) -> list[str]:
    """Return what the means in the table say, as sentences."""
    means = {  # (row, recipe) -> network -> mean
        (f"{name} {strength:g}", recipe): {
            network: curve[strength]["mean"] for network, curve in networks.items()
        }
        for recipe, panels in curves.items()
        for name, networks in panels.items()
        for strength in PERTURBATIONS[name].in_table
    }
    places = []
    for extreme, choose in (("highest", max), ("lowest", min)):
        for recipe in curves:
            rows = [row for (_, owner), row in means.items() if owner == recipe]
            owners = [choose(row, key=row.__getitem__) for row in rows]
            counts = [f"{TITLES[network]} {owners.count(network)}" for network in rows[0]]
            places.append(f"{extreme} mean with `{recipe}`: {', '.join(counts)}")
    spreads = {key: max(row.values()) - min(row.values()) for key, row in means.items()}
    (where, recipe), spread = max(spreads.items(), key=lambda item: item[1])
    row = means[where, recipe]
    high, low = max(row, key=row.__getitem__), min(row, key=row.__getitem__)
    gains = sorted(
        (means[name, "best"][network] - mean, f"{TITLES[network]}, {name}")
        for (name, owner), row in means.items()
        for network, mean in row.items()
        if owner == "baseline"
    )
    return [
        f"Of the {len(rows)} rows: {'; '.join(places)}.",
        f"The networks are furthest apart, by {spread:.1f} points, at {where} with `{recipe}`: "
        f"{TITLES[high]} {row[high]:.1f} %, {TITLES[low]} {row[low]:.1f} %.",
        f"The recipe `best` changes the means by {gains[0][0]:+.1f} points ({gains[0][1]}) to "
        f"{gains[-1][0]:+.1f} points ({gains[-1][1]}), compared with `baseline`.",
    ]


def render(study: dict[str, Any]) -> str:
    """Return the study as Markdown, for the terminal and the README."""
    curves = make_curves(study["points"])
    columns = list(dict.fromkeys((one["recipe"], one["model_type"]) for one in study["points"]))
    heads = [f"{TITLES[model_type]}, `{recipe}`" for recipe, model_type in columns]
    strengths, limits = [], []
    for name, one in PERTURBATIONS.items():
        own = [curves[recipe][name][model_type] for recipe, model_type in columns]
        title = f"{name}, {one.unit}"
        for strength in one.in_table:
            cells = [format_mean(curve[strength], 1) for curve in own]
            strengths.append([f"{title}: {strength:g}", *cells])
        limits.append([title, *(failures(curve, one.neutral) for curve in own)])
    seeds = "; ".join(
        f"`{recipe}` {first} to {first + study['seeds'] - 1}"
        for recipe, first in FIRST_SEEDS.items()
    )
    notes = (
        f"Accuracy in percent on {study['images']:,} perturbed test images; means of "
        f"{study['seeds']} runs of the comparison (seeds: {seeds}), in brackets the "
        f"{study['method']}. The pixels, 0 to 255, are perturbed before deskewing and "
        "normalisation; deskewing, part of `best`, centres the digit again. Shift: in a random "
        "direction. Rotation: to the left or to the right at random. Scale: from the centre. These "
        "three interpolate bilinearly; beyond the edge is black. Noise: Gaussian, clipped to 0 to "
        "255. Blur: Gaussian. Contrast: each pixel's difference from the mean of its image is "
        "multiplied by the factor. Covered square: black, at a random place. What is random is "
        f"drawn for each image with the seed {SEED}, the same "
        f"for every network and strength. Data: {study['data']}. PyTorch "
        f"{study['versions']['torch']} on {study['processor']}."
    )
    return "\n\n".join(
        [
            markdown(["perturbation", *heads], strengths),
            f"The strength at which the mean falls below {LIMIT} %, interpolated linearly; a scale "
            "can be too small and too large:",
            markdown(["perturbation", *heads], limits),
            notes,
            "\n".join(f"- {line}" for line in findings(curves)),
        ]
    )


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, seeds, epochs, data_dir and publish."""
    parser = Parser(description=__doc__)
    networks = list(MODELS)
    parser.add_argument("--models", nargs="+", default=networks, help="networks (default: all)")
    parser.add_argument("--seeds", type=int, default=10, help="runs per network (default: 10)")
    parser.add_argument("--epochs", type=int, default=Args.epochs, help="of the runs (default: 20)")
    parser.add_argument("--data_dir", default=Args.data_dir, help="of the images (default: data)")
    parser.add_argument("--publish", action="store_true", help="renew what the README shows")
    flags = parser.parse_args()
    refuse_trials(parser, flags, 10, ["models", "epochs"])
    return flags


def main() -> None:
    """Perturb the test images, then report how well the finished runs read them."""
    flags = parse_flags()
    splits = load_splits(flags.data_dir, 0)
    data = describe_data(flags.data_dir)
    refuse_other_data(flags, data)
    runs = find_runs(flags, [digest(split) for split in splits])
    device = select_device(Args.device)
    points = measure(runs, Split(*(part.to(device) for part in splits[1])))
    study = {
        **{"seeds": flags.seeds, "epochs": flags.epochs, "images": len(splits[1].labels)},
        **{"data": data, **describe_setup(Args()), "points": points},
    }
    units = {name: one.unit for name, one in PERTURBATIONS.items()}
    picture = plot_robustness(make_curves(points), units, TITLES)
    write_study("robustness", study, render(study), {"robustness": picture}, flags.publish)


if __name__ == "__main__":
    run_command(main)
