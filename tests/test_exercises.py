"""docs/exercises.md and answers.md: the commands run, what they change, and their figures."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT, commands, decode, load_run, same_run
from PIL import Image
from test_main import one_cycle

import comparison.plots
from comparison.stats import describe, format_interval, format_mean, proportion_interval, t_interval
from model import LeNet5
from utils import plots

PAGES = {name: (ROOT / f"docs/{name}.md").read_text() for name in ("exercises", "answers")}
EXERCISES = [f"## {text}" for text in re.split(r"(?m)^## ", PAGES["exercises"])[1:]]
ANSWERS = re.split(r"(?m)^## ", PAGES["answers"])[1:]
README = (ROOT / "README.md").read_text()
SHORTER = {
    r"--val_size \d+": "--val_size 100",
    r"(main\.py.*?)( --epochs \d+|$)": r"\1 --epochs 1",
    r"--epochs \d+": "--epochs 1",
    r"--seeds 3": "--seeds 1",
    r"test\.tar\.xz": "test.tar",
}
# What exercises 9 to 11 ask for: file -> what stands there, what takes its place.
MY_NET = """
class MyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc = nn.Linear(256, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


MODELS: """
CLIP = "if args.clip: nn.utils.clip_grad_norm_(model.parameters(), args.clip)"
LETTERS = [("utils/classes.py", '"0123456789"', '"ABCDEFGHIJKLMNOPQRSTUVWXYZ"')]
# Runs lines in this process; the plots are drawn by the test of exercises 1 to 8.
DRIVER = """
import importlib, shlex, sys
import compare, conftest
from comparison import runs
from utils import plots

compare.draw_plots = lambda *_: {}
plots.plot_run = lambda *_: b""
runs.processes = lambda count: conftest.ThisProcess()
for line in sys.argv[1:]:
    sys.argv = shlex.split(line)[1:]
    module = importlib.import_module(sys.argv[0].removesuffix(".py"))
    if module.__name__ != "letters":  # which has no main() and runs when it is imported
        module.main()
"""


def shorter(line):
    """Return a command line that does the same in less time."""
    for pattern, replacement in SHORTER.items():
        line = re.sub(pattern, replacement, line, count=1)
    return line


def spaced(text):
    """Return a text with its line breaks as spaces."""
    return re.sub(r"\s+", " ", text)


def figures(values, places=2):
    """Return what the pages say of some runs' figures, as they say it."""
    return format_mean(describe(values, (-100, 100)), places)


def run_in_copy(edits, lines):
    """Run command lines in a copy of the code, with edits, in the current folder; returns stdout.

    Args:
        edits: (file, text that it holds once, what takes its place).
        lines: of commands.
    """
    for path in (*ROOT.glob("*.py"), *ROOT.glob("utils/*.py"), *ROOT.glob("comparison/*.py")):
        target = Path(path.relative_to(ROOT))
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    for name, old, new in edits:
        text = Path(name).read_text()
        assert text.count(old) == 1, (name, old)
        Path(name).write_text(text.replace(old, new))
    Path("driver.py").write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": f".:{ROOT / 'tests'}:{ROOT}"}
    words = [sys.executable, "driver.py", *lines]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- The commands -----------------------------------------------------------------------------


def test_each_has_commands_a_question_to_think_on_and_an_answer():
    titles = [re.match(r"## (\d+\. \w.*)", text)[1] for text in EXERCISES]
    assert [int(title.split(".")[0]) for title in titles] == list(range(1, 12))
    assert [answer.splitlines()[0] for answer in ANSWERS] == titles
    for text in EXERCISES:
        assert commands(text) and "?" in text[text.index("**Think.** ") :], text


def test_commands_run_one_after_the_other(small, real, run_line, no_processes, monkeypatch):
    sheet = 255 - np.hstack([decode(content) for _, content in real["test"][:5]])
    Image.fromarray(sheet).resize((700, 140)).save("sheet.jpg")
    printed = []
    for line in commands("".join(EXERCISES[:8])):
        code, out, err = run_line(shorter(line))
        assert code == 0, (line, err)
        printed.append(out)
        if "--name first" in line:  # each later run draws the same two plots
            assert all(Path(p).exists() for p in re.findall(r"`(plots/\w+\.png)`", EXERCISES[0]))
            monkeypatch.setattr(plots, "plot_run", lambda *_: b"")
        if "compare.py --models" in line:  # predict.py draws some of these again
            for name in ("plot_confusion", "plot_misclassified"):
                monkeypatch.setattr(comparison.plots, name, lambda *_: b"")
    for name in re.findall(r"`(\w+\.png)`", EXERCISES[2] + EXERCISES[10]):
        assert list(Path("runs/compare").glob(f"*/{name}")), name
    tables = [out for out in printed if "| run |" in out]
    for column, out in zip(("lr", "batch_size", "deskew"), tables, strict=True):
        assert column in out.splitlines()[0]
        assert Path(out.splitlines()[-1]).stat().st_size > 10_000  # their curves


def test_a_network_and_a_setting_are_added_as_readme_and_exercises_say(
    small, run_line, monkeypatch
):
    monkeypatch.setattr(plots, "plot_run", lambda *_: b"")
    code, _, err = run_line(shorter(commands(EXERCISES[3])[-2]) + " --name original")
    assert code == 0, err
    for name in ("lr_0.01", "lr_0.3"):  # of exercise 4, which the last line compares with
        shutil.copytree("runs/original", f"runs/{name}")
    readme = spaced(README[README.index("## Add a network") :])
    line = re.search(r"`(\S+ MyNet,)` to `MODELS`", readme)[1]
    setting = re.search(r"`(clip: float = setting\(.*?\))`", readme)[1]
    edits = [
        ("model.py", "\nMODELS: ", MY_NET),
        ("model.py", '    "LeNet5": LeNet5,\n', f'    "LeNet5": LeNet5,\n    {line}\n'),
        ("main.py", "    epochs: int =", f"    {setting}\n    epochs: int ="),
        ("main.py", "        optimizer.step()\n", f"        {CLIP}\n        optimizer.step()\n"),
    ]
    lines = re.findall(r"`(python (?:model|main)\.py.*?)`", readme)
    assert [line.split()[2:] for line in lines] == [[], ["--model_type", "MyNet"], ["--clip", "1"]]
    lines = [shorter(line) for line in [*lines, *commands("".join(EXERCISES[8:10]))]]
    lines.append("python compare.py --models MyNet --seeds 1 --epochs 1 --clip 1")
    out = run_in_copy(edits, lines)
    assert "MyNet (5,142 parameters) on " in out
    assert re.search(r"5,142 parameters", EXERCISES[8])
    same_run("original", "clip_0")
    assert load_run("clip_0")[0][0]["train_loss"] != load_run("clip_0.1")[0][0]["train_loss"]
    assert "clip" in re.search(r"(?m)^\| run \|.*", out)[0]
    assert load_run("LeNet5")[1]["settings"]["clip"] == 1.0


def test_letters_are_drawn_and_learned_with_another_constant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = re.search(r"```python\n(.*?)```", EXERCISES[10], re.DOTALL)[1]
    assert len(script.splitlines()) <= 30
    for count, fewer in (("500", "8"), ("100", "3")):
        assert script.count(f", {count})") == 1
        script = script.replace(f", {count})", f", {fewer})")
    Path("letters.py").write_text(script)
    lines = [shorter(line) for line in commands(EXERCISES[10])]
    # So few images need small batches.
    lines[2] += " --val_size 26 --batch_size 8 --epochs 8"
    out = run_in_copy(LETTERS, lines)
    assert f"train dataset length: {26 * 8}\ntest dataset length: {26 * 3}\n" in out
    assert "182 training and 26 validation images" in out
    rows, checkpoint = load_run("letters")
    assert rows[-1]["train_accuracy"] > 20 and checkpoint["model"]["fc3.bias"].shape == (26,)
    (results,) = Path("runs/compare").glob("*/results.json")
    assert json.loads(results.read_text())["test_images"] == [3] * 26


def test_no_run_is_named_twice_and_links_lead_somewhere():
    names = re.findall(r"--name (\S+)", PAGES["exercises"])
    assert len(names) == len(set(names)) > 10
    compared = " ".join(re.findall(r"--runs (.*)", PAGES["exercises"])).split()
    assert compared and set(compared) <= set(names)
    assert "(docs/exercises.md)" in spaced(README)
    for text in PAGES.values():
        links = re.findall(r"\]\(\s*([^)#:]+)\)", text)
        assert links and all((ROOT / "docs" / link).exists() for link in links)


# --- The figures ------------------------------------------------------------------------------


def published_curves(recipe, column):
    """Return the curves of the published runs, network -> float [R, E]."""
    runs = json.loads((ROOT / f"plots/results/{recipe}.json").read_text())["runs"]
    return {
        model_type: np.array([r["curves"][column] for r in runs if r["model_type"] == model_type])
        for model_type in ("LeNet5", "CustomMLP")
    }


def test_figures_of_the_published_runs_are_theirs():
    test, train = (published_curves("baseline", f"{s}_accuracy") for s in ("test", "train"))
    cnn, mlp, train = test["LeNet5"], test["CustomMLP"], train["LeNet5"]
    gains = (cnn - mlp)[:, 2]  # after the third epoch
    text = spaced(PAGES["exercises"])
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
    last = f"{train[:, -1].mean():.2f} against {cnn[:, -1].mean():.2f} (n = 10)"
    assert f"After 20 epochs train accuracy is the higher one, {last}" in spaced(ANSWERS[0])
    # What three of the ten seeds would have said.
    threes = [t_interval(gains[list(rows)]) for rows in itertools.combinations(range(10), 3)]
    misses = [interval for interval in threes if not interval[0] <= gains.mean() <= interval[1]]
    widths = [high - low for low, high in threes]
    assert misses == [t_interval(gains[:3])] and min(widths) == np.diff(misses[0])
    assert min(low for low, _ in threes) > 0
    first = ", ".join(f"{gain:.2f}" for gain in gains[:2]) + f" and {gains[2]:.2f}"
    answer = spaced(ANSWERS[2])
    for expected in (
        f"{first}, with a standard deviation of {gains[:3].std(ddof=1):.2f}; that of all ten is "
        f"{gains.std(ddof=1):.2f}",
        f"Of the {len(threes)} ways",
        f"from {min(widths):.2f} to {max(widths):.2f} points",
    ):
        assert expected in answer, expected


def test_arithmetic_is_right():
    counts = [sum(p.numel() for p in layer.parameters()) for layer in LeNet5().children()]
    counts = [count for count in counts if count]
    exercise, answers = spaced(EXERCISES[1]), [spaced(answer) for answer in ANSWERS]
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
    assert f"All {(400 - 256) * 120:,} are weights of `fc1`" in answers[1]
    # Steps per epoch, and in all.
    steps = [-(-50_000 // size) for size in (16, 64, 1024)]
    assert "An epoch has {:,} steps, {:,} and {:,}".format(*steps) in answers[4]
    assert "three have {:,}, {:,} and {:,}".format(*(3 * n for n in steps)) in answers[4]
    few = [-(-1000 // size) for size in (64, 16)]
    expected = f"makes {few[0]} steps per epoch, {20 * few[0]:,} in all; `few` {few[1]} and "
    assert f"{expected}{20 * few[1]:,}" in answers[5]
    # From 400 digits on the interval of 98 % ends below 99 %.
    ends = {n: proportion_interval(round(0.98 * n), n)[1] for n in (350, 400)}
    assert ends[350] > 99 > ends[400]
    interval = format_interval(proportion_interval(392, 400), 2)
    assert f"392 of 400 has {interval}" in answers[6]


def test_learning_rates_of_the_one_cycle_schedule_are_as_the_answer_says():
    seen = [one_cycle(step, 1000, 0.1) for step in range(1000)]
    answer = spaced(ANSWERS[3])
    assert f"starts at {seen[0]:.3f}, rises to 0.1 over the first 30 % of the steps" in answer
    assert np.argmax(seen) == 299 and f"falls to {seen[-1]:.7f}" in answer
