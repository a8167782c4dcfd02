"""comparison/cluster.py: runs on the workers of a real Dask cluster on the loopback address.

The scheduler and the workers are started with the README's lines. Runs train one epoch, then wait
at a gate, the file runs/gate, so that tests know where they are.
"""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, commands, posix_only, same_run, wait_for, write_archives
from distributed import Client
from tqdm import tqdm

import compare
import main
from comparison import cluster, runs
from comparison.identity import group_folder, run_folder
from experiments import ablation, data_size, robustness
from main import Args

pytestmark = posix_only
SCHEDULER, WORKER, COMMAND = [
    line for line in commands((ROOT / "README.md").read_text()) if "dask" in line or "HOST" in line
]
FLAGS = ("--models", "CustomMLP", "--epochs", "3", "--cluster")
GATED = """
import time
from dataclasses import replace
from pathlib import Path
import main

def run(args, folder, verbose=True):
    if not (folder / "checkpoint.pt").exists():
        main.run(replace(args, epochs=1), folder, verbose)
        with open("runs/trained", "a") as file:
            file.write(f"{folder}\\n")
    while not Path("runs/gate").exists():
        time.sleep(0.02)
    return main.run(args, folder, verbose)
"""


def checkout(folder):
    """Make a folder with our code."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("comparison", "experiments", "reading", "utils") or path.suffix == ".py":
            (folder / path.name).symlink_to(path)
    return folder


class Machines:
    """The processes of a cluster; each command line is one of the README's."""

    def __init__(self, folder, data):
        self.folder, self.processes = folder, []
        self.home = checkout(folder / "home")
        (folder / "modules").mkdir()
        (folder / "modules/gated.py").write_text(GATED)
        (self.home / "data").symlink_to(data)
        (self.home / "runs").mkdir()
        file = folder / "scheduler.json"
        flags = ("--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
        self.start(SCHEDULER, self.home, *flags)
        wait_for(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        self.client = Client(self.address, set_as_default=False)

    def start(self, line, home, *flags):
        name, *words = line.split()  # of the environment, whether that is active or not
        words = [Path(sys.executable).with_name(name), *words, "--no-dashboard", *map(str, flags)]
        environment = os.environ | {
            "PYTHONPATH": str(self.folder / "modules"),
            # Starts and restarts workers without importing Dask for each.
            "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
        }
        with open(home / "log", "w") as log:
            process = subprocess.Popen(
                words, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def start_worker(self, home, *flags):
        line = WORKER.replace("tcp://HOST:8786", self.address)
        flags += ("--local-directory", self.folder / "scratch", "--nworkers", 1)
        return self.start(line, home, *flags)

    def wait_for_workers(self, count):
        wait_for(lambda: len(self.client.nthreads()) == count)

    def count_tasks(self):
        return self.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


@pytest.fixture(scope="module")
def machines(tmp_path_factory, small_data):
    """A scheduler without workers."""
    machines = Machines(tmp_path_factory.mktemp("cluster"), small_data)
    yield machines
    machines.client.close()
    for process in machines.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def home(machines, monkeypatch, empty_plots):
    """The client's folder, where runs wait at the gate."""
    monkeypatch.chdir(machines.home)
    monkeypatch.syspath_prepend(machines.folder / "modules")
    import gated

    monkeypatch.setattr(compare, "run", gated.run)
    for name in ("runs/gate", "runs/trained"):
        Path(name).unlink(missing_ok=True)
    yield machines.home
    Path("runs/gate").touch()


def at_gate():
    """Return the runs that wait at the gate, or have passed it."""
    path = Path("runs/trained")
    return path.read_text().splitlines() if path.exists() else []


@contextmanager
def meanwhile(action):
    """Run an action in a thread beside the block; if it fails, the gate opens."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(action)
        future.add_done_callback(lambda _: future.exception() and Path("runs/gate").touch())
        yield
        future.result()


def test_neither_scheduler_nor_worker_nor_a_checkout(machines, home, cli, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT", 0.5)
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    for address in ("tcp://127.0.0.1:1", "nowhere"):
        code, _, err = cli(compare, *FLAGS, address)
        assert (code, err.count("\n")) == (2, 1) and f"{address}: no scheduler" in err
    code, _, err = cli(compare, *FLAGS, machines.address)
    assert (code, err.count("\n")) == (2, 1) and "no worker for" in err and "dask worker" in err
    worker = machines.start_worker(machines.folder / "modules", "--no-nanny")
    machines.wait_for_workers(1)
    code, _, err = cli(compare, *FLAGS, machines.address)
    assert (code, err.count("\n")) == (2, 1) and "1 of 1 workers refused" in err
    assert "modules: not a checkout" in err
    assert not at_gate() and not list(Path("runs").rglob("*.pt"))
    worker.kill()
    machines.wait_for_workers(0)


def test_code_is_corrected_a_machine_dies_and_results_are_the_local_ones(
    machines, home, cli, monkeypatch
):
    ours = (ROOT / "model.py").read_text()
    changed = checkout(machines.folder / "changed")
    (changed / "model.py").unlink()
    (changed / "model.py").write_text(ours.replace("relu", "tanh"))
    (changed / "runs").symlink_to(home / "runs")
    (changed / "data").symlink_to(home / "data")
    dies, _ = machines.start_worker(home), machines.start_worker(changed)
    machines.wait_for_workers(2)
    restart, bars = Client.restart_workers, io.StringIO()

    def correct_and_restart(client, refused, **options):
        assert len(refused) == 1
        (changed / "model.py").write_text(ours)
        return restart(client, refused, **options)

    def change_workers():
        wait_for(lambda: len(at_gate()) == 2)
        late = machines.start_worker(machines.folder / "modules", "--no-nanny")
        os.killpg(dies.pid, signal.SIGKILL)
        wait_for(lambda: late.poll() is not None)
        assert "modules: not a checkout" in (machines.folder / "modules/log").read_text()
        Path("runs/gate").touch()

    monkeypatch.setattr(Client, "restart_workers", correct_and_restart)
    monkeypatch.setattr(runs, "tqdm", lambda total, **_: tqdm(total=total, file=bars))
    words = COMMAND.replace("tcp://HOST:8786", machines.address).split()[2:]
    with meanwhile(change_workers):
        code, out, err = cli(compare, *words, *FLAGS[:-1], "--seeds", "6")
    assert code == 0, err
    assert (changed / "model.py").read_text() == ours
    assert "| 6 (seeds 0 to 5) |" in out
    shown = bars.getvalue()
    assert "6/6" in shown and "2 workers" in shown
    folders = sorted(Path("runs/compare").glob("*/CustomMLP-*-seed?"))
    assert len(folders) == 6 and sorted(set(at_gate())) == sorted(map(str, folders))
    for seed, folder in enumerate(folders):
        main.run(Args("CustomMLP", epochs=3, seed=seed), f"runs/local{seed}", False)
        same_run(folder.relative_to("runs"), f"local{seed}")


def test_other_images_runs_or_threads_are_refused(small, monkeypatch, real, tmp_path):
    def refusal(threads=1):
        worker = SimpleNamespace(state=SimpleNamespace(nthreads=threads))
        return cluster._sent_by_value()(pickle.dumps(job), dask_worker=worker)

    args, token = Args("CustomMLP", device="cpu"), Path("runs/token")
    data = cluster.image_digests(token, "data", 0)
    folder = run_folder(args, group_folder(args, data))
    job = cluster.Job(main.run, args, folder, token)
    assert "all machines must see the same" in refusal()
    token.parent.mkdir()
    token.touch()
    assert refusal() == "" and "--nthreads 1" in refusal(threads=2)
    Path("data").unlink()
    write_archives(Path("data"), real, 200, 100)
    cluster.image_digests.cache_clear()
    assert "images" in refusal()


def test_ctrl_c_and_a_lost_scheduler_lose_nothing(machines, home, cli, no_processes):
    if not machines.client.nthreads():
        machines.start_worker(home)
    flags = (*FLAGS, machines.address, "--first_seed", "40", "--seeds", "3")

    def end(pid):
        wait_for(lambda: machines.count_tasks() == 3 and at_gate())
        os.kill(pid, signal.SIGINT if pid == os.getpid() else signal.SIGKILL)

    with meanwhile(lambda: end(os.getpid())):
        code, _, err = cli(compare, *flags)
    assert (code, err) == (130, "interrupted\n")
    with meanwhile(lambda: end(machines.processes[0].pid)):
        code, _, err = cli(compare, *flags)
    assert (code, err.count("\n")) == (2, 1) and "the scheduler is lost" in err
    Path("runs/gate").touch()
    flags = (*FLAGS[:-1], "--first_seed", "40", "--seeds", "3")
    code, out, err = cli(compare, *flags)
    assert code == 0 and "| 3 (seeds 40 to 42) |" in out, err
    assert sorted(set(at_gate())) == sorted(at_gate())  # none has been started again


@pytest.mark.parametrize("module", [ablation, data_size, robustness])
def test_every_study_trains_on_the_cluster(small, cli, monkeypatch, module):
    monkeypatch.setattr(cluster, "CONNECT", 0.1)
    flags = ("--models", "CustomMLP", "--seeds", 1, "--cluster", "tcp://127.0.0.1:1")
    flags += ("--sizes", 100) if module is data_size else ()
    flags += ("--val_size", 100) if module is ablation else ()
    code, _, err = cli(module, *flags)
    assert code == 2 and "tcp://127.0.0.1:1: no scheduler" in err
