"""experiments/publish.py, and what is published: tables and findings agree with the JSON."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, decode, results, study
from PIL import Image
from scipy import ndimage

import compare
import dataset
import main
from compare import hard_images
from comparison.results import (
    accuracy_difference,
    load_comparison,
    network_differences,
    pack_comparison,
)
from comparison.tables import comparison_tables
from experiments import data_size, pendigits, publish, robustness, swiss, weights
from experiments.study import pack_study
from model import MODELS, TITLES
from predict import load_images
from reading.classifier import classify, load_classifier
from utils.archives import read_archive
from utils.checkpoint import RUNS, load_checkpoint, load_weights
from utils.files import UserError

SHOWN = ("baseline", "best", "record")  # of all networks


# --- What is published ------------------------------------------------------------------------


def test_published_tables_are_those_of_the_published_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path, content in publish.table_files().items():
        assert path.read_bytes() == content, path


def test_published_plots_are_those_of_the_published_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path, content in publish.plot_files().items():
        drawn, published = (np.asarray(Image.open(file)) for file in (io.BytesIO(content), path))
        # Another word is 500 pixels or more; processors differ in the last bits.
        assert drawn.shape == published.shape, path
        assert (drawn != published).any(axis=2).sum() < 100, path


@pytest.mark.parametrize("name", [*main.RECIPES, *publish.STUDIES])
def test_published_results_are_full_and_come_back_from_json_as_they_were(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = ROOT / f"plots/results/{name}.json"
    assert publish.is_full(name, path)
    packed = pack_comparison(results(name)) if name in main.RECIPES else pack_study(study(name))
    assert packed == path.read_bytes()


@pytest.mark.parametrize("name", publish.STUDIES)
def test_a_trial_of_a_study_is_not_full(name, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    fewer, shorter = study(name), study(name)
    del fewer.accuracies[next(iter(fewer.accuracies))]
    shorter.setup["steps" if name == "data_size" else "epochs"] = 1
    for trial in (fewer, shorter):
        (tmp_path / "trial.json").write_bytes(pack_study(trial))
        assert not publish.is_full(name, tmp_path / "trial.json")


def test_the_readme_says_how_many_pictures_were_not_at_hand():
    listed = len((ROOT / "tests/pictures.tsv").read_text(encoding="utf-8").splitlines()) - 1
    real = json.loads((ROOT / "plots/results/pictures.json").read_bytes())["real"]
    (measured,) = [count for kind, count, *_ in real if kind == "all"]
    missing = numbers("README.md", "Of the # in the list # were not at hand")
    assert missing == [f"{listed:,}", f"{listed - measured}"]


# --- Findings, which are written by hand ------------------------------------------------------


def numbers(name, sentence):
    """Return the numbers that a page has in place of each # of a sentence."""
    text = re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8"))
    number = r"([-+]?\d+(?:,\d{3})*(?:\.\d+)?)"
    pattern = re.escape(sentence).replace(r"\#", number).replace(r"\ ", " ")
    found = re.search(pattern, text, re.IGNORECASE)
    assert found, sentence
    return list(found.groups())


def gains(pairs):
    """Return the differences as text, and whether each is significant."""
    pairs = list(pairs)
    return [f"{d.mean:.2f}" for d in pairs], [d.verdict == "significant" for d in pairs]


def brought(recipe, other):
    """Return the same of a recipe, over another, for each network."""
    new, old = results(recipe).networks, results(other).networks
    return gains(accuracy_difference(new[name], old[name]) for name in MODELS if name in new)


PAGES = ("README.md", "plots/results/README.md")


def test_the_readme_says_how_results_were_made():
    seeds = {name: results(name).networks["LeNet5_regularization"].seeds for name in main.RECIPES}
    assert seeds["best"] == seeds["fast"] and {len(numbers) for numbers in seeds.values()} == {10}
    ends = [str(end) for name in SHOWN for end in (seeds[name][0], seeds[name][-1])]
    sentence = "Means of ten runs, in brackets their 95 % confidence intervals"
    assert numbers("README.md", sentence) == []
    sentence = "its own (`baseline` # to #, `best` and `fast` # to #, `record` # to #)"
    assert numbers("README.md", sentence) == ends
    last = [f"{study('ablation').setup['val_size']:,}"]
    for page in PAGES:
        assert numbers(page, "chosen on validation images, the last # of the training set") == last
    rates = [*numbers(PAGES[1], "Of the learning rates #, # and #, # was chosen")]
    assert rates[3] == f"{study('data_size').setup['lr']:g}" and rates[3] in rates[:3]


