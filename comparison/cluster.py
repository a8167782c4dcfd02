"""Many runs on the workers of a Dask cluster: https://distributed.dask.org.

A worker is any process that `dask worker` started in a checkout. Before it trains, it finds out
for itself what decides the identity of a run; one that differs from the client is refused.
"""

import asyncio
import logging
import pickle
import queue
import sys
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import torch
from distributed import Client, KilledWorker
from tqdm import tqdm

from comparison.identity import group_folder, run_folder
from comparison.runs import Outcome, Run, finish_run
from dataset import digest, load_splits
from utils.checkpoint import RUNS, History
from utils.device import select_device
from utils.files import UserError, acquire_lock, atomic_write

CONNECT = 10.0  # seconds for the scheduler to answer
RUNS_ID = RUNS / "compare/.id"
WAIT = 30.0  # seconds for a worker to come
POLL = 1.0  # seconds between two looks at who works


# What a worker sends back: its address, why it is refused ("" if not), what it has trained.
Answer = tuple[str, str, History]


# --- On a worker ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What the client and its workers must agree on.

    Attributes:
        command: which of the commands this is.
        runs_id: of the client's runs/, see read_runs_id().
        run: trains a run.
        examples: settings of a run of each network.
        facts: of the client, see find_facts().
    """

    command: str
    runs_id: str
    run: Run
    examples: list[Any]
    facts: dict[str, str]


def find_facts(run: Run, examples: list[Any]) -> dict[str, str]:
    """Return what decides the identity of these runs in this process: name -> value.

    Raises:
        UserError: if the images can't be read, or there is no such device.
    """
    args = examples[0]
    facts = {"PyTorch": torch.__version__, "kind of device": select_device(args.device).type}
    digests = [digest(split) for split in load_splits(args.data_dir, args.val_size)]
    facts["images"] = " and ".join(content[:8] for content in digests)
    for args in examples:
        folder = run_folder(args, group_folder(args, digests, [run]))
        facts[f"code or initial weights of {args.model_type}"] = (
            f"{folder.parent.name}/{folder.name}"
        )
    return facts


_accepted: set[str] = set()  # the commands that this process agrees with


def read_runs_id() -> str:
    """Return what identifies this runs/ among those of all machines; "" if it is a new one."""
    return RUNS_ID.read_text() if RUNS_ID.exists() else ""


def find_refusal(plan: Plan) -> str:
    """Return why this worker can't train what is planned; "" if it can."""
    if plan.command in _accepted:
        return ""
    if read_runs_id() != plan.runs_id:
        return f"{RUNS.resolve()} is not the client's; all machines must see the same"
    try:
        facts = find_facts(plan.run, plan.examples)
    except UserError as error:
        return str(error)
    for name, expected in plan.facts.items():
        if facts[name] != expected:
            return f"other {name}: {facts[name]}, not {expected}"
    _accepted.add(plan.command)
    return ""


def answer(plan: Plan, args: Any = None, folder: Path | None = None) -> tuple[str, History]:
    """Train a run, if one is given and this worker is not refused.

    Returns:
        Why the worker is refused ("" if it is not), and the run's history.
    """
    refusal = find_refusal(plan)
    if refusal or folder is None:
        return refusal, []
    return "", finish_run(plan.run, args, folder)


def _sent_by_value() -> Callable[..., Answer]:
    """Return what workers are sent: it calls answer() with pickled arguments.

    `dask worker` does not put its folder on the path, so nothing that is pickled by reference to
    a module could be loaded there. A nested function is pickled by value, and puts it there first.
    """

    def call(pickled: bytes, dask_worker: Any = None) -> Answer:
        """Return this worker's address, why it is refused ("" if not), and the run's history."""
        import os
        import pickle
        import socket
        import sys

        from distributed import get_worker

        worker = dask_worker or get_worker()  # given where it is asked beside its tasks
        where, threads = f"{socket.gethostname()}, {os.getcwd()}", worker.state.nthreads
        if threads > 1:  # whose runs would share one stream of random numbers
            return worker.address, f"{where}: {threads} threads; start it with --nthreads 1", []
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            from comparison.cluster import answer

            arguments = pickle.loads(pickled)
        except (ImportError, AttributeError) as error:
            return worker.address, f"{where}: not a checkout like the client's ({error})", []
        refusal, history = answer(*arguments)
        return worker.address, refusal and f"{where}: {refusal}", history

    return call


# --- On the client ----------------------------------------------------------------------------


