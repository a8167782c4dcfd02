"""The weights that are shipped: trained on MNIST and on digits as others than Americans write them.

    python -m experiments.weights              3 networks, with and without validation images

Where MNIST was collected a 1 is a single stroke and a 7 has no bar. So the digits of
data/pendigits/ are added to the training images, see pendigits.py, and some drawn 1s with a long
flag and no base, which are otherwise taken for a 7. Runs are kept in runs/weights/, from where
experiments/publish.py takes them.
"""

from utils.command import run_command  # isort: split

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from comparison.runs import cores, is_finished, train_all
from dataset import Split, load_splits
from experiments import pendigits
from main import RECIPES, Args, run
from model import MODELS
from predict import load_images
from reading.classifier import classify, fit_temperature, load_classifier
from utils.checkpoint import RUNS, History, load_checkpoint, pack_weights
from utils.files import UserError
from utils.settings import Parser

FOLDER, SHIPPED = RUNS / "weights", Path("data/weights")
SEED = 10
VAL_SIZE = 10_000
# Of 150 and 300, tried with 3 seeds on validation images and real pictures: with 300 more 7s of
# MNIST were taken for 1s.
DRAWN = 150
CANVAS = 480  # pixels; digits are 160 tall


def curve(start: np.ndarray, middle: np.ndarray, end: np.ndarray) -> list[tuple[float, float]]:
    """Return points (x, y) of the quadratic curve through three points float [2]."""
    t = np.linspace(0, 1, 12)[:, None]
    control = 2 * middle - (start + end) / 2
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    return [(float(x), float(y)) for x, y in points]


def draw_one(generator: np.random.Generator) -> np.ndarray:
    """Return a 1 with a flag and no base as uint8 [28, 28]: two curved strokes, drawn at random."""
    height = CANVAS / 3
    slant = generator.normal(0.05, 0.12)
    centre = np.array([CANVAS, CANVAS]) / 2
    half = height / 2 * np.array([slant, -1])
    top, foot = centre + half, centre - half
    angle = math.radians(generator.uniform(40, 65))  # of the flag, below the horizontal
    flag = height * generator.uniform(0.25, 0.65) * np.array([-math.cos(angle), math.sin(angle)])
    flag_middle = top + flag / 2 + generator.normal(0, 0.035 * height, 2)
    stem_middle = centre + generator.normal(0, 0.02 * height, 2)
    points = curve(top + flag, flag_middle, top) + curve(top, stem_middle, foot)
    width = generator.uniform(1.8, 4) * height / 20
    return pendigits.draw_lines([points], width, CANVAS)


def with_others(split: Split) -> Split:
    """Return training images with drawn 1s after them, always the same ones, and pendigits."""
    generator = np.random.default_rng(0)
    drawn = torch.from_numpy(np.stack([draw_one(generator) for _ in range(DRAWN)]))
    ones = torch.ones(DRAWN, dtype=torch.int64)
    _, others = load_images(pendigits.FOLDER / "train.tar.xz")
    images = torch.cat([split.images, drawn, others.images])
    return Split(images, torch.cat([split.labels, ones, others.labels]))


def run_with_others(args: Args, folder: Path, verbose: bool = True) -> History:
    """Train as main.run() does, on the training images and those of others."""
    training, evaluation = load_splits(args.data_dir, args.val_size)
    return run(args, folder, verbose, (with_others(training), evaluation))


def plan_runs() -> dict[Path, Args]:
    """Return folder -> settings of the runs: of each network one that is shipped, one to fit on."""
    jobs = {}
    for model_type in MODELS:
        args = Args(**RECIPES["best"] | {"model_type": model_type, "seed": SEED})
        jobs[FOLDER / model_type] = args
        jobs[FOLDER / f"{model_type}-validation"] = replace(args, val_size=VAL_SIZE)
    return jobs


def shipped_files() -> dict[Path, bytes]:
    """Return the files of weights, calibrated: none unless all runs are finished.

    A network's temperature (Guo et al., 2017) is fitted on the validation images of a run that was
    not trained on them.
    """
    if not all(is_finished(args, folder) for folder, args in plan_runs().items()):
        return {}
    _, validation = load_splits(Args.data_dir, VAL_SIZE)
    files = {}
    for model_type in MODELS:
        checkpoint = load_checkpoint(FOLDER / model_type)
        classifier = load_classifier(str(FOLDER / f"{model_type}-validation"))
        temperature = fit_temperature(classify(classifier, validation.images), validation.labels)
        deskewed, weights = checkpoint["settings"]["deskew"], checkpoint["model"]
        content = pack_weights(model_type, deskewed, weights, temperature)
        files[SHIPPED / f"{model_type}.pt"] = content
    return files


def main() -> None:
    """Train what is missing."""
    Parser(description=__doc__).parse_args()
    if failed := train_all(run_with_others, plan_runs(), cores()):
        raise UserError(f"{len(failed)} runs failed; see above")


if __name__ == "__main__":
    run_command(main)
