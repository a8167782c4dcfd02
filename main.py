"""Train one network on handwritten digits, test it after every epoch, draw its curves.

    python main.py                                     LeNet-5, 20 epochs
    python main.py --model_type CustomMLP --epochs 5   any setting below is a flag
    python main.py --resume                            go on with the newest run
    torchrun --standalone --nproc-per-node 2 main.py   the same training on two processes

Writes runs/NAME/metrics.csv and runs/NAME/checkpoint.pt after every epoch, and at the end
plots/loss_plot_MODEL.png and plots/accuracy_plot_MODEL.png.
"""

import argparse
import csv
import dataclasses
import functools
import io
import math
import os
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path

# What cuBLAS needs to be deterministic; it must be set before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

import parallel
from augment import Warp, deskew
from dataset import MNIST, SPLITS, Batches, normalise
from files import Parser, UserError, claim, command, new_run, write_whole
from model import MODELS


def setting(default, effect: str):
    """One line of the args block: the default, and the effect, which is the flag's help too."""
    return dataclasses.field(default=default, metadata={"help": effect})


@dataclasses.dataclass
class Args:
    """The args block: every setting, once. Change a default here, or pass the flag."""

    model_type: str = setting("LeNet5", f"the network: {', '.join(MODELS)}")
    epochs: int = setting(20, "passes over the training images")
    batch_size: int = setting(64, "images a step, over all processes together")
    lr: float = setting(0.001, "learning rate of SGD")
    momentum: float = setting(0.9, "share of the last step that SGD adds to the next")
    seed: int = setting(0, "of the first weights, the order of the images and dropout")
    data_dir: str = setting("data", "folder of the archives or of the extracted images")
    device: str = setting("auto", "auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps")
    holdout: int = setting(0, "train without the last N training images and test on those instead")
    schedule: str = setting("constant", "of the learning rate: constant, or onecycle up to lr")
    label_smoothing: float = setting(0.0, "share of each label spread evenly over all digits")
    weight_decay: float = setting(0.0, "pull of the weights towards 0: lr times this share a step")
    deskew: int = setting(0, "1 sets every image upright first, those of the test too")
    rotate: float = setting(0.0, "largest random turn of a training image, in degrees")
    shift: float = setting(0.0, "largest random move, in pixels, each way")
    stretch: float = setting(0.0, "largest random change of width and of height, as a share")
    shear: float = setting(0.0, "largest random slant, in pixels across per pixel down")
    elastic: float = setting(0.0, "standard deviation of random bends, in pixels")


# Named sets of settings; what a set leaves out is as in the args block.
RECIPES: dict[str, dict] = {
    "baseline": {},
    "best": {
        "schedule": "onecycle",
        "lr": 0.1,
        "label_smoothing": 0.05,
        "weight_decay": 0.0003,
        "deskew": 1,
        "rotate": 7.0,
        "shift": 1.0,
        "stretch": 0.1,
        "shear": 0.1,
        "elastic": 0.3,
    },
    "fast": {
        "model_type": "LeNet5_regularization",
        "epochs": 1,
        "schedule": "onecycle",
        "lr": 0.1,
        "label_smoothing": 0.05,
        "deskew": 1,
    },
}


RUNS = Path("runs")
COLUMNS = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
CHECKPOINT_ERRORS = (OSError, EOFError, RuntimeError, pickle.UnpicklingError)  # a damaged file
CHECKPOINT_ERRORS += (LookupError, TypeError, ValueError)  # another version's content
SCHEDULES = ("constant", "onecycle")
# Settings that lie from 0 to below a limit.
LIMITS = {"momentum": 1, "label_smoothing": 1, "weight_decay": 1, "stretch": 1}
LIMITS |= {"rotate": 180, "shift": 28, "shear": 10, "elastic": 28}
EVALUATION_BATCH = 1000  # images; without gradients larger batches are faster


class Diverged(UserError):
    """A loss is no longer finite."""

    exit_code = 1


