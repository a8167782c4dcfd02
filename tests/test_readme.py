"""README.md: its commands run, its settings and its tables are those of the code."""

import dataclasses
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

import model
from main import Args

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]

# What makes the long ones short; what is done is the same.
SHORTER = {
    "python main.py --recipe best": "--epochs 1",
    "python compare.py": "--models CustomMLP --seeds 1 --epochs 1",
    "python compare.py --recipe best --first_seed 10": "--models CustomMLP --seeds 1 --epochs 1",
    "python ladder.py": "--models CustomMLP --seeds 1 --epochs 1 --val_size 100",
    "python tests/benchmark.py": "--rounds 1 --share 0.05",
}


def test_commands_are_run(workplace):
    for path in [*ROOT.glob("*.py"), ROOT / "requirements.txt"]:
        (workplace / path.name).symlink_to(path)
    (workplace / "tests").symlink_to(ROOT / "tests")
    assert len(COMMANDS) == 12
    for command in COMMANDS:
        if command.startswith("pip"):  # CI installs, and runs these tests
            command = command.partition(" && ")[2]
        if command == "python -m pytest":
            continue
        words = shlex.split(f"{command} {SHORTER.get(command, '')}")
        program = {"torchrun": ["-m", "torch.distributed.run"], "python": []}[words[0]]
        done = subprocess.run(
            [sys.executable, *program, *words[1:]], capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, (command, done.stderr)


def test_every_setting_stands_there_with_its_default():
    rows = re.findall(r"(?m)^\| `(\w+)` \| (\S+) \| (.*) \|$", README)
    block = {f.name: (str(f.default), f.metadata["help"]) for f in dataclasses.fields(Args)}
    assert {name: (default, effect) for name, default, effect in rows} == block


@pytest.mark.parametrize("name", ["LeNet5", "CustomMLP"])
def test_parameter_sums_stand_there(name):
    text = README.replace("\\*", "*")
    for line in model.parameter_sums(model.MODELS[name]())[:-1]:
        title, terms = line.split(": ")
        row = rf"\| {title.split(' ')[0]} \| \[[-\d, ]+\] \| {re.escape(terms)} \|"
        assert re.search(row, text), line


def test_pictures_and_files_it_names_are_there():
    pictures = re.findall(r"\]\((plots/\S+?)\)", README)
    assert len(pictures) >= 6
    assert all((ROOT / picture).exists() for picture in pictures)
    on_disk = {path.name for path in ROOT.glob("*.py")}
    assert on_disk == set(re.findall(r"(?m)^\| `(\w+\.py)` \|", README))
