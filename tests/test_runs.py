"""comparison/runs.py: runs side by side in processes that can be killed."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import posix_only, run_module, wait_for

import main
from comparison import runs
from comparison.runs import cores, finish_run, train_all
from main import Args
from utils.checkpoint import RUNS, load_checkpoint


def test_cores_honour_affinity_and_quota(tmp_path, monkeypatch):
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(runs, "QUOTA", quota)
    assert cores() == 64
    for text, expected in (("max 100000", 64), ("200000 100000", 2), ("50000 100000", 1)):
        quota.write_text(text)
        assert cores() == expected


def test_two_comparisons_at_once_train_a_run_once(small):
    args = Args("CustomMLP", epochs=1)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(finish_run, main.run, args, Path("runs/one")) for _ in range(2)]
    assert both[0].result() == both[1].result()  # to the seconds


def stop_early(args, folder, verbose):
    return main.run(replace(args, epochs=args.seed + 1), folder, verbose)


def test_a_run_that_stops_early_is_not_trained_again(small, no_processes, capfd):
    jobs = {Path(f"runs/run{seed}"): Args("CustomMLP", seed=seed, epochs=3) for seed in range(2)}
    for finished in (0, 2):
        assert not train_all(stop_early, jobs, 1)
        assert f"{finished} of 2 runs are finished" in capfd.readouterr().out
    assert [load_checkpoint(folder)["epoch"] for folder in jobs] == [1, 2]


@pytest.mark.parametrize("device, at_once", [("cpu", 2), ("cuda", 1)])
def test_runs_go_side_by_side_on_a_cpu_and_one_after_the_other_on_a_gpu(
    tmp_path, monkeypatch, device, at_once
):
    counts = []
    pool = ThreadPoolExecutor(1)
    monkeypatch.setattr(runs, "processes", lambda count: counts.append(count) or pool)
    monkeypatch.setattr(runs, "select_device", lambda _: torch.device(device))
    jobs = {tmp_path / f"run{seed}": Args(seed=seed, epochs=1) for seed in range(3)}
    assert not train_all(lambda *_: [{"epoch": 1}], jobs, 2)
    assert counts == [at_once]


def die(args, folder, verbose):
    os.kill(os.getpid(), signal.SIGKILL)


@posix_only
def test_a_killed_worker_ends_its_runs_and_nothing_else(tmp_path, capfd):
    jobs = {tmp_path / f"run{seed}": Args(seed=seed, device="cpu") for seed in range(3)}
    assert set(train_all(die, jobs, 1)) == set(jobs)
    out, err = capfd.readouterr()
    assert "0 of 3 runs are finished" in out and err.count("terminated abruptly") == 3
    assert "Traceback" not in err


def compare_in_background(writer):
    """Run compare.py in this process and a worker, who hold a pipe until they end."""
    os.setsid()  # as a terminal has it, whose Ctrl-C reaches both
    os.dup2(writer.fileno(), 1)
    sys.stdout = os.fdopen(1, "w")
    run_module("compare", "--models", "CustomMLP", "--seeds", "1", "--epochs", "300")


@posix_only
@pytest.mark.parametrize("name, exitcode", [("SIGKILL", -9), ("SIGINT", 130)])
def test_a_killed_or_interrupted_comparison_leaves_no_worker(small, forkserver, name, exitcode):
    reader, writer = forkserver.Pipe(duplex=False)
    process = forkserver.Process(target=compare_in_background, args=(writer,))
    process.start()
    writer.close()
    wait_for(lambda: [*RUNS.rglob("checkpoint.pt")])
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    with open(reader.fileno(), closefd=False) as output:
        output.read()
    (path,) = RUNS.rglob("checkpoint.pt")
    assert load_checkpoint(path.parent)["epoch"] < 300  # the worker has not trained on
    process.join()
    err = Path("stderr.txt").read_text()
    assert process.exitcode == exitcode and "Traceback" not in err, err
    assert name == "SIGKILL" or err.splitlines()[-1] == "interrupted"