def test_findings_on_networks_are_those_of_the_json():
    better = {recipe: network_differences(results(recipe).networks) for recipe in SHOWN}
    points, significant = gains(better[recipe]["LeNet5", "CustomMLP"] for recipe in SHOWN)
    assert all(significant) and points == numbers(
        "README.md", "LeNet-5 is better than CustomMLP by # points with `baseline`, by # with "
        "`best` and by # with `record`, each difference significant.",
    )  # fmt: skip
    regularized = [better["baseline"]["LeNet5_regularization", "LeNet5"]]
    regularized += [better[recipe]["LeNet5", "LeNet5_regularization"] for recipe in SHOWN[1:]]
    points, significant = gains(regularized)
    assert significant == [True, False, False] and points[:1] == numbers(
        "README.md", "brings LeNet-5 # points with `baseline`, which is significant; with `best` "
        "and `record` the two do not differ significantly",
    )  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_findings_on_recipes_are_those_of_the_json(page):
    points, significant = brought("best", "baseline")
    sentence = "`best` brings LeNet-5 # points, LeNet-5 with regularization # and CustomMLP #, "
    assert points == numbers(page, sentence) and all(significant)
    points, significant = brought("record", "best")
    sentence = {PAGES[0]: "bring another #, # and #;", PAGES[1]: "bring #, # and # points;"}[page]
    assert points == numbers(page, f"{sentence} only CustomMLP's gain is significant.")
    assert significant == [False, False, True]
    points, significant = brought("fast", "baseline")
    sentence = "with regularization # points more than 20 epochs of `baseline`, not significant"
    assert points == numbers(page, sentence) and significant == [False]


def test_findings_on_images_and_seconds_are_those_of_the_json():
    counts = [
        [str(len(p)) for p in hard_images(results(recipe).networks).values()] for recipe in SHOWN
    ]
    everywhere, alone = zip(*counts, strict=True)
    assert ["10,000", *everywhere, *alone] == numbers(
        PAGES[0], "Of the # test images all runs of all networks misclassify # with `baseline`, # "
        "with `best` and # with `record`; all runs of CustomMLP, but none of LeNet-5, another #, # "
        "and #.",
    )  # fmt: skip
    for recipe, (of_all, of_mlp) in zip(SHOWN, counts, strict=True):
        assert [of_all, "10,000", of_mlp] == numbers(
            PAGES[1], f"With `{recipe}` all runs of all networks misclassify # of the # test "
            "images; all runs of CustomMLP, but none of LeNet-5, another #.",
        )  # fmt: skip
    seconds = results("fast").networks["LeNet5_regularization"].curves("seconds").sum(axis=1)
    expected = [f"{value:.1f}" for value in (np.median(seconds), seconds.min(), seconds.max())]
    median, runs, low, high = numbers(PAGES[1], "takes # seconds (median of #; # to #)")
    assert ([median, low, high], runs) == (expected, "10")


def test_findings_on_robustness_are_those_of_the_json():
    perturbed = study("robustness")
    keys = [(name, strength) for name, about in robustness.PERTURBATIONS.items()
            for strength in about.in_table]  # fmt: skip
    means = np.array([  # [recipe, row, network]
        [[perturbed.summary(recipe, m, *key).mean for m in MODELS] for key in keys]
        for recipe in ("baseline", "best")
    ])  # fmt: skip
    highest, lowest = (
        [np.bincount(places, minlength=3) for places in extreme(means, axis=2)]
        for extreme in (np.argmax, np.argmin)
    )
    expected = [len(keys), *np.transpose(highest).flatten()]
    expected += [lowest[0][2], lowest[1][2], lowest[0][1], lowest[1][1]]
    assert [str(count) for count in expected] == numbers(
        PAGES[1], "Of the # rows of the first table LeNet-5 has the highest mean in # with "
        "`baseline` and in # with `best`, LeNet-5 with regularization in # and #, CustomMLP in # "
        "and #. The lowest mean is CustomMLP's in # and # rows, that of LeNet-5 with "
        "regularization in # and #.",
    )  # fmt: skip
    recipe, row = np.unravel_index(np.ptp(means, axis=2).argmax(), means.shape[:2])
    assert (recipe, keys[row], means[recipe, row].argmax()) == (0, ("contrast", 0.2), 0)
    high, low = means[recipe, row].max(), means[recipe, row].min()
    assert [f"{value:.1f}" for value in (high - low, high, low)] == numbers(
        PAGES[1], "differ most at contrast 0.2 with `baseline`, by # points: LeNet-5 # %, "
        "LeNet-5 with regularization # %.",
    )  # fmt: skip
    change = means[1] - means[0]
    for place, key in ((change.argmin(), ("contrast", 0.1)), (change.argmax(), ("shift", 8))):
        row, model = np.unravel_index(place, change.shape)
        assert (keys[row], model) == (key, 0)
    assert [f"{change.min():+.1f}", f"{change.max():+.1f}"] == numbers(
        PAGES[1], "between # points (LeNet-5, contrast 0.1) and # points (LeNet-5, shift by 8"
    )


