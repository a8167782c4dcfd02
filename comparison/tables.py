"""Results as Markdown: tables, and sentences that say no more than the intervals do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comparison.analysis import BINS, correct_shares, misread_by_all, misread_by_one
from comparison.stats import difference_interval, format_interval, format_mean, t_interval

Titles = Mapping[str, str]  # network -> title
Results = Mapping[str, Any]  # what compare.py keeps as JSON
CALIBRATION = (
    f"Expected calibration error (Guo et al., 2017): the test images in {BINS} bins of equal width "
    "by the largest probability, sum over the bins of their share of the images times "
    "|accuracy - mean of the largest probability|."
)


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listing(parts: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _doubts(over_runs: list[float] | None, over_images: list[float] | None) -> list[str]:
    """Return what may reverse a difference that is not negative; nothing if both exclude 0."""
    return [
        name
        for name, interval in (("other runs", over_runs), ("other test images", over_images))
        if interval is None or interval[0] <= 0
    ]


def verdict(pair: dict[str, Any], titles: Titles) -> str:
    """Return what a difference says: it needs both intervals to exclude 0."""
    better, than = titles[pair["better"]], titles[pair["than"]]
    over_runs, over_images = pair["interval"], pair["interval_over_images"]
    if over_runs is None:
        return f"{better} and {than}: one run each tells nothing"
    figures = (
        f"{pair['mean']:.2f} points, {format_interval(over_runs, 2)} over {pair['n']} runs, "
        f"{format_interval(over_images, 2)} over the test images"
    )
    doubts = _doubts(over_runs, over_images)
    if not doubts:
        return f"{better} is better than {than} by {figures}"
    return (
        f"{better} and {than} can't be told apart: {figures}; {' or '.join(doubts)} may reverse it"
    )


def figures(results: Results, titles: Titles) -> str:
    """Return every network's figures as Markdown, a row per figure."""
    networks = results["networks"].values()
    rows = [["test accuracy, %", *(format_mean(one["test_accuracy"], 2) for one in networks)]]
    rows += [["over the test images"]]
    rows[-1] += [format_interval(one["interval_over_images"], 2) for one in networks]
    ends = [(one["test_accuracy"]["min"], one["test_accuracy"]["max"]) for one in networks]
    rows += [["lowest to highest", *(f"{low:.2f} to {high:.2f}" for low, high in ends)]]
    for name, key, places in (
        ("test accuracy, %, mean over epochs", "mean_over_epochs", 2),
        ("test loss", "test_loss", 4),
        ("calibration error, points", "calibration_error", 2),
        ("train accuracy, %", "train_accuracy", 2),
        ("train loss", "train_loss", 4),
    ):
        rows += [[name, *(format_mean(one[key], places) for one in networks)]]
    return markdown(["mean over the runs", *(titles[name] for name in results["networks"])], rows)


def trained_on(settings: Mapping[str, Any], metric: str) -> str:
    """Return what sets the loss or accuracy in training apart from that on the test images."""
    augmented = any(settings[name] for name in ("rotate", "shift", "stretch", "shear", "elastic"))
    smoothed = metric == "loss" and settings["label_smoothing"] > 0
    return listing(["smoothed labels"] * smoothed + ["augmented images"] * augmented or [""])


def digit_table(results: Results, titles: Titles) -> str:
    """Return each network's accuracy per digit, a row per digit."""
    networks = results["networks"]
    rows = [
        [digit, f"{count:,}"]
        + [format_mean(network["digit_accuracy"][digit], 2) for network in networks.values()]
        for digit, count in results["test_images"].items()
    ]
    heads = ["accuracy per digit, %", "test images", *(titles[name] for name in networks)]
    return markdown(heads, rows)


def gallery(results: Results, recipe: str, titles: Titles) -> str:
    """Return a recipe's published pictures as Markdown: those of all networks, links to others."""
    shared = ["accuracy", "loss"] * (results["settings"]["epochs"] > 1)
    shared += ["final", "digits", "misread"] + ["filters_LeNet5"] * (
        "LeNet5" in results["networks"]
    )
    lines = [f"![{name}]({name}_{recipe}.png)" for name in shared]
    links = [
        f"{titles[name]}: [confusion matrix](confusion_matrix_{name}_{recipe}.png), "
        f"[most confident mistakes](misclassified_{name}_{recipe}.png)"
        for name in results["networks"]
    ]
    return "\n\n".join(lines) + "\n\n" + "\n".join(f"- {link}" for link in links)


# --- Findings ---------------------------------------------------------------------------------