# --- Training and testing ---------------------------------------------------------------------


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
        scheduler: sets the optimizer's learning rate anew after every step.
        label_smoothing: share e of the target spread over all ten digits (Szegedy et al., 2016):
            the label's digit has 1 - e + e / 10, the others have e / 10.
        show_bar: draws a progress bar, if stderr is a terminal.

    Returns:
        (loss, accuracy in percent), means over the images as each batch met the model; the loss
        is the one trained on, with label smoothing.
    """
    model.train()
    total_loss, correct = _zeros(batches), _zeros(batches)
    bar = tqdm(batches, unit=" steps", leave=False, disable=None if show_bar else True)
    for images, labels, whole_batch in bar:
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        optimizer.zero_grad()
        # The mean over the whole batch: the processes' gradients are averaged, so each is scaled.
        (loss * (parallel.world_size() / whole_batch)).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
        # The sums stay on the device: reading them here would make it wait in every step.
        total_loss += loss.detach()
        correct += (logits.argmax(dim=1) == labels).sum()
    return _means(total_loss, correct, batches)


@torch.inference_mode()
def test(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Return (loss, accuracy in percent) of the model in eval mode, means over all images."""
    model.eval()
    total_loss, correct = _zeros(batches), _zeros(batches)
    for images, labels, _ in batches:
        logits = model(images)
        total_loss += F.cross_entropy(logits, labels, reduction="sum")
        correct += (logits.argmax(dim=1) == labels).sum()
    return _means(total_loss, correct, batches)


def _zeros(batches: Batches) -> torch.Tensor:
    return torch.zeros((), device=batches.labels.device)


def _means(
    total_loss: torch.Tensor, correct: torch.Tensor, batches: Batches
) -> tuple[float, float]:
    loss, accuracy = parallel.add_up(torch.stack([total_loss, correct])).tolist()
    return loss / len(batches.labels), 100 * accuracy / len(batches.labels)


# --- One run ----------------------------------------------------------------------------------