def test_findings_on_data_size_are_those_of_the_json():
    sizes = study("data_size")
    curves = [
        [{n: sizes.summary(m, augmented, n).mean for n in data_size.SIZES} for m in MODELS]
        for augmented in (False, True)
    ]
    needed = np.array([[data_size.images_for(c, 95) for c in of_kind] for of_kind in curves])
    assert (needed.argmax(axis=1).tolist(), needed.argmin(axis=1).tolist()) == ([2, 2], [1, 1])
    assert [f"{row.max() / row.min():.1f}" for row in needed] == numbers(
        PAGES[1], "For 95 % CustomMLP needs # times as many images as LeNet-5 with "
        "regularization, with augmentation # times.",
    )  # fmt: skip
    means = np.array([[list(c.values()) for c in of_kind] for of_kind in curves])
    spreads = np.ptp(means, axis=1)  # [augmented, size]
    assert (spreads.argmax(), spreads.argmin()) == (0, 7 + data_size.SIZES.index(30_000))
    assert [f"{spreads.max():.1f}", f"{spreads.min():.1f}"] == numbers(
        PAGES[1], "differ most with 100 images and no augmentation, by # points, and least with "
        "30,000 images and augmentation, by #.",
    )  # fmt: skip
    change = means[1] - means[0]  # [network, size]
    assert (change.argmin(), change.argmax()) == (7 + data_size.SIZES.index(60_000), 0)
    assert [f"{change.min():.2f}", f"{change.max():.2f}"] == numbers(
        PAGES[1], "between # points (LeNet-5 with regularization, 60,000 images) and # points "
        "(LeNet-5, 100 images).",
    )  # fmt: skip


# --- Publishing -------------------------------------------------------------------------------


@pytest.fixture
def compared(small, cli, monkeypatch, no_processes, empty_plots):
    """A finished comparison of a tiny recipe, on data that is taken for the shipped one."""
    for name, split in zip(dataset.SPLITS, dataset.load_splits("data", 0), strict=True):
        monkeypatch.setitem(dataset.SHIPPED, name, dataset.digest(split))
    tiny = {"model_type": "CustomMLP", "epochs": 1, "lr": 0.02}
    for module in (compare, publish):
        monkeypatch.setattr(module, "RECIPES", {"tiny": tiny})
    monkeypatch.setattr(publish, "COMPARED_WITH", {"tiny": "tiny"})
    monkeypatch.setattr(publish, "STUDIES", {})
    monkeypatch.setattr(publish, "SEEDS", 2)
    publish.RESULTS.mkdir(parents=True)
    for path, names in (
        (publish.PAGE, ("recipes", "tiny")),
        (publish.README, ("results", "costs", "run", "pictures")),
    ):
        tables = [f"<!-- {n}: written by a script -->\n\n<!-- end of {n} -->\n" for n in names]
        path.write_text(f"Before\n{''.join(tables)}After\n")
    code, _, err = cli(compare, "--recipe", "tiny", "--first_seed", 3, "--seeds", 2)
    assert code == 0, err
    costs = {"processor": "a CPU", "seconds": {"python main.py": [3.0, 2.0, 9.0]}}
    (RUNS / "costs.json").write_text(json.dumps(costs))
    return small