def findings(
    results: Mapping[str, Results],
    titles: Titles,
    extends: Mapping[str, str],
    contrast: tuple[str, str],
    *pairs: tuple[str, str],
) -> str:
    """Return what published results say, as a list.

    Args:
        results: of each recipe.
        titles: of the networks.
        extends: recipe -> the recipe it is compared with in place of the first.
        contrast: the networks to compare, and then the images that only the second misreads.
        pairs: other networks to compare.
    """
    first, *others = results
    lines = [_compare_networks(results, pair, titles) for pair in (contrast, *pairs)]
    compared: dict[str, list[str]] = {}
    for recipe in others:
        base = extends.get(recipe, "")
        old, line = (base, base) if base in results else (first, recipe)
        compared.setdefault(line, []).append(_compare_recipes(results, old, recipe, titles))
    lines += ["; ".join(filter(None, found)) for found in compared.values()]
    lines.append(_count_hard_images(results, contrast, titles))
    return "\n".join(f"- {line}." for line in lines if line)


def _compare_networks(results: Mapping[str, Results], pair: tuple[str, str], titles: Titles) -> str:
    better: dict[str, list[str]] = {}
    equal = []
    for recipe, one in results.items():
        for found in one["pairs"]:
            if {found["better"], found["than"]} != set(pair):
                continue
            if found["interval"] and not _doubts(found["interval"], found["interval_over_images"]):
                gain = f"by {found['mean']:.2f} points with `{recipe}`"
                better.setdefault(found["better"], []).append(gain)
            else:
                equal.append(f"`{recipe}`")
    parts = []
    for name, gains in better.items():
        (other,) = set(pair) - {name}
        parts.append(f"{titles[name]} is better than {titles[other]} {listing(gains)}")
    if equal:
        who = "they" if parts else listing([titles[name] for name in pair])
        parts.append(f"{who} can't be told apart with {listing(equal)}")
    return "; ".join(parts)


def _shares(results: Results, model_type: str) -> np.ndarray:
    runs = results["networks"][model_type]["test_accuracy"]["n"]
    images = sum(results["test_images"].values())
    return correct_shares(results["misread"][model_type], runs, images)


def _finals(results: Results, model_type: str) -> list[float]:
    runs = (run for run in results["runs"] if run["model_type"] == model_type)
    return [run["curves"]["test_accuracy"][-1] for run in runs]


def _compare_recipes(
    results: Mapping[str, Results], first: str, recipe: str, titles: Titles
) -> str:
    old, new = results[first], results[recipe]
    gains = []
    for model_type in new["networks"]:
        if model_type not in old["networks"]:
            continue
        finals, before = _finals(new, model_type), _finals(old, model_type)
        gain = np.mean(finals) - np.mean(before)
        better, worse = (new, old) if gain >= 0 else (old, new)
        over_runs = difference_interval(_finals(better, model_type), _finals(worse, model_type))
        over_images = t_interval(100 * (_shares(better, model_type) - _shares(worse, model_type)))
        doubts = _doubts(over_runs, over_images)
        doubt = f" ({' or '.join(doubts)} may reverse it)" if doubts else ""
        gains.append(f"{gain:+.2f} points for {titles[model_type]}{doubt}")
    epochs = [one["settings"]["epochs"] for one in (new, old)]
    names = [f"`{name}`" for name in (recipe, first)]
    if epochs[0] != epochs[1]:
        names = [
            f"{name} ({count} epoch{'s' if count > 1 else ''})"
            for name, count in zip(names, epochs, strict=True)
        ]
    return f"{' against '.join(names)}: {listing(gains)}" if gains else ""


def _runs(results: Results) -> dict[str, int]:
    return {name: one["test_accuracy"]["n"] for name, one in results["networks"].items()}


def hard_images(
    results: Results, contrast: tuple[str, str], titles: Titles
) -> dict[str, list[int]]:
    """Return what all runs of all networks misread, and what only the contrast's second does.

    Returns:
        A caption for each of the two, or for the first alone if a network of the contrast is not
        there, with the images' places in the test set.
    """
    misread, runs = results["misread"], _runs(results)
    count = max(runs.values())
    whose = f"all {count} runs" if count > 1 else "the run"
    networks = f"all {len(runs)} networks" if len(runs) > 1 else titles[next(iter(runs))]
    found = {f"Misread by {whose} of {networks}": misread_by_all(misread, runs)}
    one, other = contrast
    if set(contrast) <= runs.keys():
        caption = f"Misread by {whose} of {titles[other]}, and by none of {titles[one]}"
        found[caption] = misread_by_one(misread, runs, (other, one))
    return found


def _count_hard_images(
    results: Mapping[str, Results], contrast: tuple[str, str], titles: Titles
) -> str:
    counts = {}
    for recipe, one in results.items():
        found = list(hard_images(one, contrast, titles).values())
        if len(found) == 2:
            counts[recipe] = [f"{len(images)} with `{recipe}`" for images in found]
            total = sum(one["test_images"].values())
    if not counts:
        return ""
    everywhere, alone = (listing(parts) for parts in zip(*counts.values(), strict=True))
    convolutional, other = (titles[name] for name in contrast)
    return (
        f"Of {total:,} test images every run of every network misreads {everywhere}; every run of "
        f"{other}, but none of {convolutional}, misreads {alone}"
    )
