"""docs/exercises.md and answers.md: the commands run, what they change, and their figures."""

import itertools
import json
import math
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, commands, copy_code, decode, load_run, results, same_run, write_archives
from PIL import Image
from scipy import stats

import main
from comparison.stats import describe, format_interval, format_mean, proportion_interval, t_interval
from dataset import normalise
from main import RECIPES, Args, make_scheduler
from model import LeNet5, parameter_sums
from reading.classifier import classify, load_classifier
from utils.archives import parse_name, read_archive
from utils.augment import deskew

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


def proportion(hits, n, places=1):
    """Return the interval of a proportion, in percent."""
    return format_interval(proportion_interval(hits, n), places)


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


def test_figures_of_the_network_are_its_own():
    network, sizes, products = LeNet5(), {}, {}
    maps = {"conv1": 24 * 24, "conv2": 8 * 8}  # how often a weight is used: at every position
    for name, layer in network.named_children():
        sizes[name] = sum(parameter.numel() for parameter in layer.parameters())
        if hasattr(layer, "weight"):
            products[name] = layer.weight.numel() * maps.get(name, 1)
    total, work = sum(sizes.values()), sum(products.values())
    first, second = products["conv1"], products["conv2"]
    more = 120 * 16 * (5 * 5 - 4 * 4)  # units, maps, values of each with and without padding
    for page, expected in (
        ("exercises", f"Exactly {parameter_sums(network)[-1].removeprefix('total: ')} parameters"),
        ("exercises", f"{100 * sizes['fc1'] / total:.0f} % of them in `fc1`"),
        ("exercises", f"{100 * (sizes['conv1'] + sizes['conv2']) / total:.0f} % in the conv"),
        ("exercises", f"Of {work:,} multiplications, {100 * (first + second) / work:.0f} % are in"),
        ("exercises", f"the convolutions: {first:,} and {second:,}."),
        ("exercises", f"there are {total + more:,} parameters"),
        ("answers", f"All {more:,} are weights of `fc1`"),
    ):
        assert expected in spaced(PAGES[page]), expected


