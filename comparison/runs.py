"""Many runs side by side, and the flags of the commands that need them."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from main import Args
from model import MODELS
from utils.checkpoint import History, has_checkpoint, load_checkpoint
from utils.device import select_device
from utils.files import UserError, acquire_lock, atomic_write
from utils.metrics import format_row
from utils.settings import Parser, positive

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds and their period, or max

STOPPED = "stopped"  # a file of runs that ended before their last epoch, by a rule of your own
Run = Callable[[Any, Path, bool], History]  # main.run(), or what is called like it
# Yields each run as it ends: its folder; its history, or why it failed.
Training = Generator[tuple[Path, History | Exception], None, None]


class ManyRunsParser(Parser):
    """The parser of every command that needs many runs, with the flags that they share."""

    def __init__(
        self, description: str | None, seeds: int, models: list[str] | None = None
    ) -> None:
        """Take the default seeds and networks; None if the command chooses the networks."""
        super().__init__(description=description)
        default = " ".join(models) if models else "the recipe's, or all"
        self.add_argument(
            "--models", nargs="+", default=models,
            help=f"networks of {', '.join(MODELS)} (default: {default})",
        )  # fmt: skip
        self.add_argument(
            "--seeds", type=positive, default=seeds, help=f"runs of each (default: {seeds})"
        )
        self.add_argument("--data_dir", default=Args.data_dir, help="of the images")
        self.add_argument(
            "--cluster", metavar="tcp://HOST:8786", default="",
            help="train on the workers of this Dask scheduler (default: on this machine)",
        )  # fmt: skip


# --- Training side by side --------------------------------------------------------------------


def cores() -> int:
    """Return how many CPU cores this process may use, by its affinity and its container's quota."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    count = len(affinity) or os.cpu_count() or 1
    limit, _, period = QUOTA.read_text().partition(" ") if QUOTA.exists() else ("max", "", "")
    return count if limit == "max" else max(1, min(count, int(limit) // int(period)))


def is_finished(args: Any, folder: Path) -> bool:
    """Return whether a run has ended; False too if its checkpoint is damaged."""
    try:
        epochs = load_checkpoint(folder)["epoch"] if has_checkpoint(folder) else 0
    except UserError:
        return False
    return epochs >= args.epochs or (epochs > 0 and (folder / STOPPED).exists())


def finish_run(run: Run, args: Any, folder: Path) -> History:
    """Train a run to its end from where it stands; returns its history."""
    # Waits for another comparison's process; held until the end of this function.
    _lock = acquire_lock(folder, timeout=-1)
    (folder / STOPPED).unlink(missing_ok=True)  # of a checkpoint that was damaged since
    history = run(args, folder, False)
    if len(history) < args.epochs:
        atomic_write(folder / STOPPED, b"")
    return history


def train_all(run: Run, jobs: Mapping[Path, Any], count: int, cluster: str = "") -> list[Path]:
    """Train what is missing of many runs, side by side, with a line per run as it ends.

    Args:
        run: trains one.
        jobs: folder -> settings of each run.
        count: number of processes on a CPU; on a GPU runs go one after the other.
        cluster: address of a Dask scheduler, whose workers train in place of processes here.

    Returns:
        The folders of the runs that failed; why is on stderr.

    Raises:
        UserError: if the cluster can't train them.
    """
    missing = {folder: args for folder, args in jobs.items() if not is_finished(args, folder)}
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are finished, {len(missing)} to train")
    failed: list[Path] = []
    if not missing:
        return failed
    with tqdm(total=len(missing), unit=" runs", disable=None) as bar:
        if cluster:
            from comparison.cluster import train  # here, as only this needs Dask

            training = train(cluster, run, missing, bar)
        else:
            training = _train_here(run, missing, count)
        with closing(training) as outcomes:
            for folder, outcome in outcomes:
                if isinstance(outcome, Exception):
                    failed.append(folder)
                    bar.write(f"{folder}: {outcome}", file=sys.stderr)
                else:
                    bar.write(f"{folder}: {format_row(outcome[-1])}")
                bar.update()
    return failed


def _train_here(run: Run, jobs: Mapping[Path, Any], count: int) -> Training:
    on_cpu = all(select_device(args.device).type == "cpu" for args in jobs.values())
    with processes(min(count, len(jobs)) if on_cpu else 1) as pool:
        futures = {
            pool.submit(finish_run, run, args, folder): folder for folder, args in jobs.items()
        }
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except (UserError, BrokenExecutor) as error:
                yield futures[future], error


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Yield an executor of so many processes on this machine, which end at once on Ctrl-C."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _start_worker) as pool:
        # Ctrl-C reaches all processes; workers inherit that they ignore it, and are ended below.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in range(count):
            pool.submit(int)  # starts one
        signal.signal(signal.SIGINT, handler)
        try:
            yield pool
        except BaseException:  # what the runs have done so far is in their checkpoints
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _start_worker() -> None:
    """Let a worker end with the process that started it, even if that is killed."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which an ended worker would leave
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
