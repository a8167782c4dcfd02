"""main.py: the same run every time, whatever interrupts it."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, load_run, same_run

import main

MODEL = "LeNet5_regularization"
FLAGS = ("--recipe", "best", "--model_type", MODEL, "--epochs", "6")  # all there is to restore


def start(*flags):
    """Start main.py in a process of its own, its lines readable as they come."""
    command_line = [sys.executable, str(ROOT / "main.py"), *flags]
    return subprocess.Popen(
        command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def kill_when(process, moment):
    """Kill a process with SIGKILL after an epoch, or once a file is there in its run's folder."""
    if moment.startswith("Epoch"):
        while not process.stdout.readline().startswith(moment):
            assert process.poll() is None, process.stderr.read()
    else:
        while process.poll() is None and not list(Path("runs", MODEL).glob(moment)):
            pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_and_resumed_run_ends_as_if_never_interrupted(workplace, cli):
    assert cli(main, *FLAGS, "--name", "whole")[0] == 0
    kill_when(start(*FLAGS), "checkpoint.pt")  # before the first epoch has ended
    for moment in ("Epoch: 2", ".checkpoint.pt.*.tmp"):
        kill_when(start("--resume", "--model_type", MODEL), moment)
    code, out, err = cli(main, "--resume", "--name", MODEL)
    assert (code, err) == (0, "") and "Epoch: 6" in out
    same_run("whole", MODEL)


@pytest.mark.parametrize("model_type", ["LeNet5", "CustomMLP"])
def test_same_settings_same_bits_and_another_seed_another_run(workplace, cli, script, model_type):
    flags = ("--model_type", model_type, "--epochs", 2, "--lr", 0.01)
    assert cli(main, *flags)[0] == 0
    assert script("main.py", *flags).returncode == 0
    same_run(model_type, f"{model_type}-2")
    assert cli(main, *flags, "--seed", 1)[0] == 0
    assert load_run(f"{model_type}-3")[0] != load_run(model_type)[0]


def test_more_epochs_extend_a_finished_run(workplace, cli):
    flags = ("--model_type", "CustomMLP", "--lr", 0.01)
    assert cli(main, *flags, "--epochs", 4, "--name", "whole")[0] == 0
    assert cli(main, *flags, "--epochs", 2, "--name", "parts")[0] == 0
    assert cli(main, "--resume", "--name", "parts", "--epochs", 4)[0] == 0
    same_run("whole", "parts")
    code, out, _ = cli(main, "--resume", "--name", "parts")
    assert code == 0 and "Epoch:" not in out  # finished: nothing left to train
    same_run("whole", "parts")


def test_resume_takes_the_newest_run_of_the_model(workplace, cli):
    for name, model_type in (("a", "CustomMLP"), ("b", "CustomMLP"), ("c", "LeNet5")):
        assert cli(main, "--model_type", model_type, "--name", name, "--epochs", 1)[0] == 0
    assert cli(main, "--resume", "--model_type", "CustomMLP", "--epochs", 2)[0] == 0
    assert {name: len(load_run(name)[0]) for name in "abc"} == {"a": 1, "b": 2, "c": 1}


def test_ctrl_c_ends_cleanly_and_says_how_to_resume(workplace):
    process = start(*FLAGS[:-1], "500", "--name", "long")
    while not process.stdout.readline().startswith("Epoch: 1,"):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert "python main.py --resume --name long" in err
    assert 1 <= load_run("long")[1]["epoch"] < 500


@pytest.fixture
def finished(workplace, cli):
    """The folder of a finished run of CustomMLP, named done."""
    flags = ("--model_type", "CustomMLP", "--epochs", 2, "--name", "done")
    assert cli(main, *flags)[0] == 0
    return workplace / "runs/done"


def truncate(path):
    path.write_bytes(path.read_bytes()[:5000])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_program(path):
    torch.save({"model": {}}, path)


@pytest.mark.parametrize("damage", [truncate, empty, other_program, Path.unlink])
@pytest.mark.parametrize("flags", [("--name", "done"), ("--model_type", "CustomMLP")])
def test_damaged_or_missing_checkpoint_is_refused_as_it_is(finished, cli, damage, flags):
    damage(finished / "checkpoint.pt")
    before = {path: path.read_bytes() for path in finished.iterdir()}
    code, out, err = cli(main, "--resume", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert ("runs" in err and "--resume" in err) or "damaged" in err
    assert before == {path: path.read_bytes() for path in finished.iterdir()}


@pytest.mark.parametrize("flags, tells", [
    (("--model_type", "LeNet5"), "--model_type CustomMLP, not LeNet5"),
    (("--lr", 0.5), "--lr 0.001, not 0.5"),
    (("--seed", 7), "--seed 0, not 7"),
    (("--epochs", 1), "--epochs 1"),
])  # fmt: skip
def test_flag_that_contradicts_the_run_is_refused(finished, cli, flags, tells):
    before = {path: path.read_bytes() for path in finished.iterdir()}
    code, _, err = cli(main, "--resume", "--name", "done", *flags)
    assert (code, err.count("\n")) == (2, 1) and tells in err
    assert before == {path: path.read_bytes() for path in finished.iterdir()}
    assert cli(main, "--resume", "--name", "done", "--lr", 0.001)[0] == 0  # the same: no clash


def test_a_mistyped_name_makes_no_folder(finished, cli):
    code, _, err = cli(main, "--resume", "--name", "dnoe")
    assert (code, err.count("\n")) == (2, 1) and "dnoe" in err
    assert not (finished.parent / "dnoe").exists()


def test_a_run_in_progress_is_not_resumed_twice_nor_its_name_taken(finished, cli):
    lock = acquire_lock(finished)
    code, _, err = cli(main, "--resume", "--name", "done", "--epochs", 3)
    assert (code, err.count("\n")) == (2, 1) and "another process" in err
    lock.release()
    shutil.rmtree(finished)
    lock = acquire_lock(finished)  # as a process has it that has not yet written a checkpoint
    code, _, err = cli(main, "--model_type", "CustomMLP", "--name", "done")
    assert (code, err.count("\n")) == (2, 1) and "taken" in err
    lock.release()


def test_two_runs_at_once_on_a_fresh_clone(workplace, cli):
    flags = ("--model_type", "CustomMLP", "--epochs", "2")
    both = [start(*flags, "--name", name) for name in ("one", "two")]
    for process in both:
        _, err = process.communicate()
        assert (process.returncode, err) == (0, "")
    same_run("one", "two")
    assert {path.name for path in Path("data").iterdir()} == {
        f"{split}{suffix}" for split in ("train", "test") for suffix in ("", ".tar", ".cache.npz")
    }
