"""utils/checkpoint.py: the same run whatever interrupts it, and which run may be resumed how."""

import errno
import itertools
import os
import random
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, load_run, run_module, same_run, tree, write_archives
from hypothesis import given
from mutations import mutate, mutations
from torch.optim.lr_scheduler import LambdaLR, LinearLR, MultiStepLR, SequentialLR, StepLR

import main
from main import RECIPES, Args
from utils.checkpoint import RUNS, load_checkpoint, load_weights
from utils.files import UserError, acquire_lock

pytestmark = pytest.mark.usefixtures("empty_plots")
MODEL = "LeNet5_regularization"
MLP = ("--model_type", "CustomMLP")


def train(name, epochs, model_type="CustomMLP", **settings):
    """Train a run in this process."""
    return main.run(Args(model_type, epochs, **settings), RUNS / name, verbose=False)


# --- Interruptions ----------------------------------------------------------------------------


def killed_command(module, function, call, *flags):
    """Run main.py until that call of a function, which kills this process."""
    original, calls = getattr(sys.modules[module], function), itertools.count(1)

    def counted(*arguments, **options):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(sys.modules[module], function, counted)
    run_module("main", *flags)


def test_killed_and_resumed_run_ends_as_if_never_interrupted(small, cli, forkserver):
    settings = RECIPES["best"] | {"model_type": MODEL, "epochs": 3}  # all there is to restore
    main.run(Args(**settings), RUNS / "whole", verbose=False)

    flags, folder = ("--recipe", "best", "--model_type", MODEL, "--epochs", "3"), RUNS / MODEL
    for moment, epochs_done in (
        (("main", "test", 2), 1),  # between training and testing
        (("os", "replace", 2), 1),  # while a checkpoint is written
        (("utils.checkpoint", "atomic_write", 5), 3),  # after checkpoint.pt, before metrics.csv
    ):
        process = forkserver.Process(target=killed_command, args=(*moment, *flags))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, Path("stderr.txt").read_text()
        assert load_checkpoint(folder)["epoch"] == epochs_done
        flags = ("--resume", "--name", MODEL)
    assert list(folder.glob(".checkpoint.pt.*.tmp"))
    code, out, err = cli(main, *flags)
    assert (code, err) == (0, "") and "Epoch: 3" in out
    same_run("whole", MODEL)


