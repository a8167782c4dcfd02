"""docs/exercises.md: its commands run, every exercise is whole, known figures are as it says."""

import json
import re
from pathlib import Path

import numpy as np
from conftest import ROOT, commands, decode
from photographs import photograph

from comparison.stats import describe, format_mean
from model import LeNet5

PAGE = (ROOT / "docs/exercises.md").read_text()
EXERCISES = [f"## {part}" for part in re.split(r"(?m)^## ", PAGE)[1:]]
# What makes the commands short enough; and what students add, which test_readme.py tests.
SHORTER = {
    r"--val_size \d+": "--val_size 100",
    r"--epochs \d+": "--epochs 1",
    r"--seeds 3": "--seeds 1",
    r"test\.tar\.xz": "test.tar",
    r"MyNet": "CustomMLP",
    r" --clip \S+": "",
}


def figures(curves):
    """Return what the page says of some runs' figures, as it says it."""
    return format_mean(describe(curves), 2)


def test_there_are_ten_each_with_question_command_outcome_and_something_to_think_on():
    assert [int(re.match(r"## (\d+)\. \w", one)[1]) for one in EXERCISES] == list(range(1, 11))
    for one in EXERCISES:
        parts = [one.index(f"**{part}.** ") for part in ("Question", "Expect", "Think")]
        question, expected, thought = (one[start:] for start in parts)
        assert parts == sorted(parts) and "?" in question[: parts[1] - parts[0]], one
        assert re.search(r"\d", expected[: parts[2] - parts[1]]) and "?" in thought, one
        assert commands(one) and one.index("```sh") < parts[1], one


def test_commands_run_one_after_the_other_in_one_folder(small, real, run_line, no_processes):
    images = np.stack([decode(content) for _, content in real["test"][:5]])
    Path("sheet.jpg").write_bytes(photograph(images, np.random.default_rng(2), largest=5))
    done = set()
    for line in commands(PAGE):
        for pattern, shorter in SHORTER.items():
            line = re.sub(pattern, shorter, line)
        if "main.py" in line:
            line += " --epochs 1"  # in place of 20
        if line in done:  # python model.py, and the same comparison
            continue
        done.add(line)
        code, _, err = run_line(line)
        assert code == 0, (line, err)
    assert len(done) > 20
    assert all(Path(path).exists() for path in re.findall(r"`(plots/\w+\.png)`", PAGE))
    for name in re.findall(r"`([a-z]+\.png)`", PAGE):
        assert list(Path("runs/compare").glob(f"*/{name}")), name


def test_no_run_is_named_twice():
    names = re.findall(r"--name (\S+)", PAGE)
    assert len(names) == len(set(names)) > 10


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert links and all((ROOT / "docs" / link).exists() for link in links)
    assert "(docs/exercises.md)" in (ROOT / "README.md").read_text().replace("\n", "")


def test_figures_of_the_published_runs_are_theirs():
    runs = json.loads((ROOT / "plots/results/baseline.json").read_text())["runs"]
    text = re.sub(r"\s+", " ", PAGE)
    cnn, mlp, train = (
        np.array([run["curves"][key] for run in runs if run["model_type"] == model_type])
        for model_type, key in (
            ("LeNet5", "test_accuracy"),
            ("CustomMLP", "test_accuracy"),
            ("LeNet5", "train_accuracy"),
        )
    )
    gains = (cnn - mlp)[:, 2]  # after the third epoch
    for expected in (
        f"{figures(cnn[:, 0])} after the first epoch (n = 10, runs from {cnn[:, 0].min():.2f} to "
        f"{cnn[:, 0].max():.2f}) and {figures(cnn[:, 2])} after the third",
        f"lower: {figures(train[:, 0])} and {figures(train[:, 2])}.",
        f"LeNet-5 has {figures(cnn[:, 2])}, the MLP {figures(mlp[:, 2])} (n = 10)",
        figures(gains).replace(" [", " points ["),
        f"your three seeds give {figures(gains[:3])}, seeds 3 to 5 give {figures(gains[3:6])}",
        f"After 20 epochs {(cnn - mlp)[:, -1].mean():.2f} points",
        f"and LeNet-5 {figures(cnn[:, 9])} (n = 10)",
    ):
        assert expected in text, expected


def test_parameters_are_counted_rightly():
    layers = LeNet5().named_children()
    counts = [sum(p.numel() for p in layer.parameters()) for _, layer in layers]
    counts = [count for count in counts if count]
    exercise = re.sub(r"\s+", " ", EXERCISES[1])
    assert f"{' + '.join(f'{count:,}' for count in counts)} = {sum(counts):,} " in exercise
    assert f"{100 * counts[2] / sum(counts):.0f} % of them in `fc1`" in exercise
    assert f"{100 * sum(counts[:2]) / sum(counts):.0f} % in the convolutions" in exercise
    # Once per weight and position: 24x24 and 8x8 positions in the convolutions.
    weights = [layer.weight.numel() for layer in LeNet5().children() if hasattr(layer, "weight")]
    work = [w * positions for w, positions in zip(weights, (576, 64, 1, 1, 1), strict=True)]
    assert f"Of {sum(work):,} multiplications, {100 * sum(work[:2]) / sum(work):.0f} %" in exercise
    assert f"{work[0]:,} and {work[1]:,}" in exercise
    # With padding, fc1 gets 16 maps of 5x5 values in place of 4x4.
    assert f"{sum(counts) + (400 - 256) * 120:,} parameters" in exercise
    assert f"{sum(counts[:2]) + 256 * 10 + 10:,} parameters" in EXERCISES[8]
