"""compare.py: what its results say of the runs, and what it does with runs that are there."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import write_archives
from PIL import Image

import compare
import dataset
import main
from comparison import runs
from comparison.analysis import calibration_error
from comparison.identity import group_folder, run_folder
from comparison.results import class_probabilities, describe_setup, load_comparison
from comparison.tables import comparison_tables
from utils.checkpoint import RUNS, load_checkpoint

QUICK = ("--models", "CustomMLP", "LeNet5", "--epochs", 2, "--lr", 0.02, "--seeds", 2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, real):
    """A folder in which two networks with two seeds were compared."""
    folder = tmp_path_factory.mktemp("compared")
    write_archives(folder / "data", real, 300, 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["compare.py", *map(str, QUICK)])
        patch.setattr(runs, "processes", lambda count: ThreadPoolExecutor(1))
        compare.main()
    return folder


@pytest.fixture
def finished(compared, monkeypatch):
    """The comparison's group folder and its results; the test runs in the comparison's folder."""
    monkeypatch.chdir(compared)
    group = next((RUNS / "compare").glob("*/results.json")).parent
    return group, load_comparison(group / "results.json")


def folder_of(group, model_type, seed):
    return run_folder(main.Args(model_type=model_type, seed=seed), group)


# --- Results ----------------------------------------------------------------------------------


def test_results_say_what_the_weights_do(finished):
    group, comparison = finished
    test = dataset.load_splits("data", 0)[1]
    batches = dataset.Batches(dataset.prepare(test, False, torch.device("cpu")), 100)
    labels = test.labels.numpy()
    assert list(comparison.networks) == ["LeNet5", "CustomMLP"]  # in the order of MODELS
    for model_type, network in comparison.networks.items():
        errors = np.zeros(len(labels), dtype=int)
        assert network.seeds == [0, 1]
        for run in network.runs:
            checkpoint = load_checkpoint(folder_of(group, model_type, run.seed))
            probabilities = class_probabilities(model_type, checkpoint["model"], batches)
            correct = probabilities.argmax(axis=1) == labels
            errors += ~correct
            assert run.hits == [int(correct[labels == digit].sum()) for digit in range(10)]
            assert run.curves["test_accuracy"][-1] == pytest.approx(100 * correct.mean())
            expected = calibration_error(probabilities, labels)
            assert run.calibration_error == pytest.approx(expected, abs=1e-4)
            for column, curve in run.curves.items():
                assert curve == [row[column] for row in checkpoint["history"]]
        assert network.errors.tolist() == errors.tolist()
    assert comparison.setup["data"] == "folder data, 300 training and 100 test images"
    assert not comparison.setup["shipped"]
    names = {"accuracy", "loss", "final", "digits", "hard_images", "filters_LeNet5",
             "confusion_matrix_LeNet5", "confusion_matrix_CustomMLP", "misclassified_LeNet5",
             "misclassified_CustomMLP"}  # fmt: skip
    assert {path.stem for path in group.glob("*.png")} == names
    assert all(Image.open(path).width >= 900 for path in group.glob("*.png"))


def test_validated_on_the_shipped_images_is_said_to_be(small, monkeypatch):
    args = main.Args(val_size=50)
    setup = describe_setup(args, dataset.load_splits("data", 50))
    assert setup["data"] == "folder data, 250 training and 50 validation images"
    shipped = dataset.digest(dataset.load_splits("data", 0)[0])
    monkeypatch.setitem(dataset.SHIPPED, "train", shipped)
    setup = describe_setup(args, dataset.load_splits("data", 50))
    assert setup["shipped"] and setup["data"] == "MNIST, 250 training and 50 validation images"


class Renamed(main.MODELS["LeNet5"]):
    """LeNet-5 as a student may change it: with another first layer, of another name."""

    def __init__(self):
        super().__init__()
        self.first, self.conv1 = torch.nn.Conv2d(1, 6, 5), torch.nn.Identity()

    def forward(self, images):
        return super().forward(self.first(images))


def test_a_changed_network_is_compared_without_its_filters(
    small, cli, no_processes, empty_plots, monkeypatch
):
    monkeypatch.setitem(main.MODELS, "LeNet5", Renamed)
    code, _, err = cli(compare, "--models", "LeNet5", "--seeds", 2, "--epochs", 1)
    assert code == 0, err
    pictures = {path.stem for path in RUNS.rglob("*.png")}
    assert "misclassified_LeNet5" in pictures and "filters_LeNet5" not in pictures


def test_what_a_run_tests_must_be_what_it_saves(small, cli, no_processes, empty_plots, monkeypatch):
    flags = ("--models", "CustomMLP", "--seeds", 1, "--epochs", 2, "--lr", 0.02)
    code, out, err = cli(compare, *flags)
    assert (code, err) == (0, "")
    saved = re.search(r"test accuracy, % \| ([\d.]+)", out)[1]
    monkeypatch.setattr(main, "test", lambda *_: (0.5, 99.0))  # such as of averaged weights
    shutil.rmtree(RUNS)
    code, _, err = cli(compare, *flags)
    assert code == 0 and err.count("\n") == 1
    assert f"CustomMLP: the saved weights classify {saved} % of" in err and "report 99.00 %" in err


def test_a_column_that_later_epochs_lack_is_left_out(small, cli, no_processes, empty_plots):
    flags = ("--models", "CustomMLP", "--seeds", 1, "--epochs", 2)
    assert cli(compare, *flags)[0] == 0
    (path,) = RUNS.rglob("checkpoint.pt")
    checkpoint = load_checkpoint(path.parent)
    checkpoint["history"][0]["norm"] = 1.0  # that only the first epoch was asked for
    torch.save(checkpoint, path)
    code, _, err = cli(compare, *flags)
    assert (code, err) == (0, "")
    (results,) = RUNS.rglob("results.json")
    (run,) = load_comparison(results).networks["CustomMLP"].runs
    assert list(run.curves) == [*checkpoint["history"][1]][1:]


# --- Runs that are there ----------------------------------------------------------------------


def test_finished_runs_are_kept(finished, cli, empty_plots):
    group, comparison = finished
    before = {path: path.stat().st_mtime_ns for path in group.rglob("*.pt")}
    code, out, err = cli(compare, *QUICK)
    assert code == 0 and "4 of 4 runs are finished, 0 to train" in out, err
    assert comparison_tables(comparison) in out
    assert before == {path: path.stat().st_mtime_ns for path in group.rglob("*.pt")}


def test_a_failed_run_is_reported_and_the_others_are_compared(
    small, cli, no_processes, empty_plots
):
    args = main.Args(model_type="CustomMLP", seed=1, epochs=1)
    data = [dataset.digest(split) for split in dataset.load_splits("data", 0)]
    folder = run_folder(args, group_folder(args, data))
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    code, out, err = cli(compare, "--models", "CustomMLP", "--seeds", 3, "--epochs", 1)
    assert code == 2 and re.search(r"1 of 3 runs failed: CustomMLP-\w+-seed1", err)
    assert "damaged" in err and "| 2 (seeds 0, 2) |" in out and "Traceback" not in err


# --- Runs of main.py --------------------------------------------------------------------------


def test_runs_of_any_settings_are_shown_beside_each_other(small, cli):
    histories = {}
    for name, settings in (
        ("slow", {"lr": 0.001, "epochs": 2}),
        ("fast", {"lr": 0.1, "epochs": 2}),
        ("validated", {"lr": 0.1, "epochs": 1, "val_size": 50}),
    ):
        args = main.Args("CustomMLP", **settings)
        histories[name] = main.run(args, RUNS / name, verbose=False)[-1]
    checkpoint = load_checkpoint(RUNS / "fast")
    checkpoint["settings"]["epochs"] = 5  # as if it had been interrupted
    torch.save(checkpoint, RUNS / "fast/checkpoint.pt")
    code, out, err = cli(compare, "--runs", "slow", "runs/fast/")
    assert code == 0, err
    head, _, slow, fast = out.splitlines()[:4]
    assert head == "| run | lr | epochs | train loss | train accuracy | test loss | test accuracy |"
    assert slow.startswith("| slow | 0.001 | 2 of 2 | ") and fast.startswith(
        "| fast | 0.1 | 2 of 5"
    )
    assert slow.endswith(f"| {histories['slow']['test_accuracy']:.2f} |")
    with Image.open("plots/runs_slow_fast.png") as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 50
    code, out, _ = cli(compare, "--runs", "slow", "validated")
    assert "| run | lr | val_size | epochs |" in out and "| validation accuracy |" in out
    assert f"|  |  | {histories['validated']['val_loss']:.4f} | " in out
    shutil.copytree(RUNS / "fast", RUNS / "other/fast")  # of the same name
    code, out, err = cli(compare, "--runs", "fast", "runs/other/fast")
    assert code == 0 and "| runs/fast | " in out and "| runs/other/fast | " in out, err
    code, out, err = cli(compare, "--runs", "slow", "fsat")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--runs fsat" in err and str(RUNS.resolve()) in err and "fast, slow" in err
