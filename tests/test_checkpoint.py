"""utils/checkpoint.py: the same run whatever interrupts it, and which run may be resumed how."""

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, load_run, same_run, write_archives
from hypothesis import given
from mutations import mutate, mutations

import main
from main import RECIPES, Args
from utils.checkpoint import (
    RUNS,
    load_checkpoint,
    load_weights,
    new_run,
    resumed_run,
)
from utils.command import run_command
from utils.files import UserError, acquire_lock

MODEL = "LeNet5_regularization"
MLP = ("--model_type", "CustomMLP")


def train(name, epochs, model_type="CustomMLP", **settings):
    """Train a run in this process."""
    return main.run(Args(model_type, epochs, **settings), RUNS / name, verbose=False)


def files(folder):
    """Return the files of a folder with their contents, but for locks."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: path.read_bytes() for path in paths}


# --- Interruptions ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forkserver():
    """The way to start processes that does not import PyTorch for each of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "matplotlib.figure"])
    return context


def command(*flags):
    """Run main.py in this process, which ends with it."""
    sys.argv[1:] = flags
    sys.stderr = open("stderr.txt", "a")  # noqa: SIM115
    run_command(main.main)


def killed_command(module, function, call, *flags):
    """Run main.py until that call of a function, which kills this process."""
    original, calls = getattr(sys.modules[module], function), itertools.count(1)

    def counted(*arguments, **options):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(sys.modules[module], function, counted)
    command(*flags)


def test_killed_and_resumed_run_ends_as_if_never_interrupted(small, cli, forkserver):
    settings = RECIPES["best"] | {"model_type": MODEL, "epochs": 4}  # all there is to restore
    main.run(Args(**settings), RUNS / "whole", verbose=False)

    flags, folder = ("--recipe", "best", "--model_type", MODEL, "--epochs", "4"), RUNS / MODEL
    for moment, epochs_done in (
        (("main", "test", 2), 1),  # between training and testing
        (("utils.checkpoint", "atomic_write", 2), 2),  # after checkpoint.pt, before metrics.csv
        (("os", "replace", 1), 2),  # while a checkpoint is written
    ):
        process = forkserver.Process(target=killed_command, args=(*moment, *flags))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, Path("stderr.txt").read_text()
        assert load_checkpoint(folder)["epoch"] == epochs_done
        flags = ("--resume", "--model_type", MODEL)
    assert list(folder.glob(".checkpoint.pt.*.tmp"))
    code, out, err = cli(main, "--resume", "--name", MODEL)
    assert (code, err) == (0, "") and "Epoch: 4" in out
    same_run("whole", MODEL)


