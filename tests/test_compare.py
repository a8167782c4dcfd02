"""compare.py: the committed results, many runs that survive anything, and publishing."""

import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_stats import fake_runs

import compare
import dataset
import main
from compare import RESULTS, WEIGHTS_RECIPE
from comparison import plots
from comparison.analysis import calibration_error, correct_shares
from comparison.stats import METHOD, differences, summarise
from comparison.tables import gallery
from model import MODELS, TITLES
from utils.archives import decode_png, parse_name, read_archive
from utils.augment import deskew
from utils.checkpoint import RUNS, load_checkpoint, load_weights
from utils.files import UserError, markers

QUICK = ("--models", "CustomMLP", "LeNet5", "--epochs", 2, "--lr", 0.02, "--seeds", 2)
COMMITTED = {
    "baseline": (range(10), list(MODELS)),
    "best": (range(10, 20), list(MODELS)),
    "record": (range(30, 40), list(MODELS)),
    "fast": (range(10, 20), ["LeNet5_regularization"]),
}


def results(name):
    """A recipe's committed results."""
    return json.loads((ROOT / f"plots/results/{name}.json").read_text())


def between_markers(path, name):
    first, last = markers(name)
    return path.read_text().split(first)[1].split(last)[0].strip()


# --- The table --------------------------------------------------------------------------------


def test_a_network_without_a_reported_value_has_its_row():
    runs = [run | {"at_once": 2} for run in fake_runs(LeNet5=[98.0, 99.0], CustomMLP=[97.0, 98.0])]
    correct = {"LeNet5": np.ones(4), "CustomMLP": np.ones(4)}
    settings = {name: value for name, value in vars(main.Args()).items() if name != "seed"}
    found = {
        "settings": settings | {"model_type": "LeNet5"},
        "runs": runs,
        "networks": summarise(runs, correct),
    }
    found |= {"pairs": differences(runs, correct), "method": METHOD, "data": "some"}
    found |= {"versions": {"torch": "1"}, "processor": "one", "test_images": {"0": 2, "7": 2}}
    assert "Reported elsewhere, single runs: LeNet5 98.77, CustomMLP 97.14" in compare.full_table(
        found
    )
    assert "Seconds" not in compare.full_table(found)  # side by side they would mean little
    alone = [run | {"at_once": 1} for run in runs]
    for run in alone:
        run["curves"]["seconds"] = [2.0]
    assert "median 2.0" in compare.full_table(found | {"runs": alone})


# --- The committed results --------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_tables_are_those_of_the_committed_runs(name):
    found = results(name)
    table = between_markers(ROOT / "plots/results/README.md", name)
    assert table == f"{compare.full_table(found)}\n\n{gallery(found, name, TITLES)}"
    assert "Data: MNIST, 60,000 training and 10,000 test images." in table


def test_readme_holds_the_summary_and_the_findings_of_the_committed_results():
    text = compare.summary_and_findings({name: results(name) for name in COMMITTED})
    assert between_markers(ROOT / "README.md", "results") == text
    assert 3 <= text.count("\n- ") <= 5


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_statistics_follow_from_the_committed_runs(name):
    found = results(name)
    seeds, networks = COMMITTED[name]
    correct = {}
    for model_type in networks:
        correct[model_type] = correct_shares(found["misread"][model_type], len(seeds), 10_000)
        accuracy = found["networks"][model_type]["test_accuracy"]["mean"]
        assert 100 * correct[model_type].mean() == pytest.approx(accuracy, abs=0.011)
    summary = summarise(found["runs"], correct)
    for model_type, network in found["networks"].items():
        expected = summary[model_type]
        interval = expected.pop("interval_over_images")
        assert network.pop("interval_over_images") == pytest.approx(interval)
        assert network == expected
    for own, expected in zip(found["pairs"], differences(found["runs"], correct), strict=True):
        interval = expected.pop("interval_over_images")
        assert own.pop("interval_over_images") == pytest.approx(interval)
        assert own == expected
    for setting, value in main.RECIPES[name].items():
        assert found["settings"].get(setting, value) == value
    made = [(run["model_type"], run["seed"]) for run in found["runs"]]
    assert made == [(model_type, seed) for model_type in networks for seed in seeds]
    epochs = list(range(1, main.RECIPES[name].get("epochs", 20) + 1))
    assert all(run["curves"]["epoch"] == epochs for run in found["runs"])


