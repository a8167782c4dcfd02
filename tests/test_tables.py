"""comparison/tables.py: sentences that a rerun can falsify."""

import copy

import pytest
from test_compare import results

from comparison.tables import findings, hard_images, listing, trained_on, verdict
from model import TITLES

CONTRAST, REGULARIZATION = ("LeNet5", "CustomMLP"), ("LeNet5_regularization", "LeNet5")


def pair(over_runs, over_images):
    return {"better": "LeNet5", "than": "CustomMLP", "n": 3, "mean": 0.5,
            "interval": over_runs, "interval_over_images": over_images}  # fmt: skip


def test_verdict_needs_both_intervals_to_exclude_0():
    assert "LeNet-5 is better than CustomMLP by 0.50 points" in verdict(
        pair([0.1, 0.9], [0.2, 0.8]), TITLES
    )
    other_runs = verdict(pair([-0.1, 1.1], [0.2, 0.8]), TITLES)
    assert "can't be told apart" in other_runs and other_runs.endswith("other runs may reverse it")
    other_images = verdict(pair([0.1, 0.9], [-0.2, 1.2]), TITLES)
    assert other_images.endswith("; other test images may reverse it")
    assert verdict(pair([-1, 2], [-1, 2]), TITLES).endswith(
        "other runs or other test images may reverse it"
    )
    assert "one run each tells nothing" in verdict(pair(None, [0.2, 0.8]), TITLES)


def test_listing():
    assert [listing(parts) for parts in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a", "a and b", "a, b and c",
    ]  # fmt: skip


def test_what_sets_the_training_figures_apart():
    plain = dict.fromkeys(("rotate", "shift", "stretch", "shear", "elastic", "label_smoothing"), 0)
    assert trained_on(plain, "loss") == ""
    both = plain | {"shift": 1.0, "label_smoothing": 0.05}
    assert trained_on(both, "loss") == "smoothed labels and augmented images"
    assert trained_on(both, "accuracy") == "augmented images"


# --- Findings ---------------------------------------------------------------------------------


@pytest.fixture
def committed():
    """The committed results, recipe -> results, which a test may change."""
    return {name: copy.deepcopy(results(name)) for name in ("baseline", "best", "record", "fast")}


def find(committed, *pairs):
    pairs = pairs or (CONTRAST, REGULARIZATION)
    return findings(committed, TITLES, {"record": "best"}, *pairs).splitlines()


def pair_of(committed, recipe, names):
    return next(p for p in committed[recipe]["pairs"] if {p["better"], p["than"]} == set(names))


def test_a_network_is_called_better_only_where_both_intervals_exclude_0(committed):
    line = find(committed)[0]
    for recipe in ("baseline", "best", "record"):
        gain = pair_of(committed, recipe, CONTRAST)["mean"]
        assert f"by {gain:.2f} points with `{recipe}`" in line
    assert line.startswith("- LeNet-5 is better than CustomMLP by")
    del committed["record"]
    pair_of(committed, "best", CONTRAST)["interval_over_images"] = [-0.01, 0.5]
    line = find(committed)[0]
    assert line.endswith("with `baseline`; they can't be told apart with `best`.")
    pair_of(committed, "baseline", CONTRAST)["interval"] = [-0.1, 3.0]
    line = find(committed)[0]
    assert line == "- LeNet-5 and CustomMLP can't be told apart with `baseline` and `best`."


def test_a_reversed_difference_reverses_the_finding(committed):
    changed = pair_of(committed, "best", CONTRAST)
    changed["better"], changed["than"] = changed["than"], changed["better"]
    line = find(committed)[0]
    assert "LeNet-5 is better than CustomMLP by" in line
    assert f"CustomMLP is better than LeNet-5 by {changed['mean']:.2f} points with `best`" in line


def test_recipes_are_compared_with_the_first_or_with_the_one_they_extend(committed):
    best, fast = (next(f for f in find(committed) if f.startswith(f"- `{name}`"))
                  for name in ("best", "fast"))  # fmt: skip
    means = [committed[name]["networks"]["CustomMLP"]["test_accuracy"]["mean"]
             for name in ("baseline", "best")]  # fmt: skip
    assert f"{means[1] - means[0]:+.2f} points for CustomMLP" in best
    best, _, record = best.partition("; ")
    assert "reverse" not in best
    assert fast.startswith("- `fast` (1 epoch) against `baseline` (20 epochs): ")
    assert record.startswith("`record` (80 epochs) against `best` (20 epochs): ")
    without_best = {name: one for name, one in committed.items() if name != "best"}
    start = "- `record` (80 epochs) against `baseline` (20 epochs): "
    assert any(line.startswith(start) for line in find(without_best))
    # Runs as far apart as 98 and 99.9 leave a doubt.
    for seed, run in enumerate(committed["best"]["runs"]):
        if run["model_type"] == "CustomMLP":
            run["curves"]["test_accuracy"][-1] = 90.0 if seed % 2 else 99.9
    best = next(f for f in find(committed) if f.startswith("- `best`"))
    assert "for CustomMLP (other runs" in best


def test_hard_images_are_counted_and_named(committed):
    for recipe in ("baseline", "best"):
        found = hard_images(committed[recipe], CONTRAST, TITLES)
        everywhere, alone = found.values()
        misread = committed[recipe]["misread"]
        assert everywhere == [i for i in range(10_000) if
                              all(own.get(str(i)) == 10 for own in misread.values())]  # fmt: skip
        assert alone == [i for i in range(10_000) if misread["CustomMLP"].get(str(i)) == 10
                         and str(i) not in misread["LeNet5"]]  # fmt: skip
        assert f" {len(everywhere)} with `{recipe}`" in find(committed)[-1]
        assert f" {len(alone)} with `{recipe}`" in find(committed)[-1]
    (caption,) = hard_images(committed["fast"], CONTRAST, TITLES)
    assert caption == "Misread by all 10 runs of LeNet-5 with regularization"


def test_findings_of_one_recipe_with_one_network(committed):
    assert find({"fast": committed["fast"]}) == []
