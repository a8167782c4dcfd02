"""compare.py: the statistics, the committed results, and many runs that survive anything."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_parallel import torchrun

import compare
import main

QUICK = ("--models", "CustomMLP", "LeNet5", "--epochs", 2, "--lr", 0.02, "--seeds", 2)


COMMITTED = {
    "results": ("baseline", range(10), compare.ORDER),
    "results_best": ("best", range(10, 20), compare.ORDER),
    "results_fast": ("fast", range(10, 20), ("LeNet5_regularization",)),
}


def results(name="results"):
    """Committed results."""
    return json.loads((ROOT / f"plots/{name}.json").read_text())


# --- Statistics -------------------------------------------------------------------------------


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(98.7, 0.15, size=(400, 10))
    intervals = np.array([compare.interval(list(values)) for values in draws])
    covered = (intervals[:, 0] < 98.7) & (intervals[:, 1] > 98.7)
    assert 0.90 < covered.mean() < 0.97


def test_interval_of_known_values():
    low, high = compare.interval([1.0, 2.0, 3.0, 4.0])
    # The variance of resampled means is 1.25 / 4, widened by 4 / 3: a deviation of 0.645.
    assert low == pytest.approx(2.5 - 1.96 * 0.645, abs=0.15)
    assert high == pytest.approx(2.5 + 1.96 * 0.645, abs=0.15)
    assert compare.interval([5.0, 5.0]) == [5.0, 5.0]
    assert compare.interval([5.0]) is None


def fake_runs(**finals):
    """Runs of one epoch with the given final test accuracies."""
    return [
        {"model_type": name, "seed": seed,
         "curves": {"test_accuracy": [value], "test_loss": [0.1],
                    "train_accuracy": [value], "train_loss": [0.1]}}
        for name, values in finals.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip


def test_differences_are_paired_by_seed_and_name_the_better():
    # The seeds differ by 2 points, the models within a seed by 0.5 to 0.6.
    (pair,) = compare.pair_up(fake_runs(LeNet5=[97.5, 98.6, 99.5], CustomMLP=[97.0, 98.0, 99.0]))
    assert (pair["better"], pair["than"], pair["n"]) == ("LeNet5", "CustomMLP", 3)
    assert pair["mean"] == pytest.approx(1.6 / 3)
    assert 0.48 < pair["interval"][0] < pair["mean"] < pair["interval"][1] < 0.63
    assert compare.verdict(pair).startswith("LeNet-5 is better than CustomMLP by 0.53 [")
    (pair,) = compare.pair_up(fake_runs(LeNet5=[97.0, 98.0], CustomMLP=[98.0, 99.0]))
    assert (pair["better"], pair["mean"]) == ("CustomMLP", 1.0)


def test_verdict_admits_what_the_runs_do_not_tell():
    (pair,) = compare.pair_up(fake_runs(LeNet5=[97.0, 99.0], CustomMLP=[98.0, 97.9]))
    assert "not told apart by 2 runs" in compare.verdict(pair)
    (pair,) = compare.pair_up(fake_runs(LeNet5=[97.0], CustomMLP=[98.0]))
    assert "one run each tells nothing" in compare.verdict(pair)


# --- The committed results --------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMITTED)
def test_readme_holds_the_table_of_the_committed_results(name):
    text = (ROOT / "README.md").read_text()
    first, last = compare.markers(name)
    inside = text.split(first)[1].split(last)[0]
    assert inside.strip() == compare.render_table(results(name))


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_statistics_follow_from_the_committed_runs(name):
    found = results(name)
    assert found["method"] == compare.METHOD
    assert found["summary"] == compare.summarise(found["runs"])
    assert found["differences"] == compare.pair_up(found["runs"])
    recipe, expected_seeds, expected_models = COMMITTED[name]
    for setting, value in main.RECIPES[recipe].items():
        assert found["settings"].get(setting, value) == value
    seeds = {}
    for run in found["runs"]:
        seeds.setdefault(run["model_type"], []).append(run["seed"])
        assert run["curves"]["epoch"] == list(range(1, found["settings"]["epochs"] + 1))
    assert seeds == {model_type: list(expected_seeds) for model_type in expected_models}
    finals = [run["curves"]["test_accuracy"][-1] for run in found["runs"][:10]]
    mean = found["summary"][expected_models[0]]["final"]["test_accuracy"]["mean"]
    assert mean == pytest.approx(sum(finals) / 10)


# --- Many runs --------------------------------------------------------------------------------


def test_runs_are_made_kept_and_told(workplace, cli):
    readme = "Before\n{}\nold\n{}\nAfter\n".format(*compare.markers("results"))
    (workplace / "README.md").write_text(readme)
    code, out, err = cli(compare, *QUICK)
    assert code == 0, err
    found = json.loads(Path("plots/results.json").read_text())
    table = compare.render_table(found)
    assert out.endswith(table + "\n")
    expected = readme.replace("\nold\n", f"\n{table}\n")
    assert Path("README.md").read_text() == expected
    names = {f"comparison_{part}" for part in ("accuracy", "loss", "final")} | {"filters_LeNet5"}
    for model_type in ("CustomMLP", "LeNet5"):
        names |= {f"confusion_matrix_{model_type}", f"misclassified_{model_type}"}
    assert {path.stem for path in Path("plots").glob("*.png")} == names
    for name in names:
        with Image.open(f"plots/{name}.png") as image:
            assert image.width >= 900 and len(image.convert("RGB").getcolors(2**24)) > 50

    # A run of compare.py is a run of main.py, on one thread.
    flags = ("--model_type", "CustomMLP", "--epochs", 2, "--lr", 0.02, "--seed", 1, "--name", "one")
    environment = [sys.executable, str(ROOT / "main.py"), *map(str, flags)]
    subprocess.run(environment, check=True, env={"OMP_NUM_THREADS": "1"}, capture_output=True)
    checkpoint = main.load_checkpoint(Path("runs/one"))[1]
    (run,) = [r for r in found["runs"] if (r["model_type"], r["seed"]) == ("CustomMLP", 1)]
    assert run["curves"]["test_loss"] == [row["test_loss"] for row in checkpoint["history"]]

    before = {path: path.stat().st_mtime_ns for path in Path("runs/compare").rglob("*.pt")}
    code, out, _ = cli(compare, *QUICK)
    assert code == 0 and "4 of 4 runs are there, 0 to train" in out
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs/compare").rglob("*.pt")}


def test_another_recipe_leaves_the_baseline_alone(workplace, cli):
    first, last = compare.markers("results_best")
    (workplace / "README.md").write_text(f"{first}\n{last}\n")
    flags = ("--recipe", "best", "--models", "CustomMLP", "--epochs", 1, "--seeds", 2)
    code, out, err = cli(compare, *flags, "--first_seed", 7, "--batch_size", 50, "--at_once", 1)
    assert code == 0, err
    lr = main.RECIPES["best"]["lr"]
    assert f"Settings other than the defaults: batch_size 50, lr {lr}, " in out
    assert "Seconds of a run, its tests included: CustomMLP " in out  # one at a time
    assert "earlier report" not in out
    found = json.loads(Path("plots/results_best.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [7, 8]
    expected = main.RECIPES["best"] | {"epochs": 1, "batch_size": 50}
    assert expected.items() <= found["settings"].items()
    assert compare.render_table(found) in Path("README.md").read_text()
    assert "(seeds 7 to 8)" in out
    assert all(path.stem.endswith("_best") for path in Path("plots").iterdir())


def test_killed_comparison_goes_on_with_what_is_missing(workplace, cli):
    flags = ("--models", "CustomMLP", "--seeds", "3", "--epochs", "3")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "compare.py"), *flags], stdout=subprocess.PIPE, text=True
    )
    while "test accuracy" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    code, out, err = cli(compare, *flags)
    assert code == 0, err
    assert "0 of 3 runs are there" not in out
    found = json.loads(Path("plots/results.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [0, 1, 2]


def test_failed_run_is_reported_and_the_rest_goes_on(workplace, cli):
    args = main.Args(model_type="CustomMLP", seed=1, epochs=1)
    folder = workplace / compare.folder_of(args)
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    code, out, err = cli(compare, "--models", "CustomMLP", "--seeds", 3, "--epochs", 1)
    assert code == 2
    assert "1 runs failed: CustomMLP-seed1" in err and "damaged" in err
    assert "Means of 2 runs" in out and "Traceback" not in err


def test_runs_are_shared_out_over_processes(workplace):
    flags = ("--models", "CustomMLP", "--seeds", 3, "--epochs", 1)
    code, out, err = torchrun(ROOT / "compare.py", *flags)
    assert code == 0, err
    assert out.count("| CustomMLP |") == 1  # one process tells the results
    assert sorted(line for line in out.splitlines() if "to train" in line) == [
        "0 of 1 runs are there, 1 to train",
        "0 of 2 runs are there, 2 to train",
    ]
    found = json.loads(Path("plots/results.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [0, 1, 2]


@pytest.mark.parametrize("flags, tells", [
    (("--seeds", 0), "--seeds 0"),
    (("--models", "VGG"), "LeNet5, LeNet5_regularization, CustomMLP"),
    (("--lr", -1), "--lr -1"),
    (("--seed", 3), "--seed"),
])  # fmt: skip
def test_wrong_flags_are_refused_at_once(workplace, cli, flags, tells):
    code, out, err = cli(compare, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and tells in err
    assert not RUNS.exists()
