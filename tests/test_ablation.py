"""ladder.py: the committed ladder, its gains, and a short climb with real runs."""

import json
from itertools import pairwise
from pathlib import Path

import ladder
import pytest
from conftest import ROOT, load_run
from PIL import Image

import compare
import main


def committed():
    """The committed ladder."""
    return json.loads((ROOT / "plots/ladder.json").read_text())


def test_the_rungs_climb_from_the_baseline_to_the_best_recipe():
    found = ladder.steps()
    assert found[0] == ("baseline", "", {})
    rungs = [step for step in found if step[0] in ladder.RUNGS]
    assert rungs[-1][2] == main.RECIPES["best"]
    for below, above in pairwise(rungs):
        assert above[1] == below[0]
        assert below[2] != above[2] and below[2].keys() <= above[2].keys()  # nothing is taken away
    for name, compared_with, settings in found[len(rungs) :]:
        assert compared_with == rungs[-1][0] and settings != main.RECIPES["best"], name


def test_gains_are_paired_by_seed(monkeypatch):
    monkeypatch.setattr(ladder, "RUNGS", {"baseline": {}, "schedule": {"schedule": "onecycle"}})
    monkeypatch.setattr(ladder, "SIDE_STEPS", {"aside": {"lr": 9.0}})
    accuracies = {"baseline": [97.0, 98.0], "schedule": [97.5, 98.7], "aside": [97.4, 98.5]}
    first, second, aside = ladder.measure("LeNet5", accuracies)
    assert "gain" not in first and first["accuracy"]["mean"] == 97.5
    assert second["gain"]["mean"] == pytest.approx(0.6)
    assert 0.4 < second["gain"]["interval"][0] < second["gain"]["interval"][1] < 0.8
    assert aside["side_step"] and aside["compared_with"] == "schedule"
    assert aside["gain"]["mean"] == pytest.approx(-0.15)


def test_readme_holds_the_committed_ladder():
    first, last = compare.markers("ladder")
    inside = (ROOT / "README.md").read_text().split(first)[1].split(last)[0]
    assert inside.strip() == ladder.render(committed())


def test_committed_ladder_is_of_these_steps_and_follows_from_its_runs():
    found = committed()
    assert found["method"] == compare.METHOD
    assert (found["seeds"], found["epochs"], found["val_size"]) == (5, 20, 10_000)
    for model_type in ("LeNet5", "CustomMLP"):
        own = [step for step in found["steps"] if step["model_type"] == model_type]
        assert [step["step"] for step in own] == [name for name, *_ in ladder.steps()]
        accuracies = {step["step"]: step["accuracies"] for step in own}
        assert own == ladder.measure(model_type, accuracies)


def test_a_short_climb_touches_no_test_image_and_is_kept(workplace, cli, monkeypatch):
    (workplace / "data/test.tar").unlink()
    first, last = compare.markers("ladder")
    (workplace / "README.md").write_text(f"{first}\n{last}\n")
    monkeypatch.setattr(ladder, "RUNGS", {"baseline": {}, "higher lr": {"lr": 0.05}})
    monkeypatch.setattr(ladder, "SIDE_STEPS", {"batches of 100": {"batch_size": 100}})
    flags = ("--models", "CustomMLP", "--seeds", 2, "--epochs", 1, "--val_size", 300)
    code, out, err = cli(ladder, *flags)
    assert code == 0, err
    found = json.loads(Path("plots/ladder.json").read_text())
    assert out.endswith(ladder.render(found) + "\n")
    assert ladder.render(found) in Path("README.md").read_text()
    with Image.open("plots/ladder.png") as image:
        assert image.width >= 900 and len(image.convert("RGB").getcolors(2**24)) > 50
    last_step = found["steps"][-1]
    args = main.Args(model_type="CustomMLP", seed=1, epochs=1, val_size=300, **last_step["settings"])
    rows, checkpoint = load_run(compare.folder_of(args).relative_to("runs"))
    assert last_step["settings"]["batch_size"] == checkpoint["settings"]["batch_size"] == 100
    assert last_step["accuracies"][1] == rows[-1]["test_accuracy"]
    code, out, _ = cli(ladder, *flags)
    assert code == 0 and "6 of 6 runs are there, 0 to train" in out


@pytest.mark.parametrize("flags, tells", [
    (("--seeds", 0), "--seeds 0"),
    (("--val_size", 0), "--val_size 0"),
    (("--val_size", 5000), "--val_size 5000"),
    (("--models", "VGG"), "VGG"),
])  # fmt: skip
def test_wrong_flags_are_refused_at_once(workplace, cli, flags, tells):
    code, out, err = cli(ladder, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert tells in err and not RUNS.exists()