# --- Many runs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory, archives):
    """A folder in which two networks with two seeds were compared; returns it and the output."""
    folder, out = tmp_path_factory.mktemp("compared"), io.StringIO()
    (folder / "data").mkdir()
    for split, content in archives.items():
        (folder / "data" / f"{split}.tar").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["compare.py", *map(str, QUICK)])
        compare.main()
    return folder, out.getvalue()


@pytest.fixture
def finished(compared, monkeypatch):
    """The group's folder and the results of the comparison, in whose folder the test runs."""
    folder, _ = compared
    monkeypatch.chdir(folder)
    group = next((RUNS / "compare").glob("*/results.json")).parent
    return group, json.loads((group / "results.json").read_text())


def test_results_are_reported_and_stay_in_the_runs_folder(compared, finished):
    (group, found), (_, out) = finished, compared
    assert compare.full_table(found) in out and str(group) in out
    assert "Data: folder data, 2,000 training and 500 test images" in out
    names = {"accuracy", "loss", "final", "digits", "misread", "filters_LeNet5"}
    for model_type in ("CustomMLP", "LeNet5"):
        names |= {f"confusion_matrix_{model_type}", f"misclassified_{model_type}"}
    assert {path.stem for path in group.glob("*.png")} == names
    for name in names:
        with Image.open(group / f"{name}.png") as image:
            assert image.width >= 900 and len(image.convert("RGB").getcolors(2**24)) > 50
    assert not (RESULTS / "README.md").exists() and not Path("README.md").exists()


def test_a_run_of_the_comparison_is_a_run_of_main(finished, cli):
    flags = ("--model_type", "CustomMLP", "--epochs", 2, "--lr", 0.02, "--seed", 1, "--name", "one")
    assert cli(main, *flags)[0] == 0
    history = load_checkpoint(Path("runs/one"))["history"]
    (run,) = [
        run for run in finished[1]["runs"] if (run["model_type"], run["seed"]) == ("CustomMLP", 1)
    ]
    assert run["curves"]["test_loss"] == [row["test_loss"] for row in history]


def test_misread_images_are_those_that_the_weights_misread(finished):
    group, found = finished
    test = dataset.load_splits("data", 0)[1]
    images = dataset.prepare(test, False, torch.device("cpu")).images
    counts = {}
    for seed in range(2):
        args = main.Args(model_type="LeNet5", seed=seed)
        one = compare.collect(args, compare.run_folder(args, group))
        guesses = compare.probabilities(one, images).argmax(axis=1)
        for index in np.flatnonzero(guesses != test.labels.numpy()):
            counts[str(index)] = counts.get(str(index), 0) + 1
    assert found["misread"]["LeNet5"] == counts


def test_digits_and_calibration_are_those_of_the_weights(finished):
    group, found = finished
    test = dataset.load_splits("data", 0)[1]
    images, labels = dataset.prepare(test, False, torch.device("cpu")).images, test.labels.numpy()
    args = main.Args(model_type="CustomMLP", seed=1)
    shares = compare.probabilities(compare.collect(args, compare.run_folder(args, group)), images)
    (run,) = [run for run in found["runs"] if (run["model_type"], run["seed"]) == ("CustomMLP", 1)]
    assert run["calibration_error"] == pytest.approx(calibration_error(shares, labels))
    assert found["test_images"] == {str(d): int((labels == d).sum()) for d in range(10)}
    share_of_7 = 100 * (shares[labels == 7].argmax(axis=1) == 7).mean()
    assert run["digit_accuracy"]["7"] == pytest.approx(share_of_7)
    # The digits' means, weighted by their images, are the accuracy.
    weighted = sum(run["digit_accuracy"][d] * n for d, n in found["test_images"].items())
    assert weighted / len(labels) == pytest.approx(run["curves"]["test_accuracy"][-1])


def test_finished_runs_are_kept_as_what_they_were(finished, cli):
    group, _ = finished
    before = {path: path.stat().st_mtime_ns for path in group.rglob("*.pt")}
    code, out, _ = cli(compare, *QUICK, "--at_once", 1)
    assert code == 0 and "4 of 4 runs are finished, 0 to train" in out
    assert before == {path: path.stat().st_mtime_ns for path in group.rglob("*.pt")}
    # They were not alone on the machine, so their seconds are not reported.
    assert "Seconds of a whole run" not in out
    runs = json.loads((group / "results.json").read_text())["runs"]
    assert {run["at_once"] for run in runs} == {compare.cores()}


