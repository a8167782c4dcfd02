"""Train one network on handwritten digits, test it after every epoch, plot its curves.

    python main.py                                     LeNet-5, 20 epochs
    python main.py --model_type CustomMLP --epochs 5   any setting below is a flag
    python main.py --resume                            resume the newest run
    torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 main.py   in two processes

Writes runs/NAME/metrics.csv and runs/NAME/checkpoint.pt after every epoch, and at the end
plots/loss_plot_NAME.png and plots/accuracy_plot_NAME.png.
"""

from utils.command import run_command  # isort: split

import math
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from dataset import Batches, Split, digest, load_splits, prepare
from model import COLOURS, MODELS, TITLES, make_model
from utils import checkpoint, distributed
from utils.augment import make_augmentation
from utils.checkpoint import History
from utils.device import make_reproducible, random_states_kept, seed_all, select_device
from utils.files import PLOTS, UserError, atomic_write
from utils.metrics import describe_run, format_row
from utils.settings import Parser, add_settings, check_settings, given_settings, setting


@dataclass
class Args:
    """The args block: every setting, once. Change a default here, or pass the flag.

    Raises:
        UserError: for a value that its line does not allow, or a device that is not there.
    """

    model_type: str = setting("LeNet5", "network", choices=MODELS)
    epochs: int = setting(20, "passes over the training images", 1)
    batch_size: int = setting(64, "images per step, over all processes together", 1)
    lr: float = setting(0.001, "learning rate of SGD", above=0)
    momentum: float = setting(0.9, "SGD momentum", 0, 1)
    seed: int = setting(0, "random seed: initialization, shuffling, dropout", 0, 2**63)
    data_dir: str = setting("data", "folder of the archives or of the extracted images")
    device: str = setting("auto", "auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps")
    threads: int = setting(1, "CPU threads; another number changes the last digits", 1, 1025)
    val_size: int = setting(
        0, "validate on N training images, not on the test set; --init must not have seen them", 0
    )
    init: str = setting("random", "initial weights: random, a file of weights, or a run")
    schedule: str = setting("constant", "learning rate schedule", choices=("constant", "onecycle"))
    label_smoothing: float = setting(0.0, "share of each target spread over all classes", 0, 1)
    weight_decay: float = setting(0.0, "L2 penalty", 0, 1)
    deskew: bool = setting(False, "remove the slant of every image, of the test images too")
    rotate: float = setting(0.0, "random rotation, in degrees", 0, 180)
    shift: float = setting(0.0, "random shift, in pixels", 0, 28)
    stretch: float = setting(0.0, "random change of width and of height, as a share", 0, 1)
    shear: float = setting(0.0, "random shear, in pixels per pixel of height", 0, 10)
    elastic: float = setting(0.0, "random elastic distortion, standard deviation in pixels", 0, 28)

    def __post_init__(self) -> None:
        check_settings(self)
        select_device(self.device)


# Sets of settings; what a recipe leaves out is as in the args block.
Settings = dict[str, Any]
ONECYCLE: Settings = dict(schedule="onecycle", lr=0.1, label_smoothing=0.05, deskew=True)
AUGMENTED: Settings = dict(rotate=7.0, shift=1.0, stretch=0.1, shear=0.1, elastic=0.3)
BEST: Settings = ONECYCLE | AUGMENTED | {"weight_decay": 0.0003}
RECIPES: dict[str, Settings] = {
    "baseline": {},
    "best": BEST,
    "record": BEST | {"epochs": 80},
    "fast": ONECYCLE | {"model_type": "LeNet5_regularization", "epochs": 1},
}
EVALUATION_BATCH = 1000  # images; without gradients larger batches are faster


# --- An epoch ---------------------------------------------------------------------------------


