"""experiments/data_size.py: nested training sets, their runs, the committed study, a short one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_compare import between_markers

import dataset
import main
from compare import RESULTS
from comparison.runs import group_folder
from comparison.stats import METHOD
from experiments import data_size
from experiments.data_size import StudyArgs
from main import Args
from model import MODELS
from utils.checkpoint import RUNS, load_checkpoint
from utils.files import markers

SHORT = ("--models", "CustomMLP", "--sizes", 50, 300, "--seeds", 2, "--steps", 5)


def test_the_first_images_have_the_shares_of_the_whole_and_are_each_digits_first(workplace):
    labels = dataset.load_splits("data", 0)[0].labels
    order = data_size.nested_order(labels)
    assert sorted(order.tolist()) == list(range(2000))
    shares = labels.bincount() / 2000
    for size in (10, 100, 333, 1999):  # each a start of the same order: nested
        counts = labels[order[:size]].bincount(minlength=10)
        assert ((counts - size * shares).abs() < 1).all(), size
        for digit, count in enumerate(counts):
            own = order[:size][labels[order[:size]] == digit]
            assert torch.equal(own, torch.nonzero(labels == digit).flatten()[:count])


def test_a_run_sees_only_its_subset_and_each_image_as_often(small, monkeypatch):
    seen = []

    def train(model, batches, optimizer, scheduler):
        seen.extend(images for images, _, _ in batches)
        rates = []
        for _ in range(len(batches)):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert max(rates) == pytest.approx(0.05, rel=0.05) and rates[-1] < 0.001
        return 0.0, 0.0

    monkeypatch.setattr(data_size, "train", train)
    args = StudyArgs("CustomMLP", 1, 64, 0.05, schedule="onecycle", images=30, steps=15)
    data_size.run(args, Path("runs/one"))
    images, counts = torch.cat(seen).unique(dim=0, return_counts=True)
    assert (len(seen), len(images), set(counts.tolist())) == (15, 30, {32})
    training = dataset.load_splits("data", 0)[0]
    chosen = dataset.normalise(training.images[data_size.nested_order(training.labels)[:30]])
    assert torch.equal(images, chosen.unique(dim=0))


def test_its_runs_are_of_an_identity_of_their_own(monkeypatch):
    args, plain = StudyArgs(device="cpu"), Args(device="cpu")
    own = group_folder(args, ["data"], (data_size.run, data_size.nested_order))
    assert own == group_folder(args, ["data"], (data_size.run, data_size.nested_order))
    others = [group_folder(plain, ["data"]), group_folder(args, ["data"], (data_size.run,))]
    others.append(group_folder(StudyArgs(device="cpu", images=100), ["data"], (data_size.run,)))
    assert len({own, *others}) == 4


def test_images_needed_are_interpolated_in_their_logarithm():
    means = {100: 90.0, 1000: 94.0, 10_000: 98.0}
    assert data_size.images_for(means, 96) == round(1000 * 10**0.5)
    assert data_size.images_for(means, 98) == 10_000
    assert data_size.images_for(means, 99) is None
    sizes = list(means)
    cells = [data_size.format_images(n, sizes) for n in (3162, None, 100)]
    assert cells == ["3,200", "more than 10,000", "at most 100"]
    assert data_size.images_for(means, 80) == 100


def committed():
    """The committed study."""
    return json.loads((ROOT / "plots/results/data_size.json").read_text())


def test_results_page_holds_the_committed_study():
    table = between_markers(ROOT / "plots/results/README.md", "data_size")
    assert table == data_size.render(committed())


def test_committed_study_is_the_full_one():
    found = committed()
    assert (found["method"], found["seeds"], found["val_size"]) == (METHOD, 5, 0)
    assert (found["steps"], found["lr"]) == (data_size.STEPS, data_size.LR)
    keys = {(p["model_type"], p["augmented"], p["images"]) for p in found["points"]}
    assert keys == {(m, a, n) for m in MODELS for a in (False, True) for n in data_size.SIZES}
    for point in found["points"]:
        assert point["accuracy"]["mean"] == pytest.approx(np.mean(point["accuracies"]))


def test_a_short_study_is_kept_and_resumed(small, cli, monkeypatch, no_processes):
    RESULTS.mkdir(parents=True)
    (RESULTS / "README.md").write_text("{}\n{}\n".format(*markers("data_size")))
    code, out, err = cli(data_size, *SHORT)
    assert code == 0, err
    study = json.loads(Path("runs/data_size/data_size.json").read_text())
    assert data_size.render(study) in out
    with Image.open("runs/data_size/data_size.png") as image:
        assert image.width >= 800 and len(image.convert("RGB").getcolors(2**24)) > 50
    paths = list(RUNS.glob("compare/*/*/checkpoint.pt"))
    assert len(paths) == 8
    runs = [load_checkpoint(path.parent) for path in paths]
    wanted = {"images": 300, "seed": 1, "rotate": 7.0, "deskew": False, "steps": 5}
    (run,) = [run for run in runs if run["settings"].items() >= wanted.items()]
    (point,) = [p for p in study["points"] if p["images"] == 300 and p["augmented"]]
    assert point["accuracies"][1] == run["history"][-1]["test_accuracy"]

    # Started again, it trains only what is missing, and that comes out the same.
    for path in paths[:2]:
        path.unlink()
    trained = []
    monkeypatch.setattr(data_size, "test", lambda *_: trained.append(1) or main.test(*_))
    code, out, err = cli(data_size, *SHORT)
    assert code == 0 and len(trained) == 2
    again = json.loads(Path("runs/data_size/data_size.json").read_text())
    assert again["points"] == study["points"]

    # Published are full studies of the shipped data only.
    code, out, err = cli(data_size, *SHORT, "--publish")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--publish" in err
    code, out, err = cli(data_size, "--publish")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--data_dir data" in err
    assert [path.name for path in RESULTS.iterdir()] == ["README.md"]


@pytest.mark.parametrize("flags, tells", [
    (("--seeds", 0), "--seeds 0"),
    (("--sizes", 301, "--steps", 5), "--sizes 301"),
    (("--sizes", 0), "--sizes 0"),
    (("--sizes", 300, "--steps", 4), "--steps 4"),
    (("--sizes", 300, "--lr", 0), "--lr 0"),
    (("--models", "VGG"), "VGG"),
])  # fmt: skip
def test_wrong_flags_are_refused_at_once(small, cli, flags, tells):
    code, out, err = cli(data_size, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert tells in err and not RUNS.exists()
