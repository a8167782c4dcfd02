"""docs/exercises.md and answers.md: the commands run, what they change, and their figures."""

import itertools
import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, commands, copy_code, decode, load_run, results, same_run, write_archives
from PIL import Image

import main
from comparison.stats import describe, format_mean, t_interval
from main import Args

PAGES = {name: (ROOT / f"docs/{name}.md").read_text() for name in ("exercises", "answers")}
EXERCISES = [f"## {text}" for text in re.split(r"(?m)^## ", PAGES["exercises"])[1:]]
ANSWERS = re.split(r"(?m)^## ", PAGES["answers"])[1:]
README = (ROOT / "README.md").read_text()
CODE = {"utils", "comparison", "reading", "main", "model", "dataset", "compare", "predict"}
SHORTER = {
    r"--val_size \d+": "--val_size 100",
    r"(main\.py.*?)( --epochs \d+|$)": r"\1 --epochs 1",
    r"--epochs \d+": "--epochs 1",
    r"--seeds 3": "--seeds 1",
    r"\.tar\.xz": ".tar",
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


def shorter(line):
    """Return a command line that does the same in less time."""
    for pattern, replacement in SHORTER.items():
        line = re.sub(pattern, replacement, line)
    return line


def spaced(text):
    """Return a text with its line breaks as spaces."""
    return re.sub(r"\s+", " ", text)


def figures(values):
    """Return what the pages say of some runs' figures, as they say it."""
    return format_mean(describe(values, (-100, 100)), 2)


@pytest.fixture
def copy(monkeypatch, run_line, empty_plots):
    """Copy the code with edits into the working folder; returns what runs a line with that code.

    Edits are (file, text that it holds once, what takes its place).
    """

    def make(edits):
        for module in [*sys.modules]:
            if module.partition(".")[0] in CODE:
                monkeypatch.delitem(sys.modules, module)
        copy_code(Path.cwd(), "*.py", "utils/*.py", "comparison/*.py")
        for name, old, new in edits:
            text = Path(name).read_text()
            assert text.count(old) == 1, (name, old)
            Path(name).write_text(text.replace(old, new))
        monkeypatch.syspath_prepend(Path.cwd())
        monkeypatch.setattr("comparison.runs.processes", lambda count: ThreadPoolExecutor(1))

        def run(line):
            code, out, err = run_line(line)
            assert code == 0, (line, err)
            return out

        return run

    yield make
    for module in [*sys.modules]:  # those that make() deleted come back
        if module.partition(".")[0] in CODE:
            del sys.modules[module]


# --- The commands -----------------------------------------------------------------------------


def test_commands_run_one_after_the_other(fresh, real, run_line, no_processes, empty_plots):
    sheet = 255 - np.hstack([decode(content) for _, content in real["test"][:5]])
    Image.fromarray(sheet).resize((700, 140)).save("sheet.jpg")
    write_archives(Path("data/pendigits"), real, 40, 20)
    printed = []
    for line in commands("".join(EXERCISES[:8])):
        code, out, err = run_line(shorter(line))
        assert code == 0, (line, err)
        printed.append(out)
        if "--name first" in line:  # each later run draws the same two plots
            assert all(Path(p).exists() for p in re.findall(r"`(plots/\w+\.png)`", EXERCISES[0]))
    for name in re.findall(r"`(\w+\.png)`", EXERCISES[2] + EXERCISES[10]):
        assert list(Path("runs/compare").glob(f"*/{name}")), name
    tables = [out for out in printed if "| run |" in out]
    for column, out in zip(("lr", "batch_size", "deskew"), tables, strict=True):
        assert column in out.splitlines()[0]
        assert Path(out.splitlines()[-1]).exists()  # their curves


def test_a_network_and_a_setting_are_added_as_readme_and_exercises_say(small, copy):
    original = Args("CustomMLP", 1, lr=0.3, val_size=100)
    main.run(original, Path("runs/original"), verbose=False)
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
    run = copy(edits)
    out = "".join(run(line) for line in lines)
    assert "MyNet (5,142 parameters) on " in out
    assert re.search(r"5,142 parameters", EXERCISES[8])
    same_run("original", "clip_0")
    assert load_run("clip_0")[0][0]["train_loss"] != load_run("clip_0.1")[0][0]["train_loss"]
    assert "clip" in re.search(r"(?m)^\| run \|.*", out)[0]
    assert load_run("LeNet5")[1]["settings"]["clip"] == 1.0


def test_letters_are_drawn_and_learned_with_another_constant(tmp_path, monkeypatch, copy):
    monkeypatch.chdir(tmp_path)
    script = re.search(r"```python\n(.*?)```", EXERCISES[10], re.DOTALL)[1]
    assert len(script.splitlines()) <= 30
    for count, fewer in (("500", "8"), ("100", "3")):
        assert script.count(f", {count})") == 1
        script = script.replace(f", {count})", f", {fewer})")
    run = copy(LETTERS)
    exec(compile(script, "letters.py", "exec"), {})
    _, *lines = [shorter(line) for line in commands(EXERCISES[10])]
    lines[1] += " --val_size 26 --batch_size 8 --epochs 8"  # so few images need small batches
    out = "".join(run(line) for line in lines)
    assert f"train dataset length: {26 * 8}\ntest dataset length: {26 * 3}\n" in out
    assert "182 training and 26 validation images" in out
    rows, checkpoint = load_run("letters")
    assert rows[-1]["train_accuracy"] > 20 and checkpoint["model"]["fc3.bias"].shape == (26,)
    (path,) = Path("runs/compare").glob("*/results.json")
    assert json.loads(path.read_text())["test_images"] == [3] * 26


# --- The figures ------------------------------------------------------------------------------


def test_figures_of_the_published_runs_are_theirs():
    networks = results("baseline").networks
    cnn, mlp = (networks[name].curves("test_accuracy") for name in ("LeNet5", "CustomMLP"))
    train = networks["LeNet5"].curves("train_accuracy")
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