def test_full_results_are_published_with_tables_and_pictures(compared, cli, monkeypatch):
    main.run(main.Args(epochs=1), RUNS / "LeNet5", verbose=False)
    run = load_checkpoint(RUNS / "LeNet5")
    run |= {"epoch": 20, "settings": run["settings"] | {"epochs": 20}}  # as if it had all
    torch.save(run, RUNS / "LeNet5/checkpoint.pt")
    measured = {"real": [["all", 3, 2, 1]], "simulated": [["rows", 5, 4]]}
    (RUNS / "pictures.json").write_text(json.dumps(measured))
    code, out, err = cli(publish)
    assert code == 0 and "published as tiny" in out, err
    comparison = load_comparison(publish.RESULTS / "tiny.json")
    page, readme = publish.PAGE.read_text(), publish.README.read_text()
    assert page.startswith("Before\n") and page.endswith("After\n")
    assert comparison_tables(comparison) in page
    accuracy = comparison.networks["CustomMLP"].accuracies.mean()
    assert f"| {TITLES['CustomMLP']} | 45,846 | {accuracy:.2f} [" in readme
    assert "on a CPU: `python main.py` 3 s." in readme
    assert f"Epoch: 1, Train Loss: {run['history'][0]['train_loss']:.4f}" in readme
    assert "| all | 3 | 66.7 [" in readme and "| simulated: rows | 5 | 80.0 [" in readme
    pictures = {path.name for path in publish.RESULTS.glob("*.png")}
    assert pictures == {"loss_plot_LeNet5.png", "accuracy_plot_LeNet5.png"} | {
        f"{name}_tiny.png" for name in
        ("final", "digits", "hard_images", "confusion_matrix_CustomMLP", "misclassified_CustomMLP")
    }  # fmt: skip
    run["settings"]["lr"] = 0.5
    torch.save(run | {"history": []}, RUNS / "LeNet5/checkpoint.pt")
    (path,) = RUNS.glob("compare/*/results.json")
    content = path.read_text()
    path.write_text(content.replace('"shipped": true', '"shipped": false'))
    assert "a trial of tiny, not published" in cli(publish)[1]
    path.write_text(content)
    monkeypatch.setattr(publish, "SEEDS", 3)
    assert "a trial of tiny, not published" in cli(publish)[1]
    published = json.loads((publish.RESULTS / "run.json").read_bytes())
    assert published == {"history": run["history"]}  # not of other settings


# --- The shipped weights ------------------------------------------------------------------------

# Of the file that is drawn: a 1 with a flag and a base, and a 7 that is crossed.
UNIPEN = """
.SEGMENT DIGIT    0-1 ? "1"
.COMMENT 1 4  12
.PEN_DOWN
 150  320
 200  400
 205  100
.PEN_UP
.DT 100
.PEN_DOWN
 130  100
 270  105
.PEN_UP
.DT 100

.SEGMENT DIGIT    2-3 ? "7"
.COMMENT 7 4  12
.PEN_DOWN
 120  390
 290  400
 170  100
.PEN_UP
.DT 100
.PEN_DOWN
 140  260
 260  265
.PEN_UP
.DT 100
"""


