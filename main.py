"""Train one network on handwritten digits, test it after every epoch, plot its curves.

    python main.py                                     LeNet-5, 20 epochs
    python main.py --model_type CustomMLP --epochs 5   any setting below is a flag
    python main.py --resume                            resume the newest run
    torchrun --standalone --nproc-per-node 2 main.py   the same training in two processes

Writes runs/NAME/metrics.csv and runs/NAME/checkpoint.pt after every epoch, and at the end
plots/loss_plot_NAME.png and plots/accuracy_plot_NAME.png.
"""

from utils.command import run_command  # isort: split

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from dataset import Batches, Split, load_splits, prepare
from model import MODELS, TITLES
from utils import checkpoint, distributed, metrics
from utils.augment import make_augmentation
from utils.files import PLOTS, atomic_write
from utils.settings import check_settings, make_reproducible, parse_flags, select_device, setting


@dataclass
class Args:
    """The args block: every setting, once. Change a default here, or pass the flag."""

    model_type: str = setting("LeNet5", "network", choices=MODELS)
    epochs: int = setting(20, "passes over the training images", 1)
    batch_size: int = setting(64, "images per step, over all processes together", 1)
    lr: float = setting(0.001, "learning rate of SGD", above=0)
    momentum: float = setting(0.9, "SGD momentum", 0, 1)
    seed: int = setting(0, "random seed: initialization, shuffling, dropout", 0, 2**63)
    data_dir: str = setting("data", "folder of the archives or of the extracted images")
    device: str = setting("auto", "auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps")
    threads: int = setting(1, "CPU threads; another number changes the last digits", 1)
    val_size: int = setting(0, "validate on the last N training images, not on the test set", 0)
    init: str = setting("random", "initial weights: random, a file of weights, or a run")
    schedule: str = setting("constant", "learning rate schedule", choices=("constant", "onecycle"))
    label_smoothing: float = setting(0.0, "share of each target spread over all digits", 0, 1)
    weight_decay: float = setting(0.0, "L2 penalty", 0, 1)
    deskew: bool = setting(False, "remove the slant of every image, of the test images too")
    rotate: float = setting(0.0, "random rotation, in degrees", 0, 180)
    shift: float = setting(0.0, "random shift, in pixels", 0, 28)
    stretch: float = setting(0.0, "random change of width and of height, as a share", 0, 1)
    shear: float = setting(0.0, "random shear, in pixels per pixel of height", 0, 10)
    elastic: float = setting(0.0, "random elastic distortion, standard deviation in pixels", 0, 28)


# Sets of settings; what a recipe leaves out is as in the args block.
ONECYCLE: dict[str, Any] = {
    "schedule": "onecycle",
    "lr": 0.1,
    "label_smoothing": 0.05,
    "deskew": True,
}
AUGMENTED: dict[str, Any] = {
    "rotate": 7.0,
    "shift": 1.0,
    "stretch": 0.1,
    "shear": 0.1,
    "elastic": 0.3,
}
BEST: dict[str, Any] = ONECYCLE | AUGMENTED | {"weight_decay": 0.0003}
RECIPES: dict[str, dict[str, Any]] = {
    "baseline": {},
    "best": BEST,
    "record": BEST | {"epochs": 80},
    "fast": ONECYCLE | {"model_type": "LeNet5_regularization", "epochs": 1},
}
EVALUATION_BATCH = 1000  # images; without gradients larger batches are faster


def train(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler | None = None,
    label_smoothing: float = 0.0,
    show_bar: bool = False,
) -> tuple[float, float]:
    """Train one epoch.

    Args:
        model: from images [B, 1, 28, 28] to logits [B, 10], on the device of the batches.
        batches: the training images, in a new order each epoch.
        optimizer: of the model's parameters.
        scheduler: sets the optimizer's learning rate after every step.
        label_smoothing: share e of the target spread over all ten digits (Szegedy et al., 2016):
            the label's digit has 1 - e + e / 10, the others have e / 10.
        show_bar: draws a progress bar, if stderr is a terminal.

    Returns:
        (loss, accuracy in percent), means over the images as each batch met the model; the loss
        is the one trained on, with label smoothing.
    """
    model.train()
    sums = torch.zeros(2, device=batches.labels.device)
    loss_sum, hits = sums  # views
    bar = tqdm(batches, unit=" steps", leave=False, disable=None if show_bar else True)
    for images, labels, whole_batch in bar:
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        optimizer.zero_grad()
        # The mean over the whole batch: DDP averages the processes' gradients, so each is scaled.
        (loss * (distributed.world_size() / whole_batch)).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        # The sums stay on the device: reading them here would make the CPU wait in every step.
        loss_sum += loss.detach()
        hits += (logits.argmax(dim=1) == labels).sum()
    return _means(sums, batches)