def test_other_labels_in_the_same_folder_are_other_runs(
    compared, tmp_path, monkeypatch, cli, no_processes
):
    shutil.copytree(compared[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    path = Path("data/train/00000_5.png")
    path.rename(path.with_name("00000_6.png"))
    flags = ("--models", "CustomMLP", "--lr", 0.02, "--epochs", 2, "--seeds", 1, "--at_once", 1)
    code, out, _ = cli(compare, *flags)
    assert code == 0 and "4 runs in runs/compare have other settings" in out
    assert "Means of 1 runs" in out and "Seconds of a whole run, one at a time" in out


def test_killed_comparison_trains_only_what_is_missing(workplace, cli):
    flags = ("--models", "CustomMLP", "--seeds", "3", "--epochs", "2", "--at_once", "1")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "compare.py"), *flags], stdout=subprocess.PIPE, text=True
    )
    while "Test Accuracy" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    code, out, err = cli(compare, *flags)
    assert code == 0, err
    assert "0 of 3 runs are finished" not in out and "Means of 3 runs (seeds 0 to 2)" in out


def test_failed_run_is_reported_and_the_others_are_compared(workplace, cli):
    args = main.Args(model_type="CustomMLP", seed=1, epochs=1)
    data = [dataset.digest(split) for split in dataset.load_splits("data", 0)]
    folder = compare.run_folder(args, compare.group_folder(args, data))
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    (folder / "at_once.txt").write_text("1")
    code, out, err = cli(
        compare, "--models", "CustomMLP", "--seeds", 3, "--epochs", 1, "--at_once", 1
    )
    assert code == 2
    assert "1 of 3 runs failed: CustomMLP-seed1" in err and "damaged" in err
    assert "Means of 2 runs" in out and "Traceback" not in err


# --- Publishing -------------------------------------------------------------------------------


@pytest.fixture
def publishable(small, monkeypatch):
    """A small recipe, on data that is taken for the shipped one, and READMEs to write into."""
    splits = zip(dataset.SPLITS, dataset.load_splits("data", 0), strict=True)
    monkeypatch.setattr(dataset, "SHIPPED", {name: dataset.digest(split) for name, split in splits})
    tiny = {"model_type": "CustomMLP", "epochs": 1, "lr": 0.02}
    monkeypatch.setattr(compare, "RECIPES", {"baseline": {}, "tiny": tiny})
    monkeypatch.setattr(compare, "WEIGHTS_RECIPE", "tiny")
    Path("plots/results").mkdir(parents=True)
    for path, name in ((Path("README.md"), "results"), (compare.RESULTS / "README.md", "tiny")):
        path.write_text("Before\n{}\nold\n{}\nAfter\n".format(*markers(name)))
    return ("--recipe", "tiny", "--publish")


def test_publishing_renews_readmes_json_and_pictures(publishable, cli, monkeypatch, no_processes):
    before = Path("README.md").read_text()
    real = plots.plot_misclassified
    monkeypatch.setattr(
        plots, "plot_misclassified", lambda *_: (_ for _ in ()).throw(UserError("x"))
    )
    assert cli(compare, *publishable)[0] == 2  # an error while it renders, before it writes
    assert Path("README.md").read_text() == before
    assert [path.name for path in compare.RESULTS.iterdir()] == ["README.md"]
    assert not compare.WEIGHTS.exists()

    monkeypatch.setattr(plots, "plot_misclassified", real)
    code, _, err = cli(compare, *publishable)
    assert code == 0, err
    found = json.loads((compare.RESULTS / "tiny.json").read_text())
    summary = compare.summary_and_findings({"tiny": found})
    assert between_markers(Path("README.md"), "results") == summary
    page = between_markers(compare.RESULTS / "README.md", "tiny")
    assert page.startswith(compare.full_table(found))
    assert Path("README.md").read_text().startswith("Before\n")
    pictures = {path.name for path in compare.RESULTS.glob("*.png")}
    assert pictures == {
        "samples.png", "final_tiny.png", "digits_tiny.png", "misread_tiny.png",
        "confusion_matrix_CustomMLP_tiny.png", "misclassified_CustomMLP_tiny.png",
    }  # fmt: skip
    assert pictures == {"samples.png", *re.findall(r"\]\((.*?\.png)\)", page)}