@pytest.fixture
def others(tmp_path, monkeypatch, real, cli):
    """These two digits drawn and packed, and scans of a digit of each writer, a neighbour's beside.

    They are in the working folder.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pendigits, "FOLDER", Path("pendigits"))
    monkeypatch.setattr(swiss, "FOLDER", Path("swiss"))
    for name in pendigits.SOURCES.values():
        Path(name).write_text(UNIPEN)
    assert cli(pendigits, ".")[0] == 0
    for split, writers in swiss.WRITERS.items():
        for writer, (name, content) in zip(writers, real[split], strict=False):
            scan = np.full((90, 94, 3), 255, np.uint8)
            scan[20:76, 20:76] -= decode(content).repeat(2, 0).repeat(2, 1)[..., None] // 2
            scan[40:48, :7] = 120
            path = Path(f"numbers/{writer:04d}_CH4M/{name[-5]}/number-1.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scan).save(path)


def test_weights_are_those_of_the_runs_with_others_digits_calibrated(
    small, others, monkeypatch, cli, refused
):
    monkeypatch.setattr(weights, "MODELS", {"CustomMLP": MODELS["CustomMLP"]})
    monkeypatch.setattr(weights, "RECIPES", {"best": {"epochs": 1, "lr": 0.02}})
    monkeypatch.setattr(weights, "VAL_SIZE", 50)
    assert "experiments.swiss" in refused(weights)
    assert cli(swiss, "numbers")[0] == 0
    training = dataset.load_splits("data", 0)[0]
    assert len(weights.with_others(training).labels) == len(training.labels) + 2 + 14
    assert weights.shipped_files() == {}
    runs = {}
    for folder, args in weights.plan_runs().items():
        weights.run_with_others(args, folder, False)
        runs[folder.name] = load_checkpoint(folder)
    ((path, content),) = weights.shipped_files().items()
    Path("shipped.pt").write_bytes(content)
    settings, state = load_weights("shipped.pt")
    assert path.name == "CustomMLP.pt" and settings["model_type"] == "CustomMLP"
    trained = runs["CustomMLP"]["model"]
    assert all(torch.equal(value, trained[name]) for name, value in state.items())
    # Fitted, so no other temperature suits the validation images better.
    images, labels = dataset.load_splits("data", 50)[1]
    logits = classify(load_classifier(str(weights.FOLDER / "CustomMLP-validation")), images)
    temperatures = [factor * settings["temperature"] for factor in (0.95, 1, 1.05)]
    losses = [torch.nn.functional.cross_entropy(logits / t, labels) for t in temperatures]
    assert min(losses) == losses[1]


def test_strokes_are_drawn_and_scans_cut_out_as_a_person_sees_them(others, cli, real):
    assert cli(swiss, "numbers")[0] == 0
    shipped = load_classifier(ROOT / "data/weights/LeNet5.pt")
    for path, expected in (
        ("pendigits/test.tar.xz", [1, 7]),
        ("swiss/train.tar.xz", [int(name[-5]) for name, _ in real["train"][:14]]),
        ("swiss/test.tar.xz", [int(name[-5]) for name, _ in real["test"][:7]]),
    ):
        images, labels = load_images(Path(path))[1]
        assert labels.tolist() == expected
        assert torch.equal(classify(shipped, images).argmax(dim=1), labels)
    images = load_images(Path("pendigits/test.tar.xz"))[1].images.numpy()
    widths = (images > 128).sum(axis=2)
    assert widths[0, 14:].max() > 8 and widths[1, :14].max() > 8  # the base of the 1, the 7's top


def test_a_scan_may_be_of_two_pieces_but_not_missing_or_empty(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    page = Image.new("L", (90, 90), 255)
    page.paste(60, (20, 30, 26, 60))
    page.paste(60, (50, 30, 56, 60))
    page.save("two.png")
    _, pieces = ndimage.label(swiss.cut_out(Path("two.png")) > 100)
    assert pieces == 2
    Image.new("L", (90, 90), 255).save("two.png")
    with pytest.raises(UserError, match="no ink"):
        swiss.cut_out(Path("two.png"))
    assert "no scans 0001_" in refused(swiss, ".")


def draw_one(generator):
    """Return a 1 with a flag and no base as uint8 [28, 28], drawn at random."""
    angle, length = np.radians(generator.uniform(40, 65)), generator.uniform(0.25, 0.65)
    flag = -length * np.cos(angle), length * np.sin(angle)
    foot = -generator.normal(0.05, 0.12), 1.0
    return pendigits.draw_strokes([[flag, (0.0, 0.0), foot]], generator.uniform(1.8, 4))


def test_shipped_weights_know_digits_of_people_from_elsewhere(shipped_test_images):
    shipped = load_classifier(ROOT / "data/weights/LeNet5.pt")
    others = load_images(ROOT / "data/pendigits/test.tar.xz")[1]
    generator = np.random.default_rng(1)
    ones = torch.from_numpy(np.stack([draw_one(generator) for _ in range(200)]))
    assert (classify(shipped, ones).argmax(dim=1) == 1).float().mean() > 0.97
    _, others_seen = read_archive(ROOT / "data/pendigits/train.tar.xz")
    counts = [f"{len(others_seen):,}"]
    for images, labels in (shipped_test_images, others):
        wrong = classify(shipped, images).argmax(dim=1) != labels
        counts += [f"{wrong.sum()}", f"{len(wrong):,}"]
    sentence = (
        "from # digits that 30 people at a Turkish university wrote on a tablet "
        "(`data/pendigits/`); and from 8,048 that 14 people in Switzerland wrote on paper "
        "(`experiments/swiss.py` says where to get them). LeNet-5 misclassifies # of MNIST's # "
        "test images, and # of # digits of 14 others at that university"
    )
    assert numbers("README.md", sentence) == counts
    for page, sentence in (
        (
            "reading/page.html",
            "training images of MNIST, # digits of people in Turkey and 8,048 of",
        ),
        ("docs/exercises.md", "And what do # digits of the other 30 people change"),
        ("docs/answers.md", "Another # images bring"),
        ("experiments/swiss.py", "train.tar.xz has the 8,048 digits of 14 of them"),
    ):
        assert numbers(page, sentence) == counts[: sentence.count("#")], page
    assert wrong.float().mean() < 0.025