def evaluate(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sum of the losses, number of correct predictions) of a batch, on its device."""
    logits = model(images)
    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    return loss, (logits.argmax(dim=1) == labels).sum()


def train(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    args: Args,
    scheduler: LRScheduler | None = None,
    show_bar: bool = False,
) -> tuple[float, float]:
    """Train one epoch; returns (loss, accuracy in percent), means as each batch met the model.

    The loss is the one trained on. Of label_smoothing e (Szegedy et al., 2016) each of K classes
    gets e / K of the target, and the label's class 1 - e on top.

    Args:
        model: from images [B, 1, 28, 28] to logits [B, classes], on the device of the batches.
        batches: the training images, in a new order each epoch.
        optimizer: of the model's parameters.
        args: the settings.
        scheduler: sets the optimizer's learning rate after every step.
        show_bar: draws a progress bar, if stderr is a terminal.
    """
    model.train()
    sums = torch.zeros(2, device=batches.labels.device)
    bar = tqdm(batches, unit=" steps", leave=False, disable=None if show_bar else True)
    for images, labels, whole_batch in bar:
        loss, hits = evaluate(model, images, labels, args.label_smoothing)
        optimizer.zero_grad()
        # The mean over the whole batch: DDP averages the processes' gradients, so each is scaled.
        (loss * (distributed.world_size() / whole_batch)).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        # The sums stay on the device: reading them here would make the CPU wait in every step.
        sums[0] += loss.detach()
        sums[1] += hits
    return _means(sums, batches)


@torch.inference_mode()
def test(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Return (loss, accuracy in percent) of the model in eval mode, means over all images."""
    model.eval()
    sums = torch.zeros(2, device=batches.labels.device)
    for images, labels, _ in batches:
        loss, hits = evaluate(model, images, labels)
        sums[0] += loss
        sums[1] += hits
    return _means(sums, batches)


def _means(sums: torch.Tensor, batches: Batches) -> tuple[float, float]:
    loss, hits = distributed.all_reduce(sums).tolist()
    return loss / len(batches.labels), 100 * hits / len(batches.labels)


# --- A run ------------------------------------------------------------------------------------


