"""Many runs side by side, each in a folder that says which run it is."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from utils.checkpoint import (
    RUNS,
    check_settings_kept,
    find_weights,
    has_checkpoint,
    load_checkpoint,
)
from utils.files import UserError, acquire_lock, atomic_write
from utils.metrics import format_row
from utils.settings import select_device

ROOT = Path(__file__).parent.parent
# The code that decides what a training computes.
CODE = ("model.py", "main.py", "dataset.py", "utils/augment.py")
# What of main.py is no code: the settings that a run has are in its identity by themselves.
SETTINGS = ("Args", "ONECYCLE", "AUGMENTED", "BEST", "RECIPES")
# Settings that name a run within its group, or that stand in its identity in another form.
OTHERWISE = ("model_type", "seed", "data_dir", "device", "threads", "epochs")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds and their period, or max

Run = Callable[[Any, Path, bool], list[dict[str, float]]]


# --- Identity ---------------------------------------------------------------------------------


@functools.cache
def code_digest() -> str:
    """Return a digest of the code that trains, in which comments and layout don't count."""
    content = hashlib.sha256()
    for name in CODE:
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        tree.body = [part for part in tree.body if _name(part) not in SETTINGS]
        content.update(ast.unparse(tree).encode())
    return content.hexdigest()


def _source(functions: Sequence[Callable]) -> str:
    """Return the source of functions, in which comments and layout don't count."""
    return "".join(ast.unparse(ast.parse(inspect.getsource(one))) for one in functions)


def _name(part: ast.stmt) -> str:
    target = part.target if isinstance(part, ast.AnnAssign) else part
    return getattr(target, "name", getattr(target, "id", ""))


def group_folder(args: Any, data: Sequence[str], code: Sequence[Callable] = ()) -> Path:
    """Return the folder of the runs that differ from this one in network and seed alone.

    Two runs share it only if they have the same settings, code that trains, images and labels,
    kind of device, number of threads and PyTorch.

    Args:
        args: the settings; those at their default don't count, so that a new one changes nothing.
        data: digests of the images and labels to train on and to evaluate on.
        code: the functions that train, where these are not main.run() alone.
    """
    settings = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name not in OTHERWISE and getattr(args, field.name) != field.default
    }
    if "init" in settings:  # what the file holds, not where it lies
        settings["init"] = hashlib.sha256(find_weights(args.init).read_bytes()).hexdigest()
    identity = {
        **{"settings": settings, "code": code_digest() + _source(code), "data": list(data)},
        **{"device": select_device(args.device).type, "threads": args.threads},
        **{"epochs": args.epochs, "torch": torch.__version__},
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return RUNS / "compare" / key


def run_folder(args: Any, group: Path) -> Path:
    """Return the folder of a run within its group."""
    return group / f"{args.model_type}-seed{args.seed}"


# --- Training side by side --------------------------------------------------------------------


def cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and its container's quota."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    count = len(affinity) or os.cpu_count() or 1
    limit, _, period = QUOTA.read_text().partition(" ") if QUOTA.exists() else ("max", "", "")
    return count if limit == "max" else max(1, min(count, int(limit) // int(period)))


def is_finished(args: Any, folder: Path) -> bool:
    """Return whether a run has all its epochs behind it; False too if its checkpoint is damaged.

    Raises:
        UserError: if it was trained with other settings, as when a default has changed since.
    """
    try:
        checkpoint = load_checkpoint(folder)
    except UserError:
        return False
    check_settings_kept(folder, args, checkpoint)
    return checkpoint["epoch"] >= args.epochs


def runs_at_once(folder: Path) -> int:
    """Return how many runs shared the machine with this one, at most, itself included."""
    return int((folder / "at_once.txt").read_text())


def _finish_run(run: Run, args: Any, folder: Path, at_once: int) -> list[dict[str, float]]:
    """Train a run to its end from where it stands; returns its history."""
    # Waits for another comparison's process; held until the end of this function.
    _lock = acquire_lock(folder, timeout=-1)
    tag = folder / "at_once.txt"
    if tag.exists() and has_checkpoint(folder):
        at_once = max(at_once, runs_at_once(folder))
    atomic_write(tag, str(at_once).encode())
    return run(args, folder, False)


def _start_worker() -> None:
    """Let a worker end with the process that started it, even if that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_all(run: Run, jobs: dict[Path, Any], at_once: int) -> list[Path]:
    """Train what is missing of many runs, so many side by side, each in a process.

    Args:
        run: main.run().
        jobs: each run's folder, and its settings.
        at_once: number of processes.

    Returns:
        The folders of the runs that failed; why is on stderr.
    """
    missing = {folder: args for folder, args in jobs.items() if not is_finished(args, folder)}
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are finished, {len(missing)} to train")
    failed: list[Path] = []
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(total=len(missing), unit=" runs", disable=None) as bar,
        ProcessPoolExecutor(at_once, context, _start_worker) as pool,
    ):
        # Ctrl-C reaches all processes; workers inherit that they ignore it, and are ended below.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        futures = {
            pool.submit(_finish_run, run, args, folder, at_once): folder
            for folder, args in missing.items()
        }
        signal.signal(signal.SIGINT, handler)
        try:
            for future in as_completed(futures):
                folder = futures[future]
                try:
                    bar.write(f"{folder}: {format_row(future.result()[-1])}")
                except (UserError, BrokenExecutor) as error:
                    failed.append(folder)
                    bar.write(f"{folder}: {error}", file=sys.stderr)
                bar.update()
        except BaseException:  # Ctrl-C: what the runs have done so far is in their checkpoints
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return failed
