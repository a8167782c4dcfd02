"""Runs on disk: their folders and locks, checkpoints and weights, and which run may be resumed."""

import csv
import dataclasses
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from utils.classes import CLASSES
from utils.distributed import rank, warn
from utils.files import UserError, acquire_lock, atomic_write

RUNS = Path("runs")
# Settings that a resumed run may change: not what is computed, but where and with which images'
# copy. Another device or number of threads changes the last digits.
FREE = ("data_dir", "device", "threads")
NEW_RUN = "start a new run under another --name; predict.py --run still uses this one"
History = list[dict[str, float]]  # a dict per epoch, with the columns of metrics.csv


class State(NamedTuple):
    """What training changes, apart from the history: --resume restores these and nothing else."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None
    generator: torch.Generator


# --- Folders ----------------------------------------------------------------------------------


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run has finished an epoch in the folder."""
    return (folder / "checkpoint.pt").is_file()


@contextmanager
def new_run(model_type: str, name: str | None) -> Iterator[Path]:
    """Hold the folder of a new run: runs/NAME, else MODEL, MODEL-2, MODEL-3 and so on.

    A run that ends before its first checkpoint leaves nothing, and its name free.

    Raises:
        UserError: if NAME is taken, or the folder can't be made.
    """
    for number in count(1):
        folder = RUNS / (name or (model_type if number == 1 else f"{model_type}-{number}"))
        lock = acquire_lock(folder)
        if lock and not has_checkpoint(folder):
            break
        if name:
            raise UserError(
                f"{folder}: taken by another run; choose another --name, or resume that run: "
                f"--resume --name {name}"
            )
    assert lock is not None  # as the loop ended with it
    try:
        with lock:
            yield folder
    finally:
        if not has_checkpoint(folder):
            with suppress(OSError):  # other files are in it
                (folder / ".lock").unlink()
                folder.rmdir()
                RUNS.rmdir()


@contextmanager
def resumed_run(args_class: type, given: dict[str, Any], name: str | None) -> Iterator[tuple]:
    """Hold the folder of the newest run, or of NAME; yields its settings and the folder.

    Settings given override its own; restore() refuses those that the run can't take over.

    Raises:
        UserError: if there is no such run, or another process is training it.
    """
    newest = max(
        RUNS.glob("*/checkpoint.pt"),
        key=lambda path: path.stat().st_mtime_ns,
        default=RUNS / "*/checkpoint.pt",
    )
    folder = RUNS / name if name else newest.parent
    if not has_checkpoint(folder):
        raise UserError(f"{folder}: no checkpoint to resume from; start without --resume")
    lock = acquire_lock(folder)
    if lock is None:
        raise UserError(
            f"{folder}: another process is training this run; wait until it ends, or remove "
            f"{folder / '.lock'} if there is none"
        )
    with lock:
        saved = load_checkpoint(folder)["settings"]
        known = {field.name for field in dataclasses.fields(args_class)}
        settings = {key: value for key, value in saved.items() if key in known}
        try:
            args = args_class(**(settings | given))
        except UserError as error:  # such as for a network that has another name now
            raise UserError(f"{folder}: {error}") from error
        yield args, folder


# --- Checkpoints ------------------------------------------------------------------------------


def save_run(
    folder: Path, args: Any, data: list[str], state: State, history: History, images: int
) -> None:
    """Write all that it takes to resume to checkpoint.pt, then metrics.csv; only rank 0 writes.

    And how many images it was trained on, for people.
    """
    if rank() != 0:
        return
    model, optimizer, scheduler, generator = state
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": _plain(optimizer.state_dict()),
        "scheduler": _plain(scheduler.state_dict()) if scheduler else {},
        "trained_with": _type_names(optimizer, scheduler),
        "generator": generator.get_state(),
        "epoch": len(history),
        "history": history,
        "settings": dataclasses.asdict(args),
        "data": data,
        "images": images,
        "classes": CLASSES,
    }
    content = io.BytesIO()
    torch.save(checkpoint, content)
    atomic_write(folder / "checkpoint.pt", content.getbuffer())
    _write_metrics(folder, history)


def _plain(value: Any) -> Any:
    """Return a value with NumPy's numbers, which could not be loaded again, as Python's."""
    if isinstance(value, dict):
        plain = value.copy()  # of its own kind, as some schedules have a Counter
        for key, part in value.items():
            plain[key] = _plain(part)
        return plain
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _type_names(*parts: Any) -> str:
    return " and ".join(type(part).__name__ for part in parts if part is not None)


