"""A run on part of the training images: what the study of data size trains.

In a module of its own, as processes and a run's identity know functions by their module.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from dataset import Split, load_splits, nested_order
from main import Args, run
from utils.checkpoint import History
from utils.settings import setting

STEPS = 2000


@dataclass
class SubsetArgs(Args):
    """The settings of a run, two more than main.py's."""

    images: int = setting(60_000, "training images", 1)
    steps: int = setting(STEPS, "steps of SGD", 1)


def run_on_subset(args: SubsetArgs, folder: Path, verbose: bool = True) -> History:
    """Train on the first images of the nested order, repeated to fill all steps of one epoch.

    Returns:
        The history of that epoch, as main.run() returns it.
    """
    training, evaluation = load_splits(args.data_dir, args.val_size)
    chosen = nested_order(training.labels)[: args.images]
    repeated = chosen[torch.arange(args.steps * args.batch_size) % len(chosen)]
    subset = Split(training.images[repeated], training.labels[repeated])
    return run(args, folder, verbose, splits=(subset, evaluation))
