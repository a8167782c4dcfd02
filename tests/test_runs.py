"""comparison/runs.py: runs side by side in processes that can be killed."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

import compare
from comparison import runs
from comparison.runs import cores, train_all
from main import Args


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


def die(args, folder, verbose):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_killed_worker_ends_its_runs_and_nothing_else(tmp_path, capfd):
    jobs = {tmp_path / f"run{seed}": Args(seed=seed, device="cpu") for seed in range(3)}
    assert set(train_all(die, jobs, 1)) == set(jobs)
    out, err = capfd.readouterr()
    assert "0 of 3 runs are finished" in out and err.count("terminated abruptly") == 3
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_killed_comparison_leaves_no_worker_and_trains_only_what_is_missing(
    small, cli, no_processes, no_pictures
):
    flags = ("--models", "CustomMLP", "--seeds", "2", "--epochs", "2", "--at_once", "1")
    words = [sys.executable, str(ROOT / "compare.py"), *flags]
    # The pipe ends with the last process that holds it: the worker.
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    while "Test Accuracy" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.stdout.read()
    process.wait()
    process.stdout.close()
    code, out, err = cli(compare, *flags)
    assert code == 0, err
    assert "0 of 2 runs are finished" not in out and "| 2 (seeds 0 to 1) |" in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_ends_all_processes_with_one_line(small):
    flags = ("--models", "CustomMLP", "--seeds", "200", "--epochs", "1", "--at_once", "1")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = [sys.executable, str(ROOT / "compare.py"), *flags]
    process = subprocess.Popen(words, **pipes, text=True, start_new_session=True)
    while "Test Accuracy" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.strip().splitlines()[-1] == "interrupted"
