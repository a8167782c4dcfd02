"""A run on part of the training images: what the study of data size trains.

In a module of its own, as processes and a run's identity know functions by their module.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from dataset import Split, load_splits
from main import Args, run
from utils.checkpoint import History
from utils.settings import setting

STEPS = 2000


@dataclass
class SubsetArgs(Args):
    """The settings of a run, two more than main.py's."""

    images: int = setting(60_000, "training images", 1)
    steps: int = setting(STEPS, "steps of SGD", 1)


def nested_order(labels: torch.Tensor) -> torch.Tensor:
    """Return an order, int64 [N], whose first n images have the class shares of the whole.

    The j-th of a class's m images stands at (j - 1/2) / m, and images are sorted by that. So the
    first n hold the first images of each class, as many as Sainte-Lague's method allots.
    """
    places = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        of_class = labels == label
        count = int(of_class.sum())
        places[of_class] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return places.argsort(stable=True)


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