@torch.inference_mode()
def test(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Return (loss, accuracy in percent) of the model in eval mode, means over all images."""
    model.eval()
    sums = torch.zeros(2, device=batches.labels.device)
    loss_sum, hits = sums
    for images, labels, _ in batches:
        logits = model(images)
        loss_sum += F.cross_entropy(logits, labels, reduction="sum")
        hits += (logits.argmax(dim=1) == labels).sum()
    return _means(sums, batches)


def _means(sums: torch.Tensor, batches: Batches) -> tuple[float, float]:
    loss, hits = distributed.all_reduce(sums).tolist()
    return loss / len(batches.labels), 100 * hits / len(batches.labels)


def load_data(args: Args) -> tuple[Split, Split]:
    """Check the settings, then load the images to train on and those to test or validate on.

    Raises:
        UserError: for settings that can't work, or data that can't be read.
    """
    check_settings(args)
    training, evaluation = load_splits(args.data_dir, args.val_size)
    model = checkpoint.initialize(MODELS[args.model_type](), args)
    distributed.check_shares(model, len(training.labels), args.batch_size)
    return training, evaluation


def make_scheduler(
    args: Args, optimizer: torch.optim.Optimizer, steps: int, epochs_done: int
) -> OneCycleLR | None:
    """Return what sets the learning rate after each of an epoch's steps; None keeps it constant.

    One cycle (Smith and Topin, 2018): up to lr in the first 30 % of all steps, then down to almost
    0, along cosines. It follows from the number of steps done, so checkpoints hold nothing of it.
    """
    if args.schedule == "constant":
        return None
    last_step = steps * epochs_done - 1
    return OneCycleLR(
        optimizer, args.lr, steps * args.epochs, cycle_momentum=False, last_epoch=last_step
    )


def run(args: Args, folder: Path, verbose: bool = True) -> list[dict[str, float]]:
    """Train one network with one seed to args.epochs, from the folder's checkpoint if it has one.

    Returns:
        The history, one dict per epoch: epoch, train_loss, train_accuracy (percent), test_loss,
        test_accuracy (percent), seconds; with a val_size val_loss and val_accuracy instead.

    Raises:
        UserError: for wrong settings, data that can't be read, files that can't be written, and a
            loss that is not finite; the checkpoint of the epoch before is kept.
    """
    splits = load_data(args)
    verbose = verbose and distributed.rank() == 0
    if verbose:
        print(metrics.describe_run(args, folder, MODELS[args.model_type](), *splits), flush=True)
    make_reproducible(args.seed, args.threads)
    device = select_device(args.device)
    # The only random numbers after initialization come from here, so that a checkpoint needs no
    # other state. Seeded by a draw, as the same seed would repeat the numbers of the weights.
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    model = checkpoint.initialize(MODELS[args.model_type](), args)
    model = model.to(device).to(memory_format=torch.channels_last)
    decay, fused = args.weight_decay, device.type != "mps"
    optimizer = torch.optim.SGD(
        model.parameters(), args.lr, args.momentum, weight_decay=decay, fused=fused
    )
    history = checkpoint.restore(folder, args, model, optimizer, generator)
    started = time.perf_counter()  # the first epoch's seconds hold the preparation too
    training, evaluation = (prepare(split, args.deskew, device) for split in splits)
    augmentation = make_augmentation(args, device)
    batches = Batches(training, args.batch_size, generator, augmentation)
    test_batches = Batches(evaluation, EVALUATION_BATCH)
    scheduler = make_scheduler(args, optimizer, len(batches), len(history))
    ddp_model = distributed.wrap_ddp(model, device)
    checkpoint.save_run(folder, args, model, optimizer, generator, history)
    if verbose and len(history) == args.epochs:
        print("already finished:", metrics.format_row(history[-1]))
    for epoch in range(len(history) + 1, args.epochs + 1):
        # Dropout's masks: new in each epoch, different in each process.
        seed = int(torch.randint(2**62, (), generator=generator))
        torch.manual_seed(seed + distributed.rank())
        trained = train(ddp_model, batches, optimizer, scheduler, args.label_smoothing, verbose)
        tested = test(ddp_model, test_batches)  # which takes rank 0's batch norm statistics
        seconds, started = time.perf_counter() - started, time.perf_counter()
        history.append(metrics.make_row(folder, args, epoch, trained, tested, seconds))
        checkpoint.save_run(folder, args, model, optimizer, generator, history)
        if verbose:
            print(metrics.format_row(history[-1]), flush=True)
    return history


def main() -> None:
    """Train as the flags say, and plot the curves."""
    flags, given = parse_flags(Args, RECIPES, __doc__)
    job = None
    if distributed.rank() == 0:  # the others wait for it in init_processes()
        if flags.resume:
            args, folder, _lock = checkpoint.resume_run(Args, given, flags.name)
        else:
            args = Args(**given)
            load_data(args)  # first, so that a run that can't start leaves no folder
            folder, _lock = checkpoint.new_run(args.model_type, flags.name)
        job = args, folder
    distributed.init_processes()
    args, folder = distributed.broadcast(job)
    try:
        history = run(args, folder)
    except KeyboardInterrupt:
        hint = f"interrupted; to resume: python main.py --resume --name {folder.name}"
        raise KeyboardInterrupt(hint) from None
    distributed.end_processes()
    if distributed.rank() == 0:
        from utils.plots import plot_run

        for metric in ("loss", "accuracy"):
            path = PLOTS / f"{metric}_plot_{folder.name}.png"
            atomic_write(path, plot_run(metric, folder.name, args.model_type, history, TITLES))
            print(path)
        print(folder / "metrics.csv", folder / "checkpoint.pt", sep="\n")


if __name__ == "__main__":
    run_command(main)
