"""The studies: their steps and training sets, and short ones with real runs."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

import compare
import dataset
import main
from experiments import ablation, data_size, robustness
from experiments.study import load_study
from experiments.subset import SubsetArgs, run_on_subset
from utils.checkpoint import RUNS, load_checkpoint

pytestmark = pytest.mark.usefixtures("empty_plots")


def trained(**settings):
    """Return the last epochs of the runs that a study has trained with these settings."""
    runs = [load_checkpoint(path.parent) for path in RUNS.glob("compare/*/*/checkpoint.pt")]
    return [run["history"][-1] for run in runs if run["settings"].items() >= settings.items()]


# --- Ablation ---------------------------------------------------------------------------------


def test_the_steps_lead_from_the_baseline_to_the_best_recipe_and_on_to_record():
    steps, names = ablation.all_steps(), list(ablation.STEPS)
    assert steps[names[0]] == ("steps", "", {})
    assert steps[names[-1]].settings == main.RECIPES["best"]
    assert steps["80 epochs"].settings == main.RECIPES["record"]
    for below, above in pairwise(names):
        assert steps[above].before == below
        old, new = steps[below].settings, steps[above].settings
        assert old != new and old.keys() <= new.keys()  # nothing is taken away
    assert {steps[name].before for name in [*ablation.KEPT, *ablation.EXTRAS]} == {names[-1]}


def test_a_short_ablation_touches_no_test_image_and_is_kept(fresh, cli, monkeypatch, no_processes):
    (fresh / "data/test.tar").unlink()
    monkeypatch.setattr(ablation, "STEPS", {"baseline": {"epochs": 1}, "higher lr": {"lr": 0.05}})
    monkeypatch.setattr(ablation, "KEPT", {"2 epochs": {"epochs": 2}})
    monkeypatch.setattr(ablation, "EXTRAS", {"batches of 100": {"batch_size": 100}})
    short = ("--models", "CustomMLP", "--seeds", 2, "--val_size", 100)
    code, _, err = cli(ablation, *short)
    assert (code, err.count("\n")) == (2, 1) and "do not add up to the recipe best" in err
    monkeypatch.setattr(ablation, "BEST", {"epochs": 1, "lr": 0.05})
    code, out, err = cli(ablation, *short, "--epochs", 1)
    assert code == 0, err
    study = load_study(Path("runs/ablation/ablation.json"))
    assert ablation.render(study) in out and Path("runs/ablation/ablation.png").exists()
    assert study.setup["data"] == "folder data, 200 training and 100 validation images"
    # --epochs leaves no step of 2 epochs.
    assert study.values("step") == ["baseline", "higher lr", "batches of 100"]
    assert len(trained()) == 6
    (last,) = trained(batch_size=100, seed=1)
    assert study.accuracies["CustomMLP", "batches of 100"][1] == last["val_accuracy"]
    code, out, _ = cli(ablation, *short)
    assert code == 0 and "6 of 8 runs are finished, 2 to train" in out and "| 2 epochs | " in out
    finals = [last["val_accuracy"] for last in trained(epochs=2)]
    last = load_study(Path("runs/ablation/ablation.json")).accuracies["CustomMLP", "2 epochs"]
    assert sorted(last) == sorted(finals)


# --- Data size --------------------------------------------------------------------------------


def test_the_first_images_have_the_shares_of_the_whole_and_are_each_class_first(real):
    labels = torch.tensor([int(name[6]) for name, _ in real["train"]])
    order = dataset.nested_order(labels)
    assert sorted(order.tolist()) == list(range(2000))
    shares = labels.bincount() / 2000
    for size in (10, 100, 333, 1999):  # each a start of the same order: nested
        counts = labels[order[:size]].bincount(minlength=10)
        assert ((counts - size * shares).abs() < 1).all(), size
        for label, count in enumerate(counts):
            chosen = order[:size][labels[order[:size]] == label]
            assert torch.equal(chosen, torch.nonzero(labels == label).flatten()[:count])


def test_a_run_sees_only_its_subset_and_each_image_as_often(small, monkeypatch):
    seen = []
    train = main.train

    def spy(model, batches, *rest):
        seen.extend(batches.images)
        return train(model, batches, *rest)

    monkeypatch.setattr(main, "train", spy)
    args = SubsetArgs("CustomMLP", 1, 64, 0.05, schedule="onecycle", images=30, steps=15)
    run_on_subset(args, Path("runs/one"), verbose=False)
    images, counts = torch.stack(seen).unique(dim=0, return_counts=True)
    assert (len(seen), len(images), set(counts.tolist())) == (15 * 64, 30, {32})
    training = dataset.load_splits("data", 0)[0]
    chosen = dataset.normalise(training.images[dataset.nested_order(training.labels)[:30]])
    assert torch.equal(images, chosen.unique(dim=0))


def test_images_needed_are_interpolated_in_their_logarithm():
    means = {100: 90.0, 1000: 94.0, 10_000: 98.0}
    assert data_size.images_for(means, 96) == round(1000 * 10**0.5)
    assert data_size.images_for(means, 98) == 10_000
    assert data_size.images_for(means, 99) is None
    assert data_size.images_for(means, 80) == 100
    cells = [data_size.format_images(n, list(means)) for n in (3162, None, 100)]
    assert cells == ["3,200", "more than 10,000", "at most 100"]


def test_a_short_study_of_sizes_is_kept_and_resumed(small, cli, no_processes):
    short = ("--models", "CustomMLP", "--sizes", 50, 300, "--seeds", 2, "--steps", 5)
    code, out, err = cli(data_size, *short)
    assert code == 0, err
    path = Path("runs/data_size/data_size.json")
    study = load_study(path)
    assert data_size.render(study) in out and Path("runs/data_size/data_size.png").exists()
    paths = list(RUNS.glob("compare/*/*/checkpoint.pt"))
    assert len(paths) == 8
    (last,) = trained(images=300, seed=1, rotate=7.0, deskew=False, steps=5)
    assert study.accuracies["CustomMLP", True, 300][1] == last["test_accuracy"]
    # Started again, it trains only what is missing, and that comes out the same.
    before = path.read_bytes()
    for missing in paths[:2]:
        missing.unlink()
    code, out, _ = cli(data_size, *short)
    assert code == 0 and "6 of 8 runs are finished, 2 to train" in out
    assert path.read_bytes() == before


# --- Robustness -------------------------------------------------------------------------------


def test_failures_are_found_on_either_side_of_the_neutral_strength():
    failures = robustness.failures
    assert failures({0: 98, 1: 95, 2: 85, 3: 95}, 0) == "1.5"
    assert failures({0: 98, 8: 91}, 0) == "never"
    assert failures({0.5: 80, 1: 100, 1.5: 91}, 1) == "0.75 and never"
    assert failures({0.1: 60, 0.5: 96, 1: 97}, 1) == "0.433"
    assert failures({0: 85, 1: 80}, 0) == "0"


def test_a_short_study_takes_finished_runs_as_they_were_tested(
    small, cli, monkeypatch, no_processes
):
    short = ("--models", "CustomMLP", "--seeds", 2, "--epochs", 1)
    assert cli(compare, *short)[0] == 0
    few = {"shift": robustness.PERTURBATIONS["shift"]._replace(strengths=(0, 2, 4, 8))}
    monkeypatch.setattr(robustness, "PERTURBATIONS", few)
    code, out, err = cli(robustness, *short)
    assert code == 0 and "2 of 4 runs are finished, 2 to train" in out, err
    study = load_study(Path("runs/robustness/robustness.json"))
    assert robustness.render(study) in out and Path("runs/robustness/robustness.png").exists()
    for recipe, first in robustness.FIRST_SEEDS.items():
        finals = [trained(seed=seed)[0]["test_accuracy"] for seed in (first, first + 1)]
        unchanged = study.accuracies[recipe, "CustomMLP", "shift", 0]
        assert unchanged.tolist() == pytest.approx(finals)
    moved = study.accuracies["best", "CustomMLP", "shift", 8]
    assert moved.tolist() != unchanged.tolist()
