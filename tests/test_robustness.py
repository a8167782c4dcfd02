"""experiments/robustness.py: what each perturbation does, the committed study, a short one."""

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_compare import between_markers

import compare
import dataset
import main
from compare import RESULTS
from comparison.stats import METHOD
from experiments import robustness
from experiments.robustness import PERTURBATIONS
from utils.files import markers

SHORT = ("--models", "CustomMLP", "--seeds", 2, "--epochs", 1)


@pytest.fixture
def pixels(small):
    """The 100 small test images as float32 [100, 28, 28]."""
    return dataset.load_splits("data", 0)[1].images.float()


def within(images, border):
    """Return the images whose outer pixels, so many on each side, are black."""
    inner = images.clone()
    inner[:, border:-border, border:-border] = 0
    chosen = images[inner.sum(dim=(1, 2)) == 0]
    assert len(chosen) > 50
    return chosen


def change(name, images, strength):
    return PERTURBATIONS[name].change(images, strength, torch.Generator().manual_seed(0))


def centres(images):
    """Return each image's centre of mass, (x, y) in pixels, [N, 2]."""
    places = torch.arange(28.0)
    mass = images.sum(dim=(1, 2))
    x, y = images.sum(dim=1) @ places, images.sum(dim=2) @ places
    return torch.stack([x / mass, y / mass], dim=1)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_changes_nothing_at_its_neutral_strength_and_more_with_more(pixels, name):
    one = PERTURBATIONS[name]
    before = pixels.clone()
    torch.testing.assert_close(change(name, pixels, one.neutral), pixels, atol=2e-3, rtol=0)
    assert one.neutral in one.strengths and set(one.in_table) <= set(one.strengths)
    for sign in (-1, 1):  # of the side of the neutral strength
        side = sorted(abs(s - one.neutral) for s in one.strengths if sign * (s - one.neutral) >= 0)
        changed = [
            (change(name, pixels, one.neutral + sign * d) - pixels).square().mean() for d in side
        ]
        assert changed == sorted(changed) and len(set(changed)) == len(changed)
    assert torch.equal(pixels, before)


def test_a_shift_moves_the_centre_of_mass_by_its_strength(pixels):
    pixels = within(pixels, 3)  # so that nothing leaves the image
    for strength in (1, 2.5):
        moved = centres(change("shift", pixels, strength)) - centres(pixels)
        assert moved.norm(dim=1).numpy() == pytest.approx(strength, abs=1e-3)
    assert (moved > 0).any(dim=0).all() and (moved < 0).any(dim=0).all()  # in all directions


def test_rotation_is_to_either_side(pixels):
    turned = change("rotation", pixels, 90)  # so that no pixel is interpolated
    sides = [
        [torch.allclose(one, torch.rot90(image, times), atol=0.02)
         for one, image in zip(turned, pixels, strict=True)]
        for times in (1, -1)
    ]  # fmt: skip
    assert [one + other for one, other in zip(*sides, strict=True)] == [1] * len(pixels)
    assert 30 < sum(sides[0]) < 70


def test_scale_is_the_ratio_of_the_sizes(pixels):
    pixels, distances = within(pixels, 2), ((torch.arange(28) - 13.5) ** 2).float()

    def size(images):  # root mean square distance of the ink from the middle, both ways
        mass = images.sum(dim=(1, 2))
        across, down = images.sum(dim=1) @ distances, images.sum(dim=2) @ distances
        return ((across + down) / mass).sqrt()

    for factor in (0.8, 1.15):
        ratios = size(change("scale", pixels, factor)) / size(pixels)
        assert ratios.numpy() == pytest.approx(factor, rel=0.05)


def test_noise_blur_and_contrast_are_as_strong_as_they_say(pixels):
    grey = torch.full((50, 28, 28), 127.5)
    assert change("noise", grey, 20).std().item() == pytest.approx(20, rel=0.02)
    noisy = change("noise", pixels, 128)
    assert (noisy.min(), noisy.max()) == (0, 255)
    point = torch.zeros(1, 28, 28)
    point[0, 13, 14] = 255
    spread = change("blur", point, 1.5)
    assert spread.sum().item() == pytest.approx(255, rel=1e-4)
    distances = (torch.arange(28.0) - 14) ** 2
    variance = (spread.sum(dim=1) @ distances).item() / 255
    assert variance == pytest.approx(1.5**2, rel=0.01)
    pale = change("contrast", pixels, 0.25)
    torch.testing.assert_close(pale.mean(dim=(1, 2)), pixels.mean(dim=(1, 2)))
    torch.testing.assert_close(pale.std(dim=(1, 2)), 0.25 * pixels.std(dim=(1, 2)))