def _write_metrics(folder: Path, history: History) -> None:
    text = io.StringIO()
    columns = dict.fromkeys(name for row in history for name in row)  # some may be newer
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    try:
        atomic_write(folder / "metrics.csv", text.getvalue().encode())
    except UserError as error:  # on Windows while Excel has it open; nothing depends on it
        warn(str(error))


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Return what save_run() has written, on the CPU; UserError if it is missing or damaged."""
    parts = ("optimizer", "generator", "epoch", "history", "data")
    return _load(folder / "checkpoint.pt", *parts)


def _load(path: Path, *parts: str) -> dict[str, Any]:
    """Return a file's content: model, settings and the other parts.

    Raises:
        UserError: if the file is damaged, a part is missing, or the network knows other classes.
    """
    try:
        with zipfile.ZipFile(path) as file:  # as PyTorch does not check the sums
            if name := file.testzip():
                raise ValueError(f"{name} has changed")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # zipfile and PyTorch raise many kinds for a damaged file
        raise UserError(
            f"{path}: damaged, or no file of weights ({type(error).__name__}); put a copy in its "
            "place, or remove it and train again"
        ) from error
    for part in ("model", "settings", *parts):
        if not isinstance(content, dict) or part not in content:
            raise UserError(f"{path}: not a file of this program, as it has no {part!r}")
    classes = content.get("classes", CLASSES)  # earlier versions did not write them
    if classes != CLASSES:
        raise UserError(
            f"{path}: its classes are {classes}, not {CLASSES} as in utils/classes.py now; put "
            "that back as it was, or take other weights or another run"
        )
    return content


def restore(folder: Path, args: Any, data: list[str], state: State) -> History:
    """Put the folder's checkpoint, else the initial weights of args.init, into the state.

    Args:
        folder: of the run.
        args: the settings to train with from here on, a dataclass.
        data: digests of the images and labels to train on and to evaluate on.
        state: as before the first epoch; changed in place.

    Returns:
        The history of the epochs done.

    Raises:
        UserError: for a checkpoint that is damaged, or that can't be resumed with these settings,
            images, network, optimizer or schedule.
    """
    model, optimizer, scheduler, generator = state
    if not has_checkpoint(folder):
        if args.init != "random":
            _put_initial_weights(model, args)
        return []
    checkpoint = load_checkpoint(folder)
    _check_settings(folder, args, checkpoint)
    if checkpoint["data"] != data:
        raise UserError(
            f"{folder}: the images or labels in {args.data_dir} are not those it was trained on; "
            "pass the --data_dir that has them, or start a new run"
        )
    # Runs of earlier versions have the optimizer's alone.
    trained_with = checkpoint.get("trained_with", checkpoint.get("optimizer_type"))
    now = _type_names(optimizer, scheduler)
    if trained_with != now:
        raise UserError(f"{folder}: was trained with {trained_with}, not with {now}; {NEW_RUN}")
    put_weights(model, checkpoint["model"], str(folder / "checkpoint.pt"))
    if list(checkpoint["model"]) != list(model.state_dict()):  # the optimizer knows them by place
        raise UserError(
            f"{folder}: the layers of {type(model).__name__} in model.py stand in another order "
            f"than when it was trained; put them back, or {NEW_RUN}"
        )
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
    except ValueError as error:
        raise UserError(f"{folder}: its optimizer does not fit: {error}; {NEW_RUN}") from error
    if scheduler:
        scheduler.load_state_dict(checkpoint["scheduler"])
    generator.set_state(checkpoint["generator"])
    if rank() == 0:  # a kill may have come between the checkpoint and it
        _write_metrics(folder, checkpoint["history"])
    return checkpoint["history"]


def _check_settings(folder: Path, args: Any, checkpoint: dict[str, Any]) -> None:
    """Raise UserError unless a run may go on with these settings: the one rule of resuming.

    What the numbers depend on must be as it was. The epochs may become more, unless a schedule was
    laid out for them.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    saved = defaults | checkpoint["settings"]  # which may lack settings that are newer
    now = dataclasses.asdict(args)
    may_change = FREE if args.schedule != "constant" else (*FREE, "epochs")
    for name, value in saved.items():
        if name not in now and value:  # what is 0 or False changed nothing
            raise UserError(
                f"{folder}: was trained with --{name} {value}, which Args in main.py has no more; "
                f"put it back to resume, or {NEW_RUN}"
            )
        if name in now and name not in may_change and now[name] != value:
            why = ", which its schedule was laid out for" if name == "epochs" else ""
            raise UserError(
                f"{folder}: was trained with --{name} {value}{why}, not {now[name]}; leave the "
                f"flag out to resume, or {NEW_RUN}"
            )
    if args.epochs < checkpoint["epoch"]:
        raise UserError(
            f"{folder}: has {checkpoint['epoch']} epochs already, more than --epochs {args.epochs}"
        )


# --- Weights ----------------------------------------------------------------------------------


def pack_weights(
    model_type: str, deskew: bool, weights: dict[str, torch.Tensor], temperature: float = 1.0
) -> bytes:
    """Return the content of a file that holds what it takes to use a network, not to resume it.

    The temperature divides the logits, see reading/classifier.py.
    """
    content = io.BytesIO()
    settings = {"model_type": model_type, "deskew": deskew, "temperature": temperature}
    torch.save({"model": weights, "settings": settings, "classes": CLASSES}, content)
    return content.getvalue()


def find_weights(source: str) -> Path:
    """Return the file of a source of weights: a file, a run's folder, or a run's name."""
    places = [Path(source), Path(source) / "checkpoint.pt", RUNS / source / "checkpoint.pt"]
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"{source}: neither a file of weights nor a run in {RUNS}")


def load_weights(source: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the settings (model_type, deskew and temperature at least) and state dict of a source.

    The settings hold the number of training images, too, None if it is not known. See
    find_weights(); UserError if it is missing or damaged.
    """
    content = _load(find_weights(source))
    others = {"temperature": 1.0, "images": content.get("images")}
    return others | content["settings"], content["model"]


def put_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load weights into a model; UserError names the first that does not fit it."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        _, first, *_ = str(error).splitlines()
        raise UserError(
            f"{source}: does not fit {type(model).__name__} as it is in model.py now: "
            f"{first.strip()} Put model.py and utils/classes.py back as they were, or choose other "
            "weights"
        ) from error


def _put_initial_weights(model: nn.Module, args: Any) -> None:
    settings, weights = load_weights(args.init)
    for name in ("model_type", "deskew"):
        if settings[name] != getattr(args, name):
            raise UserError(
                f"--init {args.init}: was trained with {name} {settings[name]}, not "
                f"{getattr(args, name)}; train with the same --{name}"
            )
    put_weights(model, weights, f"--init {args.init}")