def test_two_runs_at_once_on_a_fresh_clone_and_one_in_this_process_are_the_same(fresh, forkserver):
    words = ("main", *MLP, "--epochs", "2")
    both = [forkserver.Process(target=run_module, args=words) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert Path("stderr.txt").read_text() == ""
    assert [process.exitcode for process in both] == [0, 0]
    same_run("CustomMLP", "CustomMLP-2")
    train("here", 2)
    same_run("CustomMLP", "here")
    train("other", 2, seed=4)
    with pytest.raises(AssertionError):
        same_run("here", "other")
    assert {path.name for path in Path("data").iterdir()} - {".lock"} == {
        f"{split}{suffix}" for split in ("train", "test") for suffix in ("", ".tar", ".cache.npz")
    }


def interrupt(*_):
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_cleanly_and_says_how_to_resume(small, monkeypatch, cli):
    train("whole", 2)
    tests = iter((interrupt, main.test, interrupt))
    with monkeypatch.context() as patch:
        patch.setattr(main, "test", lambda *arguments: next(tests)(*arguments))
        flags = (*MLP, "--epochs", 2, "--name", "long")
        code, _, err = cli(main, *flags)
        assert (code, err) == (130, "interrupted before the first epoch ended: nothing is kept\n")
        assert not (RUNS / "long").exists()
        code, _, err = cli(main, *flags)
    assert code == 130
    assert err == "interrupted; to resume: python main.py --resume --name long\n"
    assert load_run("long")[1]["epoch"] == 1
    assert cli(main, *err.split("main.py")[1].split())[0] == 0
    same_run("whole", "long")


def one_after_the_other(args, optimizer, steps):
    schedules = [LinearLR(optimizer, total_iters=steps), MultiStepLR(optimizer, [steps // 2])]
    return SequentialLR(optimizer, schedules, [3 * steps // 2])


@pytest.mark.parametrize("make_scheduler, rates", [
    (lambda args, optimizer, steps: StepLR(optimizer, steps, 0.5), [0.001, 0.0005, 0.00025]),
    (lambda args, optimizer, steps: LambdaLR(optimizer, lambda step: np.exp2(-(step // steps))),
     [0.001, 0.0005, 0.00025]),
    (one_after_the_other, [0.001 / 3, 0.001, 0.0001]),
])  # fmt: skip
def test_any_schedule_of_pytorch_is_resumed_where_it_was(small, monkeypatch, make_scheduler, rates):
    monkeypatch.setattr(main, "make_scheduler", make_scheduler)
    assert [row["lr"] for row in train("whole", 3)] == pytest.approx(rates)
    for epochs in (1, 2, 3):
        train("parts", epochs)
    same_run("whole", "parts")


def test_augmentation_that_draws_from_numpy_or_python_is_resumed_too(small, monkeypatch):
    class Shaken(main.Batches):
        def __iter__(self):
            for images, labels, size in super().__iter__():
                yield images * np.random.beta(2, 2) * random.random(), labels, size

    plain = train("plain", 2)
    monkeypatch.setattr(main, "Batches", Shaken)
    shaken = train("whole", 2)
    assert all(a["train_loss"] != b["train_loss"] for a, b in zip(plain, shaken, strict=True))
    for epochs in (1, 2):
        np.random.rand(epochs)
        train("parts", epochs)
    same_run("whole", "parts")


# --- More epochs ------------------------------------------------------------------------------


def test_more_epochs_extend_a_finished_run_by_the_command_and_in_a_notebook(small, cli):
    shutil.copy(ROOT / "data/weights/CustomMLP.pt", "mine.pt")
    settings = {"init": "mine.pt", "deskew": True, "lr": 0.01}
    train("whole", 3, **settings)
    for name in ("parts", "notebook"):
        train(name, 2, **settings)
    Path("mine.pt").unlink()
    assert cli(main, "--resume", "--name", "parts", "--epochs", 3)[0] == 0
    same_run("whole", "parts")
    history = train("notebook", 3, **settings)
    same_run("whole", "notebook")
    assert train("notebook", 3, **settings) == history
    code, out, _ = cli(main, "--resume", "--name", "parts", "--lr", 0.01)  # as the run has it
    assert code == 0 and "\nEpoch:" not in out  # nothing left to train
    assert "already finished: Epoch: 3" in out
    same_run("whole", "parts")


# --- Which run is resumed, and how ------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_data):
    """A folder of finished runs of CustomMLP: done by the defaults, and best by that recipe."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {"model_type": "CustomMLP", "epochs": 2, "data_dir": str(small_data)}
    for name, recipe in (("best", "best"), ("done", "baseline")):
        main.run(Args(**(RECIPES[recipe] | settings)), folder / "runs" / name, verbose=False)
    return folder / "runs"


@pytest.fixture
def finished(small, trained):
    """The folder of the run named done, in a working folder of its own; best is beside it."""
    shutil.copytree(trained, RUNS)
    return small / RUNS / "done"


@pytest.mark.parametrize("name, flags, words", [
    ("done", ("--model_type", "LeNet5"), "--model_type CustomMLP, not LeNet5"),
    ("done", ("--lr", 0.5), "--lr 0.001, not 0.5"),
    ("done", ("--deskew",), "--deskew False, not True"),
    ("done", ("--epochs", 1), "--epochs 1"),
    ("done", ("--recipe", "best"), "--lr 0.001, not 0.1; leave the flag out"),
    ("done", ("--val_size", 9), "--val_size 0, not 9"),
    ("done", ("--data_dir", "other", "--epochs", 3), "images or labels in other are not those"),
    ("best", ("--shift", 2), "--shift 1.0, not 2.0"),
    ("best", ("--epochs", 3), "--epochs 2, which its schedule was laid out for, not 3"),
    ("dnoe", (), "dnoe: no checkpoint"),  # mistyped
    ("older", (), "was trained with --clip 1.0, which Args in main.py has no more"),
    ("letters", (), "its classes are ABCDEFGHIJ, not 0123456789"),
    ("other_layers", (), "size mismatch for fc1.bias"),
    ("other_order", (), "stand in another order"),
    ("other_optimizer", (), "was trained with Adam, not with SGD"),
    ("other_groups", (), "different number of parameter groups"),
])  # fmt: skip
def test_flags_images_or_code_that_contradict_the_run_are_refused(
    finished, refused, real, name, flags, words
):
    write_archives(Path("other"), real, 299, 100)
    content = load_checkpoint(finished)
    changes = {
        "older": {"settings": content["settings"] | {"clip": 1.0}},
        "letters": {"classes": "ABCDEFGHIJ"},
        "other_layers": {"model": content["model"] | {"fc1.bias": torch.zeros(57)}},
        "other_order": {"model": dict(reversed(content["model"].items()))},
        "other_optimizer": {"trained_with": "Adam"},
        "other_groups": {"optimizer": {"state": {}, "param_groups": []}},
    }
    for changed, parts in changes.items():
        (RUNS / changed).mkdir()
        torch.save(content | parts, RUNS / changed / "checkpoint.pt")
    before = tree(RUNS)
    err = refused(main, "--resume", "--name", name, *flags)
    assert words in err and "damaged" not in err
    assert tree(RUNS) == before


def test_data_that_moved_another_device_and_more_threads_are_no_other_run(finished, cli, small):
    content = load_checkpoint(finished)
    moved = small / "moved"
    Path("data").rename(moved)
    content["settings"]["device"] = "cuda:3"  # of another machine
    torch.save(content, finished / "checkpoint.pt")
    flags = ("--data_dir", moved, "--device", "cpu", "--threads", 2, "--epochs", 3)
    code, out, err = cli(main, "--resume", "--name", "done", *flags)
    torch.set_num_threads(1)
    assert (code, err) == (0, "") and "Epoch: 3" in out
    assert load_run("done")[1]["settings"]["device"] == "cpu"


def test_a_run_is_resumed_without_settings_that_came_or_went_and_change_nothing(finished, cli):
    content = load_checkpoint(finished)
    del content["settings"]["init"]
    content["settings"]["clip"] = 0.0
    content["history"][0]["clipped"] = 0.5  # a column of its own
    for part in ("scheduler", "trained_with", "classes"):  # which earlier versions did not have
        del content[part]
    content["optimizer_type"] = "SGD"
    torch.save(content, finished / "checkpoint.pt")
    assert cli(main, "--resume", "--name", "done", "--epochs", 3)[0] == 0
    metrics = (finished / "metrics.csv").read_text().splitlines()
    assert len(metrics) == 4 and metrics[0].endswith(",clipped")


# --- Folders and locks ------------------------------------------------------------------------


def test_a_run_never_destroys_an_older_one(finished, cli, refused):
    shutil.copytree(finished, RUNS / "CustomMLP")
    before = tree(RUNS)
    (RUNS / "mine").mkdir()  # no checkpoint in it: not taken
    for seed, flags in enumerate(((), ("--name", "mine"))):
        assert cli(main, *MLP, "--epochs", 1, "--seed", seed, *flags)[0] == 0
    assert load_run("CustomMLP-2")[1]["settings"]["seed"] == 0
    assert load_run("mine")[1]["settings"]["seed"] == 1
    err = refused(main, *MLP, "--name", "CustomMLP")
    assert "taken by another run; choose another --name, or resume that run" in err
    assert tree(RUNS).items() >= before.items()


def test_a_run_in_progress_is_not_resumed_twice_nor_its_name_taken(finished, refused):
    with acquire_lock(finished):
        assert acquire_lock(finished) is None
        err = refused(main, "--resume", "--name", "done", "--epochs", 3)
        assert "another process is training this run; wait until it ends" in err
        (finished / "checkpoint.pt").unlink()  # as a process has it that has not yet written one
        assert "taken by another run" in refused(main, *MLP, "--name", "done")


# --- Damage -----------------------------------------------------------------------------------


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 10] ^= 1
    path.write_bytes(content)


DAMAGE = {  # what: (what is done to the file, what the line tells)
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "done/checkpoint.pt: damaged"),
    "of another program": (lambda path: torch.save({"model": {}}, path), "has no 'settings'"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "has no 'model'"),
    "missing": (Path.unlink, "no checkpoint"),
    "one byte of the weights": (flip_a_byte, "done/checkpoint.pt: damaged"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_or_missing_checkpoint_is_refused_as_it_is(finished, refused, what):
    shutil.rmtree(RUNS / "best")
    damage, tells = DAMAGE[what]
    damage(finished / "checkpoint.pt")
    before = tree(RUNS)
    assert tells in refused(main, "--resume")
    assert tree(RUNS) == before


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(finished, cli, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(zipfile, "ZipFile", refuse)  # as chmod means nothing to root
    code, _, err = cli(main, "--resume", "--name", "done")
    assert (code, err) == (2, "runs/done/checkpoint.pt: Permission denied\n")


def test_a_metrics_file_that_cannot_be_written_ends_no_training(small, cli, empty_plots):
    metrics = RUNS / "mine/metrics.csv"
    metrics.mkdir(parents=True)  # as on Windows while Excel has it open
    flags = ("--model_type", "CustomMLP", "--name", "mine")
    code, out, err = cli(main, *flags, "--epochs", 2)
    assert code == 0 and "Epoch: 2" in out and err.count(f"warning: {metrics}") == 2
    code, _, err = cli(main, "--resume")
    assert code == 0 and err.count(f"warning: {metrics}") == 1
    metrics.rmdir()
    code, _, _ = cli(main, "--resume")
    assert code == 0 and len(load_run("mine")[0]) == 2


@given(operations=mutations())
def test_damaged_weights_are_refused_or_read_as_they_were(tmp_path_factory, operations):
    content = (ROOT / "data/weights/CustomMLP.pt").read_bytes()
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(mutate(content, operations))
    try:
        settings, weights = load_weights(str(path))
    except UserError as error:
        assert "damaged" in str(error) and "\n" not in str(error)
    else:
        expected_settings, expected = load_weights(str(ROOT / "data/weights/CustomMLP.pt"))
        assert settings == expected_settings and weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
