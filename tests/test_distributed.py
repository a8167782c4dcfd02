"""utils/distributed.py: training in several processes follows training in one."""

import contextlib
import dataclasses
import faulthandler
import functools
import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, commands, load_run, write_archives
from torch.distributed import run as torchrun

import main
from main import RECIPES, Args
from model import MODELS
from utils import distributed
from utils.checkpoint import RUNS
from utils.command import run_command

(LINE,) = [line for line in commands((ROOT / "README.md").read_text()) if "torchrun" in line]
# A last batch of 59, of which one process has 30 images and the other 29; one of 1, of which one
# process has none; one of 2, too few for batch normalization in both.
UNEVEN, EMPTY_SHARE, SMALL_SHARE = 63, 499, 249
MLP, REGULARIZED = ("--model_type", "CustomMLP"), ("--model_type", "LeNet5_regularization")
JOBS = {  # run -> flags, in two processes
    "both": ("--resume", "--epochs", 2),
    "regularized": (*REGULARIZED, "--epochs", 1, "--lr", 0.05),
    "small_share": (*REGULARIZED, "--batch_size", SMALL_SHARE),
    "diverged": (*MLP, "--lr", 1e30),
    "refused": (*MLP, "--batch_size", 0),
    "two": ("--recipe", "best", *MLP, "--batch_size", EMPTY_SHARE, "--epochs", 2),
}


def run_jobs():
    """Run all of JOBS in one of torchrun's processes; what each prints goes to NAME.RANK.json."""
    faulthandler.dump_traceback_later(200, exit=True)  # no process is left behind
    # The processes find each other once, and stay together for all the runs.
    distributed.init_processes = functools.cache(distributed.init_processes)
    end_processes, distributed.end_processes = distributed.end_processes, lambda: None
    main.draw_curves = lambda *_: {}
    for name, flags in JOBS.items():
        if name == "two":  # the last
            distributed.end_processes = end_processes
        sys.argv[1:] = ["--name", name, *map(str, flags)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_command(main.main)
            except SystemExit as ended:
                report = [ended.code, out.getvalue(), err.getvalue()]
        Path(f"{name}.{os.environ['RANK']}.json").write_text(json.dumps(report))


def start_jobs():
    """Do as the README's line does, with copies of this process that run JOBS for main.py."""
    elastic_launch = torchrun.elastic_launch

    def launch(config, entrypoint):
        config = dataclasses.replace(config, start_method="fork")
        return lambda *words: elastic_launch(config, run_jobs)()

    torchrun.elastic_launch = launch
    torchrun.main(LINE.split()[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, real, forkserver):
    """A working folder where all runs of two processes are done, and those of one process."""
    folder = tmp_path_factory.mktemp("distributed")
    assert LINE.split()[0] == "torchrun" and LINE.split()[-1] == "main.py"
    write_archives(folder / "data", real, 500, 200)

    def train(name, **settings):
        data = str(folder / "data")
        main.run(Args(**settings, data_dir=data, device="cpu"), RUNS / name, verbose=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        best = RECIPES["best"] | {"model_type": "CustomMLP", "batch_size": EMPTY_SHARE}
        train("one_best", **best, epochs=2)
        train("one", batch_size=UNEVEN, epochs=3)
        train("both", batch_size=UNEVEN, epochs=1)
        process = forkserver.Process(target=start_jobs)
        process.start()
        process.join()
        assert process.exitcode == 0
        train("both", batch_size=UNEVEN, epochs=3)
    return folder


@pytest.fixture
def reports(folder, monkeypatch):
    """What the two processes printed: run -> [[exit code, stdout, stderr] of rank 0, of rank 1]."""
    monkeypatch.chdir(folder)
    return {
        name: [json.loads(Path(f"{name}.{rank}.json").read_text()) for rank in range(2)]
        for name in JOBS
    }


def assert_close(name, other):
    """Assert that two runs' weights and metrics agree within float32's tolerance."""
    (rows, checkpoint), (other_rows, other_checkpoint) = load_run(name), load_run(other)
    for key, value in checkpoint["model"].items():
        assert torch.allclose(value, other_checkpoint["model"][key], atol=1e-4), key
    assert len(rows) == len(other_rows)
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row["train_loss"] == pytest.approx(other_row["train_loss"], rel=1e-4)
        assert row["test_loss"] == pytest.approx(other_row["test_loss"], rel=1e-4)
        assert row["test_accuracy"] == pytest.approx(other_row["test_accuracy"], abs=0.51)


def test_what_torchrun_left_in_a_shell_does_not_matter(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.delenv("RANK", raising=False)
    distributed.init_processes()
    assert distributed.world_size() == 1


def test_two_processes_train_as_one(reports):
    assert_close("one_best", "two")
    (code, out, err), other = reports["two"]
    assert (code, err) == (0, "") and out.count("Epoch: ") == 2
    assert out.endswith("checkpoint.pt\n") and other == [0, "", ""]  # rank 0 alone prints


def test_a_run_is_resumed_from_one_process_to_two_and_back(reports):
    assert reports["both"][0][1].count("\nEpoch: ") == 1
    assert_close("one", "both")


def test_figures_of_batch_normalization_are_those_of_the_saved_weights(reports):
    assert [code for code, *_ in reports["regularized"]] == [0, 0]
    rows, checkpoint = load_run("regularized")
    model = MODELS["LeNet5_regularization"]()
    model.load_state_dict(checkpoint["model"])
    _, test_split = main.load_splits("data", 0)
    batches = main.Batches(main.prepare(test_split, False, torch.device("cpu")), 1000)
    assert main.test(model, batches)[0] == pytest.approx(rows[-1]["test_loss"], rel=1e-4)


@pytest.mark.parametrize("name, words, lines", [
    ("diverged", "epoch 1: the loss is not finite", [1, 1]),
    ("small_share", f"--batch_size {SMALL_SHARE}:", [1, 1]),
    ("refused", "--batch_size 0", [1, 0]),  # before any training, by rank 0 for all
])  # fmt: skip
def test_an_error_ends_all_and_is_one_line(reports, name, words, lines):
    assert [code for code, *_ in reports[name]] == [2, 2]
    assert [err.count("\n") for *_, err in reports[name]] == lines
    assert all(words in err for *_, err in reports[name] if err)
