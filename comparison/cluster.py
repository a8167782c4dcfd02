"""Many runs on the workers of a Dask cluster: https://distributed.dask.org.

A worker is any process that `dask worker` started in a checkout. Before it trains a run, it finds
out for itself what decides the run's identity; a worker that differs from the client is refused.
"""

import asyncio
import functools
import logging
import pickle
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import torch
from distributed import Client, KilledWorker
from distributed.exceptions import WorkerStartTimeoutError
from tqdm import tqdm

from comparison.identity import group_folder, run_folder
from comparison.runs import Run, Training
from dataset import digest, load_splits
from utils.checkpoint import RUNS
from utils.device import select_device
from utils.files import UserError, atomic_write

CONNECT = 10.0  # seconds for the scheduler to answer
WAIT = 30.0  # seconds for a worker to come
POLL = 1.0  # seconds between two looks at who works


# --- On a worker ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A run as a worker gets it."""

    run: Run
    args: Any
    folder: Path  # which says what decides the run's numbers
    token: Path  # a file in the client's runs/, by which a worker knows that it sees the same


@functools.cache
def image_digests(token: Path, data_dir: str, val_size: int) -> list[str]:
    """Return the digests of both splits, read once per token: once per command."""
    return [digest(split) for split in load_splits(data_dir, val_size)]


def find_refusal(job: Job) -> str:
    """Return why this worker can't train a run; "" if it can."""
    if not job.token.exists():
        return f"{RUNS.resolve()} is not the client's; all machines must see the same"
    try:
        data = image_digests(job.token, job.args.data_dir, job.args.val_size)
        folder = run_folder(job.args, group_folder(job.args, data, job.run))
    except UserError as error:
        return str(error)
    if folder == job.folder:
        return ""
    device = select_device(job.args.device).type
    return (
        f"PyTorch {torch.__version__} on {device}, images {data[0][:8]} and {data[1][:8]} and the "
        f"code there would make it {folder}; the client's is {job.folder}"
    )


def _sent_by_value() -> Callable:
    """Return what workers are sent.

    `dask worker` does not put its folder on the path, so nothing that is pickled by reference to
    a module could be loaded there. A nested function is pickled by value, and puts it there first.
    """

    def call(pickled: bytes, dask_worker: Any = None) -> Any:
        """Return why a worker is refused, if asked beside its tasks; else train the run."""
        import os
        import pickle
        import socket
        import sys

        from distributed import Reschedule, get_worker

        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        worker = dask_worker or get_worker()
        try:
            from comparison.cluster import find_refusal
            from comparison.runs import finish_run

            job = pickle.loads(pickled)
            refusal = find_refusal(job)
        except (ImportError, AttributeError) as error:
            refusal = f"not a checkout like the client's ({error})"
        if worker.state.nthreads > 1:  # runs would share one stream of random numbers
            refusal = f"{worker.state.nthreads} threads; start it with --nthreads 1"
        if refusal:
            refusal = f"{socket.gethostname()}, {os.getcwd()}: {refusal}"
        if dask_worker:
            return refusal
        if refusal:  # it came later than the client's question
            print(f"refused: {refusal}", file=sys.stderr, flush=True)
            worker.loop.add_callback(worker.close_gracefully)
            raise Reschedule
        return finish_run(job.run, job.args, job.folder)

    return call


# --- On the client ----------------------------------------------------------------------------


def train(address: str, run: Run, jobs: Mapping[Path, Any], bar: tqdm) -> Training:
    """Train runs, folder -> settings, on the workers of a scheduler; the bar counts them.

    Raises:
        UserError: if there is no scheduler or no worker, a worker is refused before anything
            trains, or scheduler or workers are lost.
    """
    for name in ("distributed", "tornado", "asyncio"):  # what they log has lines of ours
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    token = RUNS / f"compare/.client-{uuid.uuid4().hex}"
    client = _open_client(address)
    try:
        atomic_write(token, b"")
        planned = [Job(run, args, folder, token) for folder, args in jobs.items()]
        bar.set_postfix_str(f"{_count_workers(client, address)} workers")
        for example in {job.args.model_type: job for job in planned}.values():
            _check_workers(client, address, pickle.dumps(example))
        yield from _train(client, address, planned, bar)
    except distributed.comm.CommClosedError as error:
        raise _lost(address) from error
    finally:
        client.close()
        token.unlink(missing_ok=True)


def _open_client(address: str) -> Client:
    async def probe() -> None:  # a Client that fails would take another minute to end
        comm = await distributed.comm.connect(address, timeout=CONNECT)
        await comm.close()

    try:
        asyncio.run(probe())
        with warnings.catch_warnings(action="ignore"):  # about other versions of Dask
            return Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--cluster {address}: no scheduler answers there; start one with: dask scheduler"
        ) from error


def _count_workers(client: Client, address: str) -> int:
    """Return how many workers there are; waits for the first."""
    try:
        client.wait_for_workers(1, timeout=WAIT)
        return len(client.nthreads())
    except WorkerStartTimeoutError as error:
        raise UserError(
            f"--cluster {address}: no worker for {WAIT:.0f} s; start some, in a checkout: "
            f"dask worker {address} --nworkers -1 --nthreads 1"
        ) from error
    except (OSError, AttributeError, RuntimeError, CancelledError) as error:
        raise _lost(address) from error


def _check_workers(client: Client, address: str, pickled: bytes) -> None:
    """Raise UserError if a worker can't train a job."""
    for attempt in range(2):
        answers = client.run(_sent_by_value(), pickled, on_error="return")
        refusals = {
            worker: answer
            for worker, answer in answers.items()
            if answer and not isinstance(answer, OSError)  # it died meanwhile
        }
        if not refusals:
            return
        if attempt == 0:  # they may have read the code before it was changed
            with suppress(ValueError, TimeoutError):  # those without a nanny stay as they are
                client.restart_workers(list(refusals), timeout=WAIT)
    raise UserError(
        f"--cluster {address}: {len(refusals)} of {len(answers)} workers refused: "
        f"{next(iter(refusals.values()))}"
    )


def _train(client: Client, address: str, jobs: Sequence[Job], bar: tqdm) -> Training:
    executor, call = client.get_executor(), _sent_by_value()
    folders = {executor.submit(call, pickle.dumps(job)): job.folder for job in jobs}
    pending = set(folders)
    while pending:
        bar.set_postfix_str(f"{_count_workers(client, address)} workers")
        done, pending = wait(pending, POLL, FIRST_COMPLETED)
        for future in done:
            try:
                yield folders[future], future.result()
            except CancelledError as error:  # as all are once the scheduler is gone
                raise _lost(address) from error
            except (UserError, KilledWorker) as error:
                yield folders[future], error


def _lost(address: str) -> UserError:
    return UserError(
        f"--cluster {address}: the scheduler is lost; start it and this command again, which "
        "trains only what is missing"
    )
