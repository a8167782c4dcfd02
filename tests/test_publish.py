"""experiments/publish.py, and what is published: tables and findings agree with the JSON."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import compare
import dataset
import main
from compare import hard_images
from comparison.results import (
    load_comparison,
    network_differences,
    pack_comparison,
    recipe_difference,
)
from comparison.stats import METHOD
from comparison.tables import comparison_tables
from experiments import data_size, publish, robustness
from experiments.study import load_study, pack_study
from model import MODELS, TITLES
from utils.checkpoint import RUNS, load_checkpoint, load_weights

PAGE, README = ROOT / "plots/results/README.md", ROOT / "README.md"
SEEDS = {"baseline": range(10), "best": range(10, 20), "record": range(30, 40),
         "fast": range(10, 20)}  # fmt: skip


def results(name):
    """A recipe's published comparison."""
    return load_comparison(ROOT / f"plots/results/{name}.json")


def study(name):
    """A published study."""
    return load_study(ROOT / f"plots/results/{name}.json")


def plain(path):
    """A page's text, in one line."""
    return re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))


# --- What is published ------------------------------------------------------------------------


def test_published_tables_are_those_of_the_published_results(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(publish, "RUNS", tmp_path)  # without costs
    sources = {path.stem: path for path in publish.RESULTS.glob("*.json")}
    for path, content in publish.table_files(sources).items():
        assert path.read_bytes() == content, path


@pytest.mark.parametrize("recipe", SEEDS)
def test_published_comparisons_are_full_ones(recipe):
    comparison = results(recipe)
    settings = comparison.setup["settings"]
    for name, value in main.RECIPES[recipe].items():
        assert settings.get(name, value) == value
    assert comparison.setup["shipped"] and comparison.setup["method"] == METHOD
    for runs in comparison.networks.values():
        assert runs.seeds.tolist() == list(SEEDS[recipe])
        assert runs.curves["test_accuracy"].shape == (10, settings["epochs"])
        assert 100 * runs.correct_shares.mean() == pytest.approx(runs.accuracies.mean(), abs=0.011)
        # On another processor a single image may fall to the other side.
        assert runs.hits.sum(axis=1) / 100 == pytest.approx(runs.accuracies, abs=0.021)
    intervals = re.findall(r"\[([-\d.]+), ([-\d.]+)\]", comparison_tables(comparison, settings))
    assert len(intervals) > 15 and all(0 <= float(high) <= 100 for _, high in intervals)


def test_published_studies_are_full_ones():
    for name in publish.STUDIES:
        publish.check_study(name, study(name))
    perturbed = study("robustness")
    for recipe in robustness.FIRST_SEEDS:
        for model_type, runs in results(recipe).networks.items():
            for name, about in robustness.PERTURBATIONS.items():
                mean = perturbed.summary(recipe, model_type, name, about.neutral).mean
                assert mean == pytest.approx(runs.accuracies.mean(), abs=0.02)


# --- Findings, which are written by hand ------------------------------------------------------


def gain(recipe, better, than):
    """How much better a network is with a recipe, and whether that is significant."""
    difference = network_differences(results(recipe).networks)[better, than]
    return f"{difference.mean:.2f}", difference.verdict == "significant"


def brought(recipe, other):
    """What a recipe brings each network: (text, whether significant) of each network."""
    new, old = results(recipe).networks, results(other).networks
    differences = [recipe_difference(new[name], old[name]) for name in MODELS if name in new]
    return [(f"{d.mean:.2f}", d.verdict == "significant") for d in differences]


def test_findings_on_networks_and_recipes_are_those_of_the_json():
    readme, page = plain(README), plain(PAGE)
    cnn = [gain(recipe, "LeNet5", "CustomMLP") for recipe in ("baseline", "best", "record")]
    assert all(significant for _, significant in cnn)
    assert (
        f"LeNet-5 is better than CustomMLP by {cnn[0][0]} points with `baseline`, by {cnn[1][0]} "
        f"with `best` and by {cnn[2][0]} with `record`, each difference significant." in readme
    )
    points, significant = gain("baseline", "LeNet5_regularization", "LeNet5")
    assert significant
    assert f"brings LeNet-5 {points} points with `baseline`, which is significant;" in readme
    for recipe in ("best", "record"):
        assert not gain(recipe, "LeNet5", "LeNet5_regularization")[1]
    best, record = brought("best", "baseline"), brought("record", "best")
    text = "brings LeNet-5 {} points, LeNet-5 with regularization {} and CustomMLP {},"
    text = text.format(*(points for points, _ in best))
    assert text in readme and text in page and all(significant for _, significant in best)
    text = "{}, {} and {}".format(*(points for points, _ in record))
    assert f"bring another {text}; only CustomMLP's gain is significant." in readme
    assert f"bring {text} points; only CustomMLP's gain is significant." in page
    assert [significant for _, significant in record] == [False, False, True]
    ((points, significant),) = brought("fast", "baseline")
    text = f"gives LeNet-5 with regularization {points} points more than 20 epochs of `baseline`"
    assert f"{text}, not significant" in readme and f"{text}, not significant" in page
    assert not significant


def test_findings_on_images_and_seconds_are_those_of_the_json():
    readme, page = plain(README), plain(PAGE)
    everywhere, alone = zip(
        *([len(places) for places in hard_images(results(recipe)).values()]
          for recipe in ("baseline", "best", "record")), strict=True,
    )  # fmt: skip
    assert (
        "all runs of all networks misclassify {} with `baseline`, {} with `best` and {} with "
        "`record`; all runs of CustomMLP, but none of LeNet-5, another {}, {} and {}."
    ).format(*everywhere, *alone) in readme
    for both, one in zip(everywhere, alone, strict=True):
        assert re.search(rf"all networks misclassify {both}\b.{{,80}} another {one}\.", page, re.I)
    seconds = results("fast").networks["LeNet5_regularization"].curves["seconds"].sum(axis=1)
    ends = f"{seconds.min():.1f} to {seconds.max():.1f}"
    assert f"takes {np.median(seconds):.1f} seconds (median of 10; {ends})" in page


def test_findings_on_robustness_are_those_of_the_json():
    page, perturbed = plain(PAGE), study("robustness")
    rows, places = {}, {}
    for recipe in ("baseline", "best"):
        for name, about in robustness.PERTURBATIONS.items():
            for strength in about.in_table:
                means = [perturbed.summary(recipe, m, name, strength).mean for m in MODELS]
                rows[recipe, name, strength] = np.array(means)
        table = np.array([row for key, row in rows.items() if key[0] == recipe])
        for extreme, column in (("high", table.argmax(axis=1)), ("low", table.argmin(axis=1))):
            places[extreme, recipe] = np.bincount(column, minlength=3).tolist()
    high = list(zip(places["high", "baseline"], places["high", "best"], strict=True))
    low = list(zip(places["low", "baseline"], places["low", "best"], strict=True))
    assert (
        f"Of the {len(rows) // 2} rows of the first table LeNet-5 has the highest mean in "
        f"{high[0][0]} with `baseline` and in {high[0][1]} with `best`, LeNet-5 with "
        f"regularization in {high[1][0]} and {high[1][1]}, CustomMLP in {high[2][0]} and "
        f"{high[2][1]}. The lowest mean is CustomMLP's in {low[2][0]} and {low[2][1]} rows, that "
        f"of LeNet-5 with regularization in {low[1][0]} and {low[1][1]}." in page
    )
    (recipe, name, strength), row = max(rows.items(), key=lambda item: np.ptp(item[1]))
    assert (
        f"differ most at {name} {strength:g} with `{recipe}`, by {np.ptp(row):.1f} points: "
        f"{TITLES[list(MODELS)[row.argmax()]]} {row.max():.1f} %, "
        f"{TITLES[list(MODELS)[row.argmin()]]} {row.min():.1f} %." in page
    )
    gains = {key[1:]: rows["best", *key[1:]] - row for key, row in rows.items()
             if key[0] == "baseline"}  # fmt: skip
    least = min(gains.items(), key=lambda item: item[1].min())
    most = max(gains.items(), key=lambda item: item[1].max())
    assert (least[0], most[0]) == (("contrast", 0.1), ("shift", 8))
    assert (
        f"between {least[1].min():+.1f} points (LeNet-5, contrast 0.1) and {most[1].max():+.1f} "
        "points (LeNet-5, shift by 8 pixels" in page
    )
    assert least[1].argmin() == most[1].argmax() == 0


def test_findings_on_data_size_are_those_of_the_json():
    page, sizes = plain(PAGE), study("data_size")
    factors, table = [], {}
    for augmented in (False, True):
        means = {name: data_size.means(sizes, name, augmented) for name in MODELS}
        needed = [data_size.images_for(means[name], 95) for name in MODELS]
        assert (np.argmax(needed), np.argmin(needed)) == (2, 1)
        factors.append(f"{max(needed) / min(needed):.1f} times")
        for size in data_size.SIZES:
            table[augmented, size] = np.array([means[name][size] for name in MODELS])
    assert (
        f"For 95 % CustomMLP needs {factors[0]} as many images as LeNet-5 with regularization, "
        f"with augmentation {factors[1]}." in page
    )
    spreads = {key: np.ptp(row) for key, row in table.items()}
    most, least = max(spreads, key=spreads.get), min(spreads, key=spreads.get)
    assert (most, least) == ((False, 100), (True, 30_000))
    assert (
        f"differ most with 100 images and no augmentation, by {spreads[most]:.1f} points, and "
        f"least with 30,000 images and augmentation, by {spreads[least]:.1f}." in page
    )
    gains = np.array([table[True, size] - table[False, size] for size in data_size.SIZES])
    assert np.unravel_index(gains.argmin(), gains.shape) == (6, 1)
    assert np.unravel_index(gains.argmax(), gains.shape) == (0, 0)
    assert (
        f"between {gains.min():.2f} points (LeNet-5 with regularization, 60,000 images) and "
        f"{gains.max():.2f} points (LeNet-5, 100 images)." in page
    )


# --- Publishing -------------------------------------------------------------------------------


@pytest.fixture
def compared(small, cli, monkeypatch, no_processes):
    """A finished comparison of a tiny recipe, on data that is taken for the shipped one."""
    splits = zip(dataset.SPLITS, dataset.load_splits("data", 0), strict=True)
    for name, split in splits:
        monkeypatch.setitem(dataset.SHIPPED, name, dataset.digest(split))
    tiny = {"model_type": "CustomMLP", "epochs": 1, "lr": 0.02}
    for module in (compare, publish):
        monkeypatch.setattr(module, "RECIPES", {"baseline": {}, "tiny": tiny})
    monkeypatch.setattr(publish, "WEIGHTS_RECIPE", "tiny")
    monkeypatch.setattr(publish, "SEEDS", 2)
    monkeypatch.setattr(publish, "temperature_of", lambda model_type: 0.75)
    publish.RESULTS.mkdir(parents=True)
    names = ("recipes", "tiny")
    text = "".join(f"<!-- {n}: written by a script -->\n<!-- end of {n} -->\n" for n in names)
    (publish.RESULTS / "README.md").write_text(f"Before\n{text}After\n")
    Path("README.md").write_text(text.replace("tiny", "results").replace("recipes", "costs"))
    costs = {"processor": "a CPU", "seconds": {"python main.py": [3.0, 2.0, 9.0]}}
    (RUNS / "costs.json").parent.mkdir(exist_ok=True)
    (RUNS / "costs.json").write_text(json.dumps(costs))
    code, _, err = cli(compare, "--recipe", "tiny", "--first_seed", 3, "--seeds", 2)
    assert code == 0, err
    return small


def test_publishing_writes_tables_pictures_json_and_the_first_weights(compared, cli):
    code, out, err = cli(publish)
    assert code == 0 and "published as tiny" in out, err
    comparison = load_comparison(publish.RESULTS / "tiny.json")
    page = (publish.RESULTS / "README.md").read_text()
    defaults = dataclasses.asdict(main.Args())
    assert page.startswith("Before\n") and page.endswith("After\n")
    assert comparison_tables(comparison, defaults) in page
    readme = Path("README.md").read_text()
    assert publish.summary_table({"tiny": comparison}) in readme
    assert "on a CPU" in readme and "| `python main.py` | 3 |" in readme
    pictures = {path.name for path in publish.RESULTS.glob("*.png")}
    assert pictures == {f"{name}_tiny.png" for name in (
        "final", "digits", "hard_images", "confusion_matrix_CustomMLP", "misclassified_CustomMLP",
    )}  # fmt: skip
    settings, weights = load_weights("data/weights/CustomMLP.pt")
    assert settings == {"model_type": "CustomMLP", "deskew": False, "temperature": 0.75}
    (folder,) = RUNS.glob("compare/*/CustomMLP-*-seed3")
    trained = load_checkpoint(folder)["model"]
    assert all(torch.equal(value, trained[name]) for name, value in weights.items())


@pytest.mark.parametrize("change, tells", [
    ({"shipped": False}, "not the shipped data"),
    ({"settings": {"lr": 0.5}}, "no recipe"),
])  # fmt: skip
def test_what_is_not_full_is_left_out(compared, cli, change, tells):
    (path,) = RUNS.glob("compare/*/results.json")
    comparison = load_comparison(path)
    settings = comparison.setup["settings"] | change.pop("settings", {})
    comparison.setup |= change | {"settings": settings}
    path.write_bytes(pack_comparison(comparison))
    before = {path: path.read_bytes() for path in publish.RESULTS.iterdir()}
    code, out, err = cli(publish, path.parent)
    assert (code, out, err.count("\n")) == (2, "", 1) and tells in err
    code, out, _ = cli(publish)
    assert code == 0 and "left out" in out and tells in out
    assert {path for path in publish.RESULTS.iterdir()} == set(before)


def test_a_trial_of_a_study_is_not_published(tmp_path):
    whole = study("ablation")
    for change, tells in (
        ({"seeds": 3}, "3 seeds"),
        ({"val_size": 300}, "val_size 300"),
        ({"shipped": False}, "not the shipped data"),
    ):
        path = tmp_path / "ablation.json"
        path.write_bytes(pack_study(dataclasses.replace(whole, setup=whole.setup | change)))
        with pytest.raises(publish.UserError, match=tells):
            publish.check_results(path)
    few = {key: values for key, values in whole.accuracies.items() if key[0] == "LeNet5"}
    path.write_bytes(pack_study(dataclasses.replace(whole, accuracies=few)))
    with pytest.raises(publish.UserError, match="model_type"):
        publish.check_results(path)