def check(args: Args) -> torch.device:
    """Refuse settings that cannot work.

    Returns:
        The device to train on.

    Raises:
        UserError: naming the flag, what is wrong and what would be right.
    """
    if args.model_type not in MODELS:
        raise UserError(f"--model_type {args.model_type}: unknown; known are {', '.join(MODELS)}")
    for name in ("epochs", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    if not (math.isfinite(args.lr) and args.lr > 0):
        raise UserError(f"--lr {args.lr}: must be positive and finite, such as 0.001")
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed {args.seed}: must be at least 0 and below 2**63")
    if args.batch_size < parallel.world_size():
        raise UserError(
            f"--batch_size {args.batch_size}: smaller than the number of processes, "
            f"{parallel.world_size()}; choose a larger batch or fewer processes"
        )
    if args.holdout < 0:
        raise UserError(f"--holdout {args.holdout}: must be at least 0")
    if args.schedule not in SCHEDULES:
        raise UserError(f"--schedule {args.schedule}: unknown; known are {', '.join(SCHEDULES)}")
    if args.deskew not in (0, 1):
        raise UserError(f"--deskew {args.deskew}: must be 0 or 1")
    for name, limit in LIMITS.items():
        if not 0 <= getattr(args, name) < limit:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 0 and below {limit}")
    if not Path(args.data_dir).is_dir():
        raise UserError(f"--data_dir {args.data_dir}: no such folder")
    return _find_device(args.device)


def _find_device(name: str) -> torch.device:
    number = int(os.environ.get("LOCAL_RANK", "0"))  # of the process on its machine
    if name == "auto" and torch.cuda.is_available():
        name = "cuda"
    elif name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{number}" if name == "cuda" else name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:1 or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type):
        raise UserError(f"--device {name}: this machine or this PyTorch has none; use auto")
    return device


@functools.cache  # many runs in one process share the data
def load(folder: Path, device: torch.device, upright: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a split's images, float32 [N, 1, 28, 28] normalised, and labels, int64 [N].

    With upright the images are deskewed.
    """
    split = MNIST(folder)
    images = normalise(split.images).to(device)
    return deskew(images) if upright else images, split.labels.to(device)


def prepare(args: Args) -> tuple[torch.device, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Check the settings, extract what is missing, and load.

    Returns:
        The device, and on it (images, labels) to train on and to test on, as load() gives them:
        the train and the test split; with holdout the train split's first and its last images,
        and the test split is not touched.

    Raises:
        UserError: for settings that can't work, or data that can't be read.
    """
    device = check(args)
    names = SPLITS[:1] if args.holdout else SPLITS
    folders = [(Path(args.data_dir) / name).resolve() for name in names]
    splits = [load(folder, device, args.deskew) for folder in folders]
    if args.holdout:
        images, labels = splits[0]
        size = len(labels) - args.holdout
        if size < 1:
            raise UserError(f"--holdout {args.holdout}: leaves none of {len(labels)} to train on")
        splits = [(images[:size], labels[:size]), (images[size:], labels[size:])]
    layers = MODELS[args.model_type]().modules()
    has_batch_norm = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers)
    size = len(splits[0][1])
    if has_batch_norm and 1 in (args.batch_size, size % args.batch_size):
        raise UserError(
            f"--batch_size {args.batch_size}: leaves a batch of one of the {size} images, which "
            "batch normalization cannot train on; choose another batch_size"
        )
    return device, splits


def build(
    args: Args, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    """Return the model with its first weights, its optimizer, and the run's random generator."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid, costs 3 %
    torch.manual_seed(args.seed)
    # The one source of chance but for the first weights: its state is all that a checkpoint must
    # hold of it. Seeded anew, as an equal seed would repeat the numbers of the weights.
    generator = torch.Generator().manual_seed(torch.randint(2**62, ()).item())
    model = MODELS[args.model_type]().to(device, memory_format=torch.channels_last)
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=args.lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
        fused=fused,
    )
    return model, optimizer, generator


def make_scheduler(
    args: Args, optimizer: torch.optim.Optimizer, steps: int, epochs_done: int
) -> OneCycleLR | None:
    """Return what sets the learning rate after each step; None keeps it constant.

    One cycle (Smith and Topin, 2018): from lr / 25 up to lr in the first 30 % of all the steps of
    args.epochs, then down to almost 0, along cosines. It follows from the number of the step, so a
    checkpoint holds nothing of it.

    Args:
        args: the settings.
        optimizer: with the state of a checkpoint loaded, if epochs_done is not 0.
        steps: of one epoch.
        epochs_done: epochs behind the optimizer.
    """
    if args.schedule == "constant":
        return None
    return OneCycleLR(
        optimizer,
        max_lr=args.lr,
        total_steps=steps * args.epochs,
        cycle_momentum=False,
        last_epoch=steps * epochs_done - 1,
    )


def make_warp(args: Args, device: torch.device) -> Warp | None:
    """Return the random warp of the training images; None where the settings ask for none."""
    limits = (args.rotate, args.shift, args.stretch, args.shear, args.elastic)
    return Warp(*limits, device) if any(limits) else None


def run(
    args: Args,
    folder: Path,
    checkpoint: dict | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train one model with one seed, from the start or from a checkpoint, to args.epochs.

    Args:
        args: the settings.
        folder: where metrics.csv and checkpoint.pt are written after every epoch.
        checkpoint: as load_checkpoint() returns it; None starts anew.
        on_epoch: is given each epoch's row in place of printing it.

    Returns:
        The history, one dict an epoch: epoch, train_loss, train_accuracy (percent), test_loss,
        test_accuracy (percent), seconds. With holdout the test columns are of the held-out images.

    Raises:
        UserError: for wrong settings, data that can't be read, files that can't be written.
        Diverged: when a loss is not finite; the checkpoint of the epoch before is kept.
    """
    with parallel.shared_errors():
        device, ((images, labels), test_split) = prepare(args)
    model, optimizer, generator = build(args, device)
    history: list[dict] = []
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        generator.set_state(checkpoint["generator"])
        history = list(checkpoint["history"])
    shares = {"rank": parallel.rank(), "world_size": parallel.world_size()}
    warp = make_warp(args, device)
    train_batches = Batches(images, labels, args.batch_size, generator, warp, **shares)
    test_batches = Batches(*test_split, EVALUATION_BATCH, **shares)
    scheduler = make_scheduler(args, optimizer, len(train_batches), len(history))
    spread_model = parallel.spread(model)

    def save() -> None:
        with parallel.shared_errors():
            if parallel.rank() == 0:
                save_run(folder, args, model, optimizer, generator, history)

    save()
    for epoch in range(len(history) + 1, args.epochs + 1):
        started = time.perf_counter()
        # Dropout's masks: anew each epoch from the generator, different on each process.
        seed = torch.randint(2**62, (), generator=generator).item()
        torch.manual_seed(seed + parallel.rank())
        show_bar = on_epoch is None and parallel.rank() == 0
        train_loss, train_accuracy = train(
            spread_model, train_batches, optimizer, scheduler, args.label_smoothing, show_bar
        )
        test_loss, test_accuracy = test(model, test_batches)
        seconds = time.perf_counter() - started
        if not (math.isfinite(train_loss) and math.isfinite(test_loss)):
            raise Diverged(
                f"{folder}: the loss is not finite in epoch {epoch}; try a smaller --lr than "
                f"{args.lr} or a larger --batch_size than {args.batch_size}"
            )
        row = [epoch, train_loss, train_accuracy, test_loss, test_accuracy, seconds]
        history.append(dict(zip(COLUMNS, row, strict=True)))
        save()
        if on_epoch:
            on_epoch(history[-1])
        elif parallel.rank() == 0:
            _print_epoch(history[-1], tested(args).capitalize())
    return history


def tested(args: Args) -> str:
    """Return which images the test columns are of: test, or held-out."""
    return "held-out" if args.holdout else "test"


def _print_epoch(row: dict, split: str) -> None:
    print(
        f"Epoch: {row['epoch']}, "
        f"Train Loss: {row['train_loss']:.4f}, Train Accuracy: {row['train_accuracy']:.2f}, "
        f"{split} Loss: {row['test_loss']:.4f}, {split} Accuracy: {row['test_accuracy']:.2f}, "
        f"Seconds: {row['seconds']:.2f}",
        flush=True,
    )


# --- Checkpoints ------------------------------------------------------------------------------


def save_run(
    folder: Path,
    args: Args,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: list[dict],
) -> None:
    """Write checkpoint.pt, then metrics.csv, each whole or not at all."""
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "epoch": len(history),
        "history": history,
        "settings": dataclasses.asdict(args),
    }
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_whole(folder / "checkpoint.pt", content.getbuffer())
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    write_whole(folder / "metrics.csv", text.getvalue().encode())


def load_checkpoint(folder: Path) -> tuple[Args, dict]:
    """Return a run's settings and its checkpoint; UserError if it is missing or damaged."""
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint to resume from; start without --resume")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        args = Args(**checkpoint["settings"])
        MODELS[args.model_type]().load_state_dict(checkpoint["model"])
        if checkpoint["epoch"] != len(checkpoint["history"]):
            raise ValueError("epoch and history differ")
    except CHECKPOINT_ERRORS as error:
        raise UserError(
            f"{path}: damaged, or of another version of this program ({type(error).__name__}); "
            "remove the folder or start with another --name"
        ) from error
    return args, checkpoint


def merge(args: Args, checkpoint: dict, given: dict, folder: Path) -> Args:
    """Return a run's settings with the epochs asked for; UserError if other flags differ."""
    for name, value in given.items():
        if name != "epochs" and value != getattr(args, name):
            raise UserError(
                f"{folder}: was started with --{name} {getattr(args, name)}, not {value}; leave "
                "the flag out, or start a new run without --resume"
            )
    epochs = given.get("epochs", args.epochs)
    if args.schedule != "constant" and epochs != args.epochs:
        raise UserError(
            f"{folder}: its {args.schedule} schedule was laid out for {args.epochs} epochs; leave "
            "--epochs out, or start a new run without --resume"
        )
    args = dataclasses.replace(args, epochs=epochs)
    if args.epochs < checkpoint["epoch"]:
        raise UserError(
            f"{folder}: has {checkpoint['epoch']} epochs already, more than --epochs {args.epochs}"
        )
    return args


def _newest_run(model_type: str) -> Path:
    paths = sorted(RUNS.glob("*/checkpoint.pt"), key=lambda path: path.stat().st_mtime_ns)
    for path in reversed(paths):
        if load_checkpoint(path.parent)[0].model_type == model_type:
            return path.parent
    raise UserError(f"{RUNS}: no run of {model_type} to resume; start without --resume")


# --- The command ------------------------------------------------------------------------------


def add_settings(parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = ()) -> None:
    """Give a parser --recipe, and a flag for every setting; flags not given stay away."""
    known = "a named set of settings, which any other flag overrides (default: baseline)"
    parser.add_argument("--recipe", choices=RECIPES, default="baseline", help=known)
    for field in dataclasses.fields(Args):
        if field.name not in leave_out:
            effect = f"{field.metadata['help']} (default: {field.default})"
            parser.add_argument(
                f"--{field.name}", type=field.type, default=argparse.SUPPRESS, help=effect
            )


def given_settings(flags: argparse.Namespace) -> dict:
    """Return the settings of the recipe and those among the flags, which go first."""
    names = {field.name for field in dataclasses.fields(Args)}
    given = {name: value for name, value in vars(flags).items() if name in names}
    return RECIPES[flags.recipe] | given


def parse_flags() -> argparse.Namespace:
    """Return the flags of the command line: the settings that were given, name and resume."""
    parser = Parser(description=__doc__)
    parser.add_argument("--name", help="of the run's folder in runs/ (default: the model_type)")
    parser.add_argument("--resume", action="store_true", help="go on with the newest run, or NAME")
    add_settings(parser)
    flags = parser.parse_args()
    if flags.name is not None and not re.fullmatch(r"[\w-][\w.-]*", flags.name):
        parser.error(f"--name {flags.name!r}: use letters, digits, '-', '_' and '.'")
    return flags


def open_run(flags: argparse.Namespace) -> tuple[Args, Path, dict | None, FileLock]:
    """Return settings, folder, checkpoint (None for a new run) and the lock on the folder."""
    given = given_settings(flags)
    if flags.resume:
        model_type = given.get("model_type", Args.model_type)
        folder = RUNS / flags.name if flags.name else _newest_run(model_type)
        load_checkpoint(folder)  # before claim() could make a folder of a mistyped name
        lock = claim(folder)
        if lock is None:
            raise UserError(f"{folder}: another process is training this run; wait for its end")
        args, checkpoint = load_checkpoint(folder)
        return merge(args, checkpoint, given, folder), folder, checkpoint, lock
    args = Args(**given)
    prepare(args)  # first, so that a run that can't start leaves no folder
    folder, lock = new_run(RUNS, args.model_type, flags.name)
    return args, folder, None, lock


def main() -> None:
    """Train as the flags say, and draw the curves."""
    flags = parse_flags()
    parallel.start()
    try:
        opened = folder = None
        with parallel.shared_errors():
            if parallel.rank() == 0:
                # The lock lasts as long as this name refers to it.
                *opened, _lock = open_run(flags)
        args, folder, checkpoint = parallel.from_rank_0(opened)
        history = run(args, folder, checkpoint)
        with parallel.shared_errors():  # the others stay until this one has drawn
            if parallel.rank() == 0:
                from figures import plot_run

                for path in plot_run(args.model_type, history, tested(args)):
                    print(path)
                print(folder / "metrics.csv", folder / "checkpoint.pt", sep="\n")
    except KeyboardInterrupt:
        if folder is None:
            raise
        hint = f"python main.py --resume --name {folder.name}"
        raise KeyboardInterrupt(f"stopped; go on with: {hint}") from None
    finally:
        parallel.stop()


if __name__ == "__main__":
    command(main)
