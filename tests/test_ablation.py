"""experiments/ablation.py: the committed ablation, its gains, and a short one with real runs."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_compare import between_markers

import dataset
import main
from compare import RESULTS
from comparison.stats import METHOD
from experiments import ablation
from utils.checkpoint import RUNS, load_checkpoint
from utils.files import markers

SHORT = ("--models", "CustomMLP", "--seeds", 2, "--epochs", 1, "--val_size", 300)


def committed():
    """The committed ablation."""
    return json.loads((ROOT / "plots/results/ablation.json").read_text())


def test_the_steps_lead_from_the_baseline_to_the_best_recipe_and_on_to_record():
    found = ablation.all_steps()
    assert found[0] == ("baseline", "", {})
    steps = [step for step in found if step[0] in ablation.STEPS]
    assert steps[-1][2] == main.RECIPES["best"]
    for below, above in pairwise(steps):
        assert above[1] == below[0]
        assert below[2] != above[2] and below[2].keys() <= above[2].keys()  # nothing is taken away
    for name, compared_with, settings in found[len(steps) :]:
        assert compared_with == steps[-1][0] and settings != steps[-1][2], name
    (kept,) = ablation.KEPT
    assert found[len(steps)][0] == kept and found[len(steps)][2] == main.RECIPES["record"]


def test_gains_are_paired_by_seed(monkeypatch):
    monkeypatch.setattr(ablation, "STEPS", {"baseline": {}, "schedule": {"schedule": "onecycle"}})
    monkeypatch.setattr(ablation, "KEPT", {})
    monkeypatch.setattr(ablation, "EXTRAS", {"aside": {"lr": 9.0}})
    accuracies = {"baseline": [97.0, 98.0], "schedule": [97.5, 98.7], "aside": [97.4, 98.5]}
    first, second, aside = ablation.measure("LeNet5", accuracies)
    assert "gain" not in first and first["accuracy"]["mean"] == 97.5
    assert second["gain"]["mean"] == pytest.approx(0.6)
    # t with 1 degree of freedom is 12.706, the standard error 0.1.
    assert second["gain"]["interval"] == pytest.approx([0.6 - 1.2706, 0.6 + 1.2706], abs=1e-3)
    assert aside["block"] == "extra" and aside["compared_with"] == "schedule"
    assert aside["gain"]["mean"] == pytest.approx(-0.15)


def test_results_page_holds_the_committed_ablation():
    table = between_markers(ROOT / "plots/results/README.md", "ablation")
    assert table == ablation.render(committed())


def test_committed_ablation_is_of_these_steps_and_follows_from_its_runs():
    found = committed()
    assert found["method"] == METHOD
    assert (found["seeds"], found["epochs"], found["val_size"]) == (5, None, 10_000)
    for model_type in ("LeNet5", "CustomMLP"):
        own = [step for step in found["steps"] if step["model_type"] == model_type]
        assert [step["step"] for step in own] == [name for name, *_ in ablation.all_steps()]
        accuracies = {step["step"]: step["accuracies"] for step in own}
        assert own == ablation.measure(model_type, accuracies)


@pytest.fixture
def short(workplace, monkeypatch):
    """Two steps and an extra, without a test set, and a page to publish on."""
    (workplace / "data/test.tar").unlink()
    steps = {"baseline": {"epochs": 1}, "higher lr": {"lr": 0.05}}
    monkeypatch.setattr(ablation, "STEPS", steps)
    monkeypatch.setattr(ablation, "KEPT", {"2 epochs": {"epochs": 2}})
    monkeypatch.setattr(ablation, "EXTRAS", {"batches of 100": {"batch_size": 100}})
    RESULTS.mkdir(parents=True)
    (RESULTS / "README.md").write_text("{}\n{}\n".format(*markers("ablation")))


def test_a_short_ablation_touches_no_test_image_and_is_kept(short, cli, monkeypatch, no_processes):
    code, out, err = cli(ablation, *SHORT)
    assert code == 0, err
    found = json.loads(Path("runs/ablation/ablation.json").read_text())
    assert ablation.render(found) in out
    assert "Data: folder data, 1,700 training and 300 validation images" in out
    for name in ("ablation", "augmentation"):
        with Image.open(f"runs/ablation/{name}.png") as image:
            assert image.width >= 800 and len(image.convert("RGB").getcolors(2**24)) > 50
    assert [path.name for path in RESULTS.iterdir()] == ["README.md"]
    names = [step["step"] for step in found["steps"]]  # --epochs leaves no step of 2 epochs
    assert names == ["baseline", "higher lr", "batches of 100"]
    last = found["steps"][-1]
    runs = [load_checkpoint(path.parent) for path in RUNS.glob("compare/*/*/checkpoint.pt")]
    assert len(runs) == 6
    (run,) = [
        run for run in runs
        if (run["settings"]["seed"], run["settings"]["batch_size"]) == (1, 100)
    ]  # fmt: skip
    assert last["accuracies"][1] == run["history"][-1]["val_accuracy"]

    # Published are full ablations of the shipped data only.
    code, out, err = cli(ablation, *SHORT, "--publish")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--publish" in err
    for name, value in (("VAL_SIZE", 300), ("NETWORKS", ["CustomMLP"])):
        monkeypatch.setattr(ablation, name, value)
    code, out, err = cli(ablation, "--publish")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--data_dir data" in err
    assert [path.name for path in RESULTS.iterdir()] == ["README.md"]
    training, validation = dataset.load_splits("data", 300)
    whole = dataset.Split(*(torch.cat(parts) for parts in zip(training, validation, strict=True)))
    monkeypatch.setattr(dataset, "SHIPPED", {"train": dataset.digest(whole)})
    code, out, err = cli(ablation, "--publish")
    assert code == 0, err
    assert len(list(RUNS.glob("compare/*/*/checkpoint.pt"))) == 20
    found = json.loads((RESULTS / "ablation.json").read_text())
    assert found["steps"][2]["settings"]["epochs"] == 2
    assert "| 2 epochs | " in ablation.render(found)
    assert between_markers(RESULTS / "README.md", "ablation") == ablation.render(found)
    assert {path.name for path in RESULTS.glob("*.png")} == {
        "ablation.png",
        "augmentation.png",
    }


@pytest.mark.parametrize("flags, tells", [
    (("--seeds", 0), "--seeds 0"),
    (("--val_size", 0), "--val_size 0"),
    (("--val_size", 5000), "--val_size 5000"),
    (("--models", "VGG"), "VGG"),
])  # fmt: skip
def test_wrong_flags_are_refused_at_once(workplace, cli, flags, tells):
    code, out, err = cli(ablation, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert tells in err and not RUNS.exists()