def test_publishing_ships_the_weights_of_the_first_seed(
    publishable, cli, monkeypatch, no_processes
):
    assert cli(compare, *publishable, "--first_seed", 3)[0] == 0
    assert [path.name for path in compare.WEIGHTS.iterdir()] == ["CustomMLP.pt"]
    settings, weights = load_weights("data/weights/CustomMLP.pt")
    assert settings == {"model_type": "CustomMLP", "deskew": False}
    (folder,) = RUNS.glob("compare/*/CustomMLP-seed3")
    trained = load_checkpoint(folder)["model"]
    assert weights.keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in weights.items())
    # Those of other recipes stay where they are made.
    (compare.WEIGHTS / "CustomMLP.pt").unlink()
    monkeypatch.setattr(compare, "WEIGHTS_RECIPE", "baseline")
    assert cli(compare, *publishable, "--first_seed", 3)[0] == 0
    assert not list(compare.WEIGHTS.iterdir())


def test_shipped_weights_reach_the_published_accuracy():
    members = dict(read_archive(ROOT / "data/test.tar.xz", "test"))
    labels = np.array([parse_name(name)[1] for name in members])
    images = torch.from_numpy(np.stack([decode_png(content) for content in members.values()]))
    deskewed = deskew(dataset.normalise(images))
    assert WEIGHTS_RECIPE == "best" and main.RECIPES["best"]["deskew"]
    for model_type in MODELS:
        settings, weights = load_weights(str(ROOT / f"data/weights/{model_type}.pt"))
        assert settings == {"model_type": model_type, "deskew": True}
        shares = compare.probabilities({"model_type": model_type, "weights": weights}, deskewed)
        first = next(run for run in results("best")["runs"] if run["model_type"] == model_type)
        accuracy = 100 * (shares.argmax(axis=1) == labels).mean()
        # On another processor a single image may fall to the other side.
        assert accuracy == pytest.approx(first["curves"]["test_accuracy"][-1], abs=0.021)


def test_git_takes_the_shipped_weights_and_nothing_else_beside_the_archives(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    names = ["data/weights/LeNet5.pt", "data/test.tar.xz", "data/weights/mine.txt", "data/my.pt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    words = ["git", "ls-files", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert set(listed.split()) == {".gitignore", *names[:2]}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_a_disk_that_fills_up_while_publishing_renews_nothing(
    publishable, cli, no_processes, full_disk
):
    assert cli(compare, *publishable[:2])[0] == 0  # trained, so that only files are left to write
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for room in (2_000, 20_000, 60_000):
        with full_disk(room):
            code, _, err = cli(compare, *publishable)
        assert (code, err.count("\n")) == (2, 1) and "cannot be written" in err
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("flags, tells", [
    (("--seeds", 9), "--seeds 9"),
    (("--epochs", 2), "--epochs 2"),
    (("--lr", 0.5), "--lr 0.5"),
    (("--models", "CustomMLP"), "--models"),
    (("--data_dir", "./data"), ""),
])  # fmt: skip
def test_a_trial_is_not_published(publishable, cli, monkeypatch, flags, tells):
    if "--data_dir" in flags:  # the same folder, but not the shipped images
        monkeypatch.setitem(dataset.SHIPPED, "test", "another digest")
    before = Path("README.md").read_text()
    code, out, err = cli(compare, *publishable, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and tells in err and "--publish" in err
    assert Path("README.md").read_text() == before and not RUNS.exists()


@pytest.mark.parametrize("flags, tells", [
    (("--seeds", 0), "--seeds 0"),
    (("--models", "VGG"), "LeNet5, LeNet5_regularization, CustomMLP"),
    (("--lr", -1), "--lr -1"),
    (("--recipe", "secret"), "baseline, best, record, fast"),
    (("--seed", 3), "--seed"),
])  # fmt: skip
def test_wrong_flags_are_refused_at_once(workplace, cli, flags, tells):
    code, out, err = cli(compare, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and tells in err
    assert not RUNS.exists()


def test_torchrun_is_refused(workplace, cli, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    code, out, err = cli(compare)
    assert (code, out, err.count("\n")) == (2, "", 1) and "torchrun" in err