def test_two_runs_at_once_on_a_fresh_clone(tmp_path, monkeypatch, real, forkserver):
    monkeypatch.chdir(tmp_path)
    write_archives(tmp_path / "data", real, 300, 100)
    flags = (*MLP, "--epochs", "2", "--name")
    both = [forkserver.Process(target=command, args=(*flags, name)) for name in ("one", "two")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert Path("stderr.txt").read_text() == ""
    assert [process.exitcode for process in both] == [0, 0]
    same_run("one", "two")
    assert {path.name for path in Path("data").iterdir()} >= {
        f"{split}{suffix}" for split in ("train", "test") for suffix in ("", ".tar", ".cache.npz")
    }
    assert not list(Path("data").glob("*partial*")) + list(Path("data").rglob("*.tmp"))


def test_ctrl_c_ends_cleanly_and_says_how_to_resume(small, monkeypatch, cli):
    train("whole", 3)
    tests = iter((main.test, lambda *_: signal.raise_signal(signal.SIGINT)))
    with monkeypatch.context() as patch:
        patch.setattr(main, "test", lambda *arguments: next(tests)(*arguments))
        code, _, err = cli(main, *MLP, "--epochs", 3, "--name", "long")
    assert code == 130
    assert err == "interrupted; to resume: python main.py --resume --name long\n"
    assert load_run("long")[1]["epoch"] == 1
    assert cli(main, *err.split("main.py")[1].split())[0] == 0
    same_run("whole", "long")


# --- More epochs ------------------------------------------------------------------------------


def test_more_epochs_extend_a_finished_run(small, cli):
    train("whole", 4, lr=0.01)
    train("parts", 2, lr=0.01)
    assert cli(main, "--resume", "--name", "parts", "--epochs", 4)[0] == 0
    same_run("whole", "parts")
    code, out, _ = cli(main, "--resume", "--name", "parts", "--lr", 0.01)  # as the run has it
    assert code == 0 and "\nEpoch:" not in out  # nothing left to train
    assert "already finished: Epoch: 4" in out
    same_run("whole", "parts")


def test_run_resumes_by_itself(small):
    train("whole", 3)
    train("parts", 1)
    parts = train("parts", 3)
    same_run("whole", "parts")
    assert train("parts", 3) == parts


def test_one_cycle_run_is_not_extended(small, cli):
    train("cycle", 2, schedule="onecycle")
    assert cli(main, "--resume", "--name", "cycle", "--epochs", 2)[0] == 0
    before = files(RUNS)
    code, _, err = cli(main, "--resume", "--name", "cycle", "--epochs", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert "--epochs 2, which its schedule was laid out for, not 3" in err
    with pytest.raises(UserError, match="epochs"):
        train("cycle", 3, schedule="onecycle")
    assert files(RUNS) == before


# --- Which run is resumed, and how ------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_data):
    """A folder of finished runs of CustomMLP: done by the defaults, and best by that recipe."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {"model_type": "CustomMLP", "epochs": 2, "data_dir": str(small_data)}
    for name, recipe in (("done", "baseline"), ("best", "best")):
        main.run(Args(**(RECIPES[recipe] | settings)), folder / "runs" / name, verbose=False)
    return folder / "runs"


@pytest.fixture
def finished(small, trained):
    """The folder of the run named done, in a working folder of its own; best is beside it."""
    shutil.copytree(trained, RUNS)
    return small / RUNS / "done"


def test_newest_run_of_all_or_of_the_network_is_resumed(finished):
    for age, (name, model_type) in enumerate((("c", "LeNet5"), ("b", None), ("a", None))):
        shutil.copytree(finished, RUNS / name)
        path = RUNS / name / "checkpoint.pt"
        content = torch.load(path)
        content["settings"]["model_type"] = model_type or "CustomMLP"
        torch.save(content, path)
        os.utime(path, (2e9 - age, 2e9 - age))
    for asked, newest in (({}, "c"), ({"model_type": "CustomMLP"}, "b")):
        with resumed_run(Args, asked | {"epochs": 7}, None) as (args, folder):
            assert (folder, args.epochs) == (RUNS / newest, 7)
    with (
        pytest.raises(UserError, match=f"no run of {MODEL} to resume"),
        resumed_run(Args, {"model_type": MODEL}, None),
    ):
        pass


@pytest.mark.parametrize("name, flags, words", [
    ("done", ("--model_type", "LeNet5"), "--model_type CustomMLP, not LeNet5"),
    ("done", ("--lr", 0.5), "--lr 0.001, not 0.5"),
    ("done", ("--seed", 7), "--seed 0, not 7"),
    ("done", ("--deskew",), "--deskew False, not True"),
    ("done", ("--epochs", 1), "--epochs 1"),
    ("done", ("--recipe", "best"), "leave --recipe out"),
    ("best", ("--shift", 2), "--shift 1.0, not 2.0"),
    ("done", ("--val_size", 9), "--val_size 0, not 9"),
    ("dnoe", (), "dnoe"),  # mistyped
])  # fmt: skip
def test_flag_that_contradicts_the_run_is_refused(finished, cli, name, flags, words):
    before = files(RUNS)
    code, out, err = cli(main, "--resume", "--name", name, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err
    assert files(RUNS) == before and not (RUNS / "dnoe").exists()


def change(folder, **parts):
    """Change parts of a checkpoint."""
    content = load_checkpoint(folder)
    torch.save(content | parts, folder / "checkpoint.pt")


def test_data_that_moved_another_device_and_more_threads_are_no_other_run(finished, cli, small):
    checkpoint = load_checkpoint(finished)
    moved = small / "moved"
    Path("data").rename(moved)
    settings = checkpoint["settings"] | {"device": "cuda:3"}  # of another machine
    change(finished, settings=settings)
    flags = ("--data_dir", moved, "--device", "cpu", "--threads", 2, "--epochs", 3)
    code, out, err = cli(main, "--resume", "--name", "done", *flags)
    torch.set_num_threads(1)
    assert (code, err) == (0, "") and "Epoch: 3" in out
    assert load_run("done")[1]["settings"]["device"] == "cpu"


def test_other_images_or_labels_are_another_run(finished, cli, real):
    write_archives(Path("other"), real, 299, 100)
    before = files(RUNS)
    code, _, err = cli(main, "--resume", "--name", "done", "--data_dir", "other", "--epochs", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert "images or labels in other are not those" in err and files(RUNS) == before


def test_a_run_of_an_older_version_is_resumed(finished, cli):
    content = load_checkpoint(finished)
    del content["data"], content["optimizer_type"]
    for row in content["history"]:
        del row["lr"]
    torch.save(content, finished / "checkpoint.pt")
    assert cli(main, "--resume", "--name", "done", "--epochs", 3)[0] == 0
    assert (finished / "metrics.csv").read_text().splitlines()[1].startswith("1,,")


def test_a_run_from_a_file_that_is_gone_is_resumed(small, cli):
    shutil.copy(ROOT / "data/weights/CustomMLP.pt", "mine.pt")
    settings = {"init": "mine.pt", "deskew": True}
    train("whole", 2, **settings)
    train("parts", 1, **settings)
    Path("mine.pt").unlink()
    assert cli(main, "--resume", "--name", "parts", "--epochs", 2)[0] == 0
    same_run("whole", "parts")


@pytest.mark.parametrize("part, words", [
    ("settings", "was trained with clip 1.0, a setting that main.py no longer has"),
    ("model", "fc1.bias is (57,) there and (56,) here"),
    ("optimizer_type", "was trained with Adam, not with SGD"),
])  # fmt: skip
def test_what_differs_is_named_and_not_called_damage(finished, cli, part, words):
    content = load_checkpoint(finished)
    changed = {
        "settings": content["settings"] | {"clip": 1.0},
        "model": content["model"] | {"fc1.bias": torch.zeros(57)},
        "optimizer_type": "Adam",
    }
    change(finished, **{part: changed[part]})
    before = files(RUNS)
    code, out, err = cli(main, "--resume", "--name", "done", "--epochs", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert out == "" or part == "optimizer_type"  # which is made after the first line
    assert words in err
    assert "damaged" not in err and "remove" not in err and files(RUNS) == before


# --- Damage -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("damage", [truncate, empty, flip, other_program, Path.unlink])
@pytest.mark.parametrize("flags", [(), ("--name", "done")])
def test_damaged_or_missing_checkpoint_is_refused_as_it_is(finished, cli, damage, flags):
    shutil.rmtree(RUNS / "best")
    damage(finished / "checkpoint.pt")
    before = files(RUNS)
    code, out, err = cli(main, "--resume", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no run" in err or "no checkpoint" in err or "damaged" in err or "has no 'optim" in err
    assert "remove" not in err
    assert files(RUNS) == before


# --- Folders and locks ------------------------------------------------------------------------


def test_a_run_never_destroys_an_older_one(finished, cli):
    for name in ("CustomMLP", "CustomMLP-2"):
        shutil.copytree(finished, RUNS / name)
    before = files(RUNS)
    (RUNS / "mine").mkdir()  # no checkpoint in it: not taken
    for seed, flags in enumerate(((), ("--name", "mine"))):
        assert cli(main, *MLP, "--epochs", 1, "--seed", seed, *flags)[0] == 0
    assert load_run("CustomMLP-3")[1]["settings"]["seed"] == 0
    assert load_run("mine")[1]["settings"]["seed"] == 1
    code, out, err = cli(main, *MLP, "--name", "CustomMLP")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "taken by another run; choose another --name, or resume that run" in err
    assert files(RUNS).items() >= before.items()


def test_a_run_in_progress_is_not_resumed_twice_nor_its_name_taken(finished, cli):
    lock = acquire_lock(finished)
    assert acquire_lock(finished) is None
    code, _, err = cli(main, "--resume", "--name", "done", "--epochs", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert "another process is training this run; wait until it ends" in err
    (finished / "checkpoint.pt").unlink()  # as a process has it that has not yet written one
    code, _, err = cli(main, *MLP, "--name", "done")
    assert (code, err.count("\n")) == (2, 1) and "taken by another run" in err
    lock.release()
    with new_run("CustomMLP", "done") as folder:
        assert folder == RUNS / "done"
    with new_run("LeNet5", None) as folder, new_run("LeNet5", None) as other:
        assert (folder, other) == (RUNS / "LeNet5", RUNS / "LeNet5-2")
    assert not folder.exists() and not other.exists()  # as no epoch was trained


# --- Damage -----------------------------------------------------------------------------------


def equal(one, other):
    """Return whether two checkpoints, or parts of them, are the same."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory, small_data):
    """The folder of a run of one epoch, and what its checkpoint holds."""
    folder = tmp_path_factory.mktemp("one_epoch")
    main.run(Args("CustomMLP", 1, data_dir=str(small_data)), folder, verbose=False)
    return folder, load_checkpoint(folder)


@given(operations=mutations())
def test_damaged_checkpoint_is_refused_or_read_as_it_was(one_epoch, tmp_path_factory, operations):
    folder, expected = one_epoch
    damaged = tmp_path_factory.getbasetemp() / "damaged"
    damaged.mkdir(exist_ok=True)
    content = (folder / "checkpoint.pt").read_bytes()
    (damaged / "checkpoint.pt").write_bytes(mutate(content, operations))
    try:
        found = load_checkpoint(damaged)
    except UserError as error:
        assert "damaged" in str(error) and "\n" not in str(error)
    else:
        assert equal(found, expected)


@given(operations=mutations())
def test_damaged_weights_are_refused_or_read_as_they_were(tmp_path_factory, operations):
    content = (ROOT / "data/weights/CustomMLP.pt").read_bytes()
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(mutate(content, operations))
    try:
        found = load_weights(str(path))
    except UserError as error:
        assert "damaged" in str(error) and "\n" not in str(error)
    else:
        settings, weights = load_weights(str(ROOT / "data/weights/CustomMLP.pt"))
        assert found[0] == settings and equal(found[1], weights)
