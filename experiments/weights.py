"""The weights that are shipped: trained on MNIST and on digits as others than Americans write them.

    python -m experiments.weights              3 networks, with and without validation images

Where MNIST was collected a 1 is a single stroke and a 7 has no bar. So digits that people in Turkey
and in Switzerland wrote are added to the training images. Those from Turkey are in data/pendigits/;
those from Switzerland you must fetch first, see swiss.py. Runs are kept in runs/weights/, from
where experiments/publish.py takes them.
"""

from utils.command import run_command  # isort: split

from dataclasses import replace
from pathlib import Path

import torch

from comparison.runs import cores, is_finished, train_all
from dataset import Split, load_splits
from experiments import pendigits, swiss
from main import RECIPES, Args, run
from model import MODELS
from predict import load_images
from reading.classifier import classify, fit_temperature, load_classifier
from utils.checkpoint import RUNS, History, load_checkpoint, pack_weights
from utils.files import UserError
from utils.settings import Parser

FOLDER, SHIPPED = RUNS / "weights", Path("data/weights")
# 10 to 14 read about as many pictures; this one reads most of the drawings of tests/test_photos.py.
SEED = 13
VAL_SIZE = 10_000


def with_others(split: Split) -> Split:
    """Return training images, then those of pendigits, then those of swiss."""
    folders = (pendigits.FOLDER, swiss.FOLDER)
    splits = [split, *(load_images(folder / "train.tar.xz")[1] for folder in folders)]
    images, labels = zip(*splits, strict=True)
    return Split(torch.cat(images), torch.cat(labels))


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
    archive = swiss.FOLDER / "train.tar.xz"
    if not archive.is_file():
        raise UserError(f"{archive}: not there; python -m experiments.swiss --help says what to do")
    if failed := train_all(run_with_others, plan_runs(), cores()):
        raise UserError(f"{len(failed)} runs failed; see above")


if __name__ == "__main__":
    run_command(main)