def test_a_square_of_that_side_is_covered_within_the_image(pixels):
    holes = change("covered square", torch.ones(2000, 28, 28), 7) == 0
    assert (holes.sum(dim=(1, 2)) == 49).all()
    rows, columns = holes.any(dim=2), holes.any(dim=1)
    assert (rows.sum(dim=1) == 7).all() and (columns.sum(dim=1) == 7).all()
    assert rows.any(dim=0).all() and columns.any(dim=0).all()  # at all places


def test_failures_are_found_on_either_side_of_the_neutral_strength():
    def curve(means):
        return {strength: {"mean": mean} for strength, mean in means.items()}

    assert robustness.failures(curve({0: 98, 1: 95, 2: 85, 3: 95}), 0) == "1.5"
    assert robustness.failures(curve({0: 98, 8: 91}), 0) == "never"
    assert robustness.failures(curve({0.5: 80, 1: 100, 1.5: 91}), 1) == "0.75 and never"
    assert robustness.failures(curve({0.1: 60, 0.5: 96, 1: 97}), 1) == "0.433"
    assert robustness.failures(curve({0: 85, 1: 80}), 0) == "0"


def committed():
    """The committed study."""
    return json.loads((ROOT / "plots/results/robustness.json").read_text())


def test_results_page_holds_the_committed_study():
    table = between_markers(ROOT / "plots/results/README.md", "robustness")
    assert table == robustness.render(committed())


def test_committed_study_is_of_the_published_comparison():
    found = committed()
    assert (found["method"], found["seeds"], found["images"]) == (METHOD, 10, 10_000)
    assert len(found["points"]) == 6 * sum(len(one.strengths) for one in PERTURBATIONS.values())
    for recipe in robustness.FIRST_SEEDS:
        results = json.loads((ROOT / f"plots/results/{recipe}.json").read_text())
        for model_type, network in results["networks"].items():
            for name, one in PERTURBATIONS.items():
                (point,) = [
                    p for p in found["points"]
                    if (p["recipe"], p["model_type"], p["perturbation"], p["strength"])
                    == (recipe, model_type, name, one.neutral)
                ]  # fmt: skip
                mean = network["test_accuracy"]["mean"]
                assert point["accuracy"]["mean"] == pytest.approx(mean, abs=0.02)


def test_a_short_study_reads_finished_runs_and_is_kept(small, cli, monkeypatch, no_processes):
    code, out, err = cli(robustness, *SHORT)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("4 of the comparison's runs are missing")
    assert "python compare.py --recipe best --first_seed 10" in err
    assert cli(compare, *SHORT)[0] == 0
    assert cli(robustness, *SHORT)[2].startswith("2 of the comparison's runs are missing")
    assert cli(compare, *SHORT, "--recipe", "best", "--first_seed", 10)[0] == 0
    few = {"shift": PERTURBATIONS["shift"]._replace(strengths=(0, 2, 4, 8))}
    monkeypatch.setattr(robustness, "PERTURBATIONS", few)
    RESULTS.mkdir(parents=True)
    (RESULTS / "README.md").write_text("{}\n{}\n".format(*markers("robustness")))

    code, out, err = cli(robustness, *SHORT)
    assert code == 0, err
    study = json.loads(Path("runs/robustness/robustness.json").read_text())
    assert robustness.render(study) in out
    with Image.open("runs/robustness/robustness.png") as image:
        assert image.width >= 800 and len(image.convert("RGB").getcolors(2**24)) > 50
    unchanged = [point for point in study["points"] if point["strength"] == 0]
    assert [point["recipe"] for point in unchanged] == ["baseline", "best"]
    for point in unchanged:  # as the comparison tested them
        paths = Path("runs/compare").glob("*/results.json")
        runs = [run for path in paths for run in json.loads(path.read_text())["runs"]]
        first = robustness.FIRST_SEEDS[point["recipe"]]
        finals = {run["seed"]: run["curves"]["test_accuracy"][-1] for run in runs}
        assert point["accuracies"] == pytest.approx([finals[first], finals[first + 1]])

    # Published are full studies of the shipped data only.
    code, out, err = cli(robustness, *SHORT, "--publish")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--publish" in err
    code, out, err = cli(robustness, "--publish")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--data_dir data" in err
    assert [path.name for path in RESULTS.iterdir()] == ["README.md"]


@pytest.mark.parametrize("flags, tells", [
    (("--seeds", 0), "--seeds 0"),
    (("--models", "VGG"), "VGG"),
    (("--epochs", 0), "--epochs 0"),
])  # fmt: skip
def test_wrong_flags_are_refused_at_once(small, cli, flags, tells):
    code, out, err = cli(robustness, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and tells in err
    assert not main.checkpoint.RUNS.exists()