def make_scheduler(args: Args, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler | None:
    """Return what sets the learning rate after each of an epoch's steps; None keeps it constant.

    One cycle (Smith and Topin, 2018): up to lr in the first 30 % of all steps, then down to almost
    0, along cosines.
    """
    if args.schedule == "constant":
        return None
    return OneCycleLR(optimizer, args.lr, steps * args.epochs, cycle_momentum=False)


@random_states_kept()
def run(
    args: Args,
    folder: str | Path,
    verbose: bool = True,
    splits: tuple[Split, Split] | None = None,
) -> History:
    """Train one network with one seed to args.epochs, from the folder's checkpoint if it has one.

    Args:
        args: the settings.
        folder: of the run; metrics.csv and checkpoint.pt are written there after every epoch.
        verbose: prints a line per epoch.
        splits: the loaded images to train on and to evaluate on; None loads those of args.

    Returns:
        The history, one dict per epoch: epoch, lr (of its first step), train_loss, train_accuracy
        (percent), test_loss, test_accuracy, seconds; with a val_size val_loss and val_accuracy in
        place of the test's.

    Raises:
        UserError: for what can't be read, resumed or written, and for a loss that is not finite.
    """
    folder = Path(folder)
    verbose = verbose and distributed.rank() == 0
    splits = splits or load_splits(args.data_dir, args.val_size)
    device = select_device(args.device)
    make_reproducible(args.seed, args.threads)
    # The only random numbers after initialization come from here, so that a checkpoint needs no
    # other state. Seeded by a draw, as the same seed would repeat the numbers of the weights.
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    model = make_model(args.model_type).to(device)
    distributed.check_shares(model, len(splits[0].labels), args.batch_size)
    if verbose:
        print(describe_run(args, folder, model, device, splits), flush=True)
    decay, fused = args.weight_decay, device.type != "mps"
    optimizer = torch.optim.SGD(  # after the first line, as PyTorch imports a compiler for it
        model.parameters(), args.lr, args.momentum, weight_decay=decay, fused=fused
    )
    steps = math.ceil(len(splits[0].labels) / args.batch_size)
    scheduler = make_scheduler(args, optimizer, steps)
    data = [digest(split) for split in splits]
    state = checkpoint.State(model, optimizer, scheduler, generator)
    history = checkpoint.restore(folder, args, data, state)
    if verbose and len(history) == args.epochs:
        print("already finished:", format_row(history[-1]))
    started = time.perf_counter()  # the first epoch's seconds hold the preparation too
    ddp_model = distributed.wrap_ddp(model, device)
    augmentation = make_augmentation(args, device)
    training, evaluation = (prepare(split, args.deskew, device) for split in splits)
    batches = Batches(training, args.batch_size, generator, augmentation)
    evaluation_batches = Batches(evaluation, EVALUATION_BATCH)
    split = "val" if args.val_size else "test"
    for epoch in range(len(history) + 1, args.epochs + 1):
        # Dropout's masks and your own draws: new in each epoch, different in each process.
        seed = int(torch.randint(2**62, (), generator=generator))
        seed_all(seed + distributed.rank())
        row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
        row["train_loss"], row["train_accuracy"] = train(
            ddp_model, batches, optimizer, args, scheduler, verbose
        )
        # With rank 0's batch norm statistics.
        row[f"{split}_loss"], row[f"{split}_accuracy"] = test(ddp_model, evaluation_batches)
        if not math.isfinite(row["train_loss"] + row[f"{split}_loss"]):
            raise UserError(
                f"{folder}, epoch {epoch}: the loss is not finite; try a smaller --lr than "
                f"{args.lr} or a larger --batch_size than {args.batch_size}"
            )
        row["seconds"], started = time.perf_counter() - started, time.perf_counter()
        # Plain numbers, as people may have added tensors or NumPy's, which can't be loaded again.
        row = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
        history.append(row)
        checkpoint.save_run(folder, args, data, state, history, len(training.labels))
        if verbose:
            print(format_row(row), flush=True)
    return history


# --- The command ------------------------------------------------------------------------------


def parse_flags() -> tuple[bool, str | None, Settings]:
    """Return whether to resume, the run's name, and the settings that the flags give."""
    parser = Parser(description=__doc__)
    parser.add_argument("--name", help="of the run's folder in runs/ (default: the model_type)")
    parser.add_argument("--resume", action="store_true", help="resume the newest run, or NAME")
    add_settings(parser, Args, RECIPES)
    flags = parser.parse_args()
    if flags.name is not None and not re.fullmatch(r"[\w-][\w.-]{,63}", flags.name):
        parser.error(f"--name {flags.name!r}: use up to 64 letters, digits, '-', '_' and '.'")
    return flags.resume, flags.name, given_settings(flags, Args, RECIPES)


def main() -> None:
    """Train as the flags say, and plot the curves."""
    resume, name, given = parse_flags()
    distributed.init_processes()
    with ExitStack() as held:  # rank 0's lock on the run's folder

        def open_run() -> tuple[Args, Path]:
            if resume:
                return held.enter_context(checkpoint.resumed_run(Args, given, name))
            args = Args(**given)
            return args, held.enter_context(checkpoint.new_run(args.model_type, name))

        args, folder = distributed.broadcast(open_run)
        try:
            history = run(args, folder)
        except KeyboardInterrupt:
            hint = "interrupted before the first epoch ended: nothing is kept"
            if checkpoint.has_checkpoint(folder):
                hint = f"interrupted; to resume: python main.py --resume --name {folder.name}"
            raise KeyboardInterrupt(hint) from None
        is_first = distributed.rank() == 0
        distributed.end_processes()
    if is_first:
        for file_name, plot in draw_curves(args, folder.name, history).items():
            atomic_write(PLOTS / file_name, plot)
            print(PLOTS / file_name)
        print(folder / "metrics.csv", folder / "checkpoint.pt", sep="\n")


def draw_curves(args: Args, run_name: str, history: History) -> dict[str, bytes]:
    """Return a run's loss and accuracy plot, file name -> PNG."""
    from utils.plots import plot_run  # here, as matplotlib takes a while to import

    title, colour = f"{TITLES[args.model_type]}, run {run_name}", COLOURS[args.model_type]
    metrics = ("loss", "accuracy")
    return {f"{m}_plot_{run_name}.png": plot_run(m, title, colour, history) for m in metrics}


if __name__ == "__main__":
    run_command(main)