def test_figures_of_steps_and_of_the_schedule_are_those_of_the_code():
    answers = spaced(PAGES["answers"])
    steps = [math.ceil(50_000 / batch) for batch in (16, 64, 1024)]
    few = [math.ceil(1000 / batch) for batch in (64, 16)]
    args = Args(**RECIPES["best"])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], args.lr)
    scheduler, rates = make_scheduler(args, optimizer, 100), []
    for _ in range(100 * args.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    names = read_archive(ROOT / "data/train.tar.xz")[1]
    counts = np.bincount([parse_name(Path(name).name)[1] for name in [*names][-10_000:]])
    least, most = counts.argmin(), counts.argmax()
    for expected in (
        "An epoch has {:,} steps, {} and {} for batches of 16, 64 and 1,024".format(*steps),
        "three have {:,}, {:,} and {}.".format(*(3 * count for count in steps)),
        f"`few_default` makes {few[0]} steps per epoch, {20 * few[0]} in all; `few` {few[1]} and "
        f"{20 * few[1]:,}",
        f"starts at {rates[0]:g}, rises to {max(rates):g} over the first "
        f"{100 * np.argmax(rates) / len(rates):.0f} % of the steps, and falls to {rates[-1]:.7f}",
        f"between {counts[least] / 100:.2f} % ({least}) and {counts[most] / 100:.2f} % ({most})",
    ):
        assert expected in answers, expected


def test_figures_of_samples_and_of_intervals_follow_from_each_other():
    exercises, answers = spaced(PAGES["exercises"]), spaced(PAGES["answers"])
    assert f"48 of 50 would be 96 % {proportion(48, 50)}" in exercises
    assert f"392 of 400 has {proportion(392, 400, 2)}" in answers
    assert proportion_interval(392, 400)[1] < 99 < proportion_interval(343, 350)[1]
    # Of two proportions, without a correction for continuity.
    shares, z, power = np.array([0.98, 0.99]), stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    mean, spreads = shares.mean(), shares * (1 - shares)
    needed = z * math.sqrt(2 * mean * (1 - mean)) + power * math.sqrt(spreads.sum())
    assert f"about {(needed / np.ptp(shares)) ** 2:,.0f}"[:-2] + "00 digits in each" in answers
    # Half the width of an interval is t times s over the root of n.
    low, high = map(
        float, re.search(r"points \[(-0\.\d+), (\d\.\d+)\] more than LeNet", exercises).groups()
    )
    s = (high - low) / 2 * math.sqrt(3) / stats.t.ppf(0.975, 2)
    four, six = (stats.t.ppf(0.975, n - 1) * s / math.sqrt(n) for n in (4, 6))
    assert f"s of {s:.2f}, which would make it {four:.2f} with four seeds and {six:.2f}" in answers
    fonts = (
        r"LeNet-5 has ([\d.]+) \[.*?\] and the MLP ([\d.]+) .*? fonts ([\d.]+) \[.*?\] and ([\d.]+)"
    )
    known, of_mlp, others, others_of_mlp = map(
        float, re.search(fonts, spaced(EXERCISES[10])).groups()
    )
    losses = f"LeNet-5 loses {known - others:.0f} points and the MLP {of_mlp - others_of_mlp:.0f}"
    assert losses in answers
    assert f"The difference there is {others - others_of_mlp:.1f} points" in exercises


def erase(images, black):
    """Return 64 copies of each image [N, 28, 28], in each another square of 7x7 pixels black."""
    copies = images.repeat_interleave(64, dim=0)
    for number, (top, left) in enumerate(itertools.product(range(0, 22, 3), repeat=2)):
        copies[number::64, top : top + 7, left : left + 7] = black
    return copies


def test_figures_of_erased_squares_are_those_of_the_shipped_weights(shipped_test_images):
    images, labels = shipped_test_images
    wrong, ranges = {}, []
    for name in ("LeNet5", "CustomMLP"):
        classifier = load_classifier(ROOT / f"data/weights/{name}.pt")
        wrong[name] = classify(classifier, images).argmax(dim=1) != labels
        errors = 100 * (100 - results("best").networks[name].accuracies)
        ranges.append(f"{errors.min():.0f} to {errors.max():.0f}")
    lenet = load_classifier(ROOT / "data/weights/LeNet5.pt")
    black = normalise(torch.zeros(1, 1, 1, dtype=torch.uint8)).item()
    squares, squares_deskewed = [], []  # whether each makes right wrong, or wrong right, [N, 64]
    for is_wrong, most in ((True, None), (False, 300)):
        chosen = (wrong["LeNet5"] == is_wrong).nonzero()[:most, 0]
        true = labels[chosen].repeat_interleave(64)
        deskewed = erase(deskew(normalise(images[chosen])).squeeze(1), black)
        with torch.inference_mode():
            logits_deskewed = lenet.network(deskewed.unsqueeze(1))
        logits = classify(lenet, erase(images[chosen], 0))
        squares.append((logits.argmax(dim=1) == true).view(-1, 64) == is_wrong)
        squares_deskewed.append((logits_deskewed.argmax(dim=1) == true).view(-1, 64) == is_wrong)
    count, of_mlp = (int(places.sum()) for places in wrong.values())
    corrected, spoilt = (int(changed.any(dim=1).sum()) for changed in squares)
    averages = [changed.sum(dim=1).double().mean().item() for changed in squares]
    deskewed_first = [int(changed.any(dim=1).sum()) for changed in squares_deskewed]
    assert corrected == count  # all
    exercises, answers = spaced(PAGES["exercises"]), spaced(PAGES["answers"])
    for expected in (
        f"LeNet-5 misclassifies {count} of {len(labels):,}, the MLP {of_mlp}; ten runs of the same "
        f"recipe on MNIST alone misclassify {ranges[0]} and {ranges[1]}.",
        f"For all {count} some square corrects the prediction, 100 % {proportion(count, count)}.",
        f"for {spoilt} of the 300 some square also makes it wrong, {spoilt / 3:.1f} % "
        f"{proportion(spoilt, 300)}.",
    ):
        assert expected in exercises, expected
    for expected in (
        f"Of the 64 squares {averages[0]:.1f} on average correct a misclassified image, and "
        f"{averages[1]:.1f} make",
        f"it is {deskewed_first[0]} of the {count}, and {deskewed_first[1]} of the 300.",
    ):
        assert expected in answers, expected