class Cluster:
    """The workers of a scheduler that may train what is planned; see connect()."""

    def __init__(self, client: Client, address: str, plan: Plan) -> None:
        self.client, self.address, self.plan = client, address, plan
        self.call = _sent_by_value()
        self.executor = client.get_executor()
        self.last_seen = time.monotonic()  # of any worker

    def count_workers(self) -> int:
        """Return how many workers there are.

        Raises:
            UserError: if there have been none for so long, or the scheduler is lost.
        """
        try:
            count = len(self.client.nthreads())
        except (OSError, AttributeError, RuntimeError, CancelledError) as error:
            raise lost(self.address) from error
        now = time.monotonic()
        if count:
            self.last_seen = now
        elif now - self.last_seen > WAIT:
            raise UserError(
                f"--cluster {self.address}: no worker for {WAIT:.0f} s; start some, in a checkout: "
                f"dask worker {self.address} --nworkers -1 --nthreads 1"
            )
        return count

    def check_workers(self) -> None:
        """Refuse the workers that differ from this process, once there are any.

        Raises:
            UserError: for the first of them.
        """
        while not self.count_workers():
            time.sleep(POLL / 10)
        refusals = self.ask_workers()
        if refusals:  # they may be older than a change of the code
            self._restart(list(refusals))
            refusals = self.ask_workers()
        for refusal in refusals.values():
            raise UserError(
                f"--cluster {self.address}: {len(refusals)} of {self.count_workers()} workers "
                f"refused: {refusal}"
            )

    def ask_workers(self) -> dict[str, str]:
        """Return the workers that are refused, address -> why."""
        answers = self.client.run(self.call, pickle.dumps((self.plan,)), on_error="return")
        refusals = {}
        for answer in answers.values():
            if isinstance(answer, OSError):  # it died meanwhile
                continue
            if isinstance(answer, Exception):
                raise answer
            address, refusal, _ = answer
            if refusal:
                refusals[address] = refusal
        return refusals

    def _restart(self, addresses: list[str]) -> None:
        """Restart workers, which reads the code again; what they train goes on elsewhere."""
        with suppress(ValueError, TimeoutError):  # those without a nanny stay as they are
            self.client.restart_workers(addresses, timeout=WAIT)

    def train(self, jobs: Mapping[Path, Any], bar: tqdm) -> Iterator[Outcome]:
        """Train runs; yield each as it ends. Workers are counted on the bar, and refused on stderr.

        Raises:
            UserError: if the scheduler is lost, or all workers are.
        """
        done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        running: dict[Future, Path] = {}
        refusals = Counter[Path]()

        def submit(folder: Path) -> None:
            arguments = pickle.dumps((self.plan, jobs[folder], folder))
            # Two users who need a run share its key, and so the task: neither keeps a worker
            # waiting for the other's lock.
            key = f"{folder}-{self.plan.runs_id}-{refusals[folder]}"
            future = self.executor.submit(self.call, arguments, key=key)
            running[future] = folder
            future.add_done_callback(done.put)

        for folder in jobs:
            submit(folder)
        next_look = 0.0
        while running:
            if time.monotonic() >= next_look:
                bar.set_postfix_str(f"{self.count_workers()} workers")
                next_look = time.monotonic() + POLL
            try:
                future = done.get(timeout=POLL)
            except queue.Empty:
                continue
            folder = running.pop(future)
            try:
                address, refusal, history = future.result()
            except CancelledError as error:  # as all are once the scheduler is gone
                raise lost(self.address) from error
            except UserError as error:
                yield folder, error
            except KilledWorker as error:
                yield folder, UserError(f"the workers that trained it died: {error}")
            else:
                if refusal:
                    bar.write(f"worker refused: {refusal}", file=sys.stderr)
                    self.client.retire_workers([address])
                    refusals[folder] += 1
                    submit(folder)
                else:
                    yield folder, history


def lost(address: str) -> UserError:
    """Return the error that the scheduler is lost."""
    return UserError(
        f"--cluster {address}: the scheduler is lost; start it and this command again, which "
        "trains only what is missing"
    )


def open_client(address: str) -> Client:
    """Return a client of a scheduler.

    Raises:
        UserError: if none answers there.
    """

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


def make_runs_id() -> str:
    """Return what identifies runs/, written if need be."""
    _lock = acquire_lock(RUNS_ID.parent, timeout=-1)  # held until the end of this function
    if not RUNS_ID.exists():
        atomic_write(RUNS_ID, uuid.uuid4().hex.encode())
    return read_runs_id()


@contextmanager
def connect(address: str, run: Run, jobs: Mapping[Path, Any]) -> Iterator[Cluster]:
    """Yield a cluster whose workers may train these runs.

    Args:
        address: of the scheduler, such as tcp://HOST:8786.
        run: trains one.
        jobs: folder -> settings of each run.

    Raises:
        UserError: if there is no scheduler or no worker, a worker is refused, or the scheduler is
            lost.
    """
    for name in ("distributed", "tornado", "asyncio"):  # what they log has lines of ours
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    examples = list({args.model_type: args for args in jobs.values()}.values())
    client = open_client(address)
    try:
        command, runs_id = uuid.uuid4().hex, make_runs_id()
        plan = Plan(command, runs_id, run, examples, find_facts(run, examples))
        cluster = Cluster(client, address, plan)
        cluster.check_workers()
        yield cluster
    except distributed.comm.CommClosedError as error:
        raise lost(address) from error
    finally:
        client.close()
