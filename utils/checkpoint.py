"""Runs on disk: their folders and locks, checkpoints, weights, which run may be resumed how."""

import csv
import dataclasses
import io
import pickle
import zipfile
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from utils.distributed import rank
from utils.files import UserError, acquire_lock, atomic_write

RUNS = Path("runs")
PARTS = ("model", "settings")  # of every checkpoint and file of weights
LOAD_ERRORS = (
    # A damaged file.
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile),
    *(LookupError, TypeError, ValueError),  # another version's content
)


# --- Folders ----------------------------------------------------------------------------------


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run has begun in the folder."""
    return (folder / "checkpoint.pt").is_file()


def new_run(model_type: str, name: str | None) -> tuple[Path, FileLock]:
    """Return the locked folder of a new run: NAME, else MODEL, MODEL-2, MODEL-3 and so on.

    Raises:
        UserError: if NAME is taken, or the folder can't be made.
    """
    for number in count(1):
        folder = RUNS / (name or (model_type if number == 1 else f"{model_type}-{number}"))
        if not has_checkpoint(folder):
            lock = acquire_lock(folder)
            # Looked at again, as another process may have trained here until now.
            if lock and not has_checkpoint(folder):
                return folder, lock
        if name:
            break
    raise UserError(
        f"{folder}: taken by another run; choose another --name, or resume that run: "
        f"--resume --name {name}"
    )


def newest_run(model_type: str | None) -> Path:
    """Return the folder of the run that was trained last, of any network or of the given one."""
    paths = sorted(RUNS.glob("*/checkpoint.pt"), key=lambda path: path.stat().st_mtime_ns)
    for path in reversed(paths):
        if model_type in (None, load_checkpoint(path.parent)["settings"].get("model_type")):
            return path.parent
    raise UserError(f"{RUNS}: no run {f'of {model_type} ' if model_type else ''}to resume")


# --- Checkpoints ------------------------------------------------------------------------------


def save_run(
    folder: Path,
    args: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    history: list[dict[str, float]],
) -> None:
    """Write checkpoint.pt, then metrics.csv, each atomically; only rank 0 writes."""
    if rank() != 0:
        return
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
    atomic_write(folder / "checkpoint.pt", content.getbuffer())
    if history:
        text = io.StringIO()
        table = csv.DictWriter(text, history[0], lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        atomic_write(folder / "metrics.csv", text.getvalue().encode())


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: damaged, or of another version of this program ({type(error).__name__}); "
        "remove it, or choose another"
    )


def _load(path: Path) -> dict[str, Any]:
    """Return what save_run() or save_weights() wrote, on the CPU; UserError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as file:  # as PyTorch does not check the sums
            if name := file.testzip():
                raise ValueError(f"{name} is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(content[part], dict) and content[part] for part in PARTS):
            raise ValueError("a part is missing")
    except LOAD_ERRORS as error:
        raise _unreadable(path, error) from error
    return content


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Return a run's checkpoint, on the CPU; UserError if it is missing or damaged.

    Its keys: model and optimizer (state dicts), generator (the state of the run's random
    generator), epoch (how many are done), history (a dict per epoch), settings (a dict).
    """
    path = folder / "checkpoint.pt"
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint to resume from; start without --resume")
    checkpoint = _load(path)
    try:
        if checkpoint["epoch"] != len(checkpoint["history"]):
            raise ValueError("the parts contradict each other")
    except LOAD_ERRORS as error:
        raise _unreadable(path, error) from error
    return checkpoint


def check_settings_kept(folder: Path, args: Any, checkpoint: dict[str, Any]) -> None:
    """Raise UserError if a run was trained so far with other settings than it is to go on with."""
    free = {"data_dir", "device", "threads"}
    if args.schedule == "constant":  # others are laid out for a number of epochs
        free.add("epochs")
    for name, value in checkpoint["settings"].items():
        if name not in free and getattr(args, name, None) != value:
            raise UserError(
                f"{folder}: was trained with {name} {value}, not {getattr(args, name, 'without')}; "
                "remove the folder to train it anew"
            )


def restore(
    folder: Path,
    args: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> list[dict[str, float]]:
    """Put the folder's checkpoint, if it has one, into model, optimizer and generator.

    Returns:
        The history of the epochs done, empty if there is no checkpoint.

    Raises:
        UserError: for a damaged checkpoint, or one of other settings than args.
    """
    if not has_checkpoint(folder):
        return []
    checkpoint = load_checkpoint(folder)
    check_settings_kept(folder, args, checkpoint)
    try:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        generator.set_state(checkpoint["generator"])
    except LOAD_ERRORS as error:
        raise _unreadable(folder / "checkpoint.pt", error) from error
    return checkpoint["history"]


# --- Weights ----------------------------------------------------------------------------------


def pack_weights(model_type: str, deskew: bool, weights: dict[str, torch.Tensor]) -> bytes:
    """Return the content of a file that holds what it takes to use a network, not to resume it."""
    content = io.BytesIO()
    settings = {"model_type": model_type, "deskew": deskew}
    torch.save({"model": weights, "settings": settings}, content)
    return content.getvalue()


def find_weights(source: str) -> Path:
    """Return the file of a source of weights: a file, a run's folder, or a run's name.

    Raises:
        UserError: if there is none.
    """
    places = [Path(source), Path(source) / "checkpoint.pt", RUNS / source / "checkpoint.pt"]
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"{source}: neither a file of weights nor a run in {RUNS}")


def load_weights(source: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the settings (model_type and deskew at least) and the state dict of a source.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = find_weights(source)
    content = _load(path)
    settings, weights = content["settings"], content["model"]
    try:
        if not isinstance(settings["model_type"], str) or not isinstance(settings["deskew"], bool):
            raise ValueError("settings of another kind")
        if not all(torch.isfinite(value).all() for value in weights.values()):
            raise ValueError("weights that are not finite")
    except LOAD_ERRORS as error:
        raise _unreadable(path, error) from error
    return settings, weights


def initialize(model: nn.Module, args: Any) -> nn.Module:
    """Give a new model the weights that args.init asks for, random ones being there already.

    Raises:
        UserError: if these weights are of another network, or were trained on images that were
            prepared in another way.
    """
    if args.init == "random":
        return model
    settings, weights = load_weights(args.init)
    for name in ("model_type", "deskew"):
        if settings[name] != getattr(args, name):
            raise UserError(
                f"--init {args.init}: was trained with {name} {settings[name]}, not "
                f"{getattr(args, name)}; pass the same"
            )
    put_weights(model, weights, args.init)
    return model


def put_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Put a state dict into a model; UserError if names or shapes differ from the model's."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{source}: its weights do not fit {type(model).__name__} as it is in model.py now; "
            "choose others, or train it again"
        ) from error


# --- Resuming ---------------------------------------------------------------------------------


def resume_run(
    args_class: type, given: dict[str, Any], name: str | None
) -> tuple[Any, Path, FileLock]:
    """Find a run, lock it, and return its settings, its folder and the lock.

    Args:
        args_class: the dataclass of the settings.
        given: settings asked for; but for a number of epochs they must be the run's own.
        name: of the run; None takes the newest.
    """
    folder = RUNS / name if name else newest_run(given.get("model_type"))
    load_checkpoint(folder)  # before a lock could make a folder of a mistyped name
    lock = acquire_lock(folder)
    if lock is None:
        raise UserError(f"{folder}: another process is training this run; wait until it ends")
    checkpoint = load_checkpoint(folder)
    try:
        args = args_class(**checkpoint["settings"])
    except TypeError as error:
        raise _unreadable(folder / "checkpoint.pt", error) from error
    return _merge(args, checkpoint["epoch"], given, folder), folder, lock


def _merge(args: Any, epochs_done: int, given: dict[str, Any], folder: Path) -> Any:
    """Return a run's settings with the epochs asked for; UserError if other settings differ."""
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
    if epochs < epochs_done:
        raise UserError(f"{folder}: has {epochs_done} epochs already, more than --epochs {epochs}")
    return dataclasses.replace(args, epochs=epochs)
