"""Many runs side by side, each in a folder that says which run it is."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.checkpoint import (
    has_checkpoint,
    load_checkpoint,
)
from utils.files import UserError, acquire_lock, atomic_write
from utils.metrics import format_row

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds and their period, or max

Run = Callable[[Any, Path, bool], list[dict[str, float]]]


# --- Training side by side --------------------------------------------------------------------


def cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and its container's quota."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    count = len(affinity) or os.cpu_count() or 1
    limit, _, period = QUOTA.read_text().partition(" ") if QUOTA.exists() else ("max", "", "")
    return count if limit == "max" else max(1, min(count, int(limit) // int(period)))


def is_finished(args: Any, folder: Path) -> bool:
    """Return whether a run has all its epochs behind it; False too if its checkpoint is damaged."""
    try:
        return has_checkpoint(folder) and load_checkpoint(folder)["epoch"] >= args.epochs
    except UserError:
        return False


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
