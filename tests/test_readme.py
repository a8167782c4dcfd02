"""README.md: its commands run and leave git clean, its instructions work, its map is complete."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT, commands, decode, load_run
from photographs import photograph

README = (ROOT / "README.md").read_text()
ROOMS = ("*.py", "utils/*.py", "comparison/*.py", "reading/*.py", "experiments/*.py")
CODE = (*ROOMS, "reading/*.html", "tests/benchmark.py")

# What makes the long ones short; what is done is the same.
SHORTER = {
    "python main.py": "--epochs 2",
    "python main.py --recipe best": "--epochs 1",
    "python main.py --recipe record": "--epochs 1",
    "python compare.py": "--models CustomMLP --seeds 1 --epochs 1",
    "python compare.py --recipe best --first_seed 10": "--models CustomMLP --seeds 1 --epochs 1",
    "python -m experiments.ablation": "--models CustomMLP --seeds 1 --epochs 1 --val_size 100",
    "python -m experiments.robustness": "--models CustomMLP --seeds 1 --epochs 1",
    "python -m experiments.data_size": "--models CustomMLP --sizes 100 --seeds 1 --steps 2",
    "python tests/benchmark.py": "--rounds 1 --share 0.01",
    "torchrun --standalone --nproc-per-node 2 main.py": "--epochs 1",
    "python main.py --data_dir my_digits --val_size 20 --recipe best --batch_size 16 --lr 0.02 "
    "--epochs 60": "--epochs 20",
}


def copy_of_the_repository(folder):
    for path in (path for pattern in CODE for path in ROOT.glob(pattern)):
        (folder / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.relative_to(ROOT))
    for name in (".gitignore", "README.md", "requirements.txt", "docs/index.html"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "data/weights", folder / "data/weights")


def git(*words):
    words = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *words)
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def write_pictures(real):
    """Write the pictures that the README's commands read."""
    images = np.stack([decode(content) for _, content in real["test"][:20]])
    for number, name in enumerate(("photo", "row", "sheet", "sheet2")):
        content = photograph(images[5 * number :][:5], np.random.default_rng(number), largest=5)
        Path(f"{name}.jpg").write_bytes(content)


def test_commands_run_and_leave_git_clean(workplace, real, run_line, monkeypatch, no_processes):
    own = workplace / "my_digits/train"
    own.mkdir(parents=True)
    for name, content in real["train"][:600]:
        (own / name).write_bytes(content)
    write_pictures(real)
    copy_of_the_repository(workplace)
    git("init", "-q")
    git("add", "-A", "-f")
    git("commit", "-qm", "everything")
    monkeypatch.syspath_prepend(ROOT / "tests")
    # It starts torchrun, as a command of its own does here.
    monkeypatch.setattr(importlib.import_module("benchmark"), "scaling", lambda *_: None)
    for command in commands(README):
        if "venv" in command:
            continue
        command = command.partition(" && ")[2] if command.startswith("pip") else command
        if command == "python -m pytest":  # CI installs, and runs these tests
            continue
        line = f"{command} {SHORTER.get(command, '')}"
        if line.startswith("torchrun"):
            words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:]]
            done = subprocess.run(words, capture_output=True, text=True, timeout=110)
            code, err = done.returncode, done.stderr
        else:
            code, _, err = run_line(line)
        assert code == 0, (command, err)
        assert git("status", "--porcelain") == "", command
    assert (
        load_run("LeNet5_regularization")[1]["settings"]["label_smoothing"] == 0.05
    )  # the fast one
    (digits,) = [
        run for run in (load_run(path.parent.relative_to("runs"))[1]
                        for path in Path("runs").glob("*/checkpoint.pt"))
        if run["settings"]["val_size"]
    ]  # fmt: skip
    assert digits["history"][-1]["val_accuracy"] > 85
    names = {path.name[:5] for path in own.glob("*.png")}
    assert len(names) == 605 and "00600" in names  # the five of sheet.jpg
    assert load_run("mine")[1]["settings"]["init"] == "data/weights/LeNet5.pt"


NETWORK = '''
class MyNet(nn.Module):
    """A small MLP without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False)
        )

    def forward(self, images):
        return self.layers(images)


MODELS'''
DRIVER = """
import sys
import model, main, compare
from experiments import ablation
from comparison import runs
from conftest import ThisProcess
if __name__ == "__main__":
    runs.processes = lambda count: ThisProcess()
    ablation.STEPS = {"baseline": {}, "clipped": {"clip": 1.0}}
    for module, flags in (
        (model, ""),
        (main, "--model_type MyNet --epochs 1 --clip 1"),
        (compare, "--models LeNet5 MyNet --seeds 2 --epochs 2 --clip 1"),
        (ablation, "--models MyNet --seeds 2 --epochs 1 --val_size 300"),
    ):
        sys.argv[1:] = flags.split()
        module.main()
"""


def test_a_network_and_a_setting_are_added_as_it_says(workplace, script):
    line = re.search(r'`("MyNet": MyNet,)`', README)[1]
    setting = re.search(r"`(clip: float = setting\(.*?\))`", README)[1]
    copy_of_the_repository(workplace)

    def edit(name, old, new):
        text = Path(name).read_text()
        assert text.count(old) == 1
        Path(name).write_text(text.replace(old, new))

    edit("model.py", "\nMODELS", NETWORK)
    edit("model.py", '    "CustomMLP": CustomMLP,\n', f'    "CustomMLP": CustomMLP,\n    {line}\n')
    edit("main.py", "    epochs: int =", f"    {setting}\n    epochs: int =")
    Path("driver.py").write_text(DRIVER)
    environment = {"PYTHONPATH": f".:{ROOT / 'tests'}", "PATH": ""}
    words = [sys.executable, "driver.py"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "Linear-2 (layers.1): 784*32 = 25,088\n" in done.stdout
    assert "MyNet (25,408 parameters) on " in done.stdout
    assert re.search(r"(?m)^\| .*MyNet.* significant \|$", done.stdout)
    rows, checkpoint = load_run("MyNet")
    assert len(rows) == 1 and checkpoint["settings"]["clip"] == 1.0
    assert Path("plots/accuracy_plot_MyNet.png").exists()
    (group,) = {path.parent for path in Path("runs/compare").glob("*/results.json")}
    assert (group / "confusion_matrix_MyNet.png").exists()
    steps = json.loads(Path("runs/ablation/ablation.json").read_text())["steps"]
    assert list(steps)[:2] == ["baseline", "clipped"]


def test_pictures_and_files_it_names_exist():
    for page in (ROOT / "README.md", ROOT / "plots/results/README.md"):
        pictures = re.findall(r"\]\(([^)#:]+?\.(?:png|md))\)", page.read_text())
        assert pictures and all((page.parent / picture).exists() for picture in pictures)
    shown = {path for page in ("README.md", "plots/results/README.md")
             for path in re.findall(r"[\w/]+\.png", (ROOT / page).read_text())}  # fmt: skip
    assert shown
    code = {str(path.relative_to(ROOT)) for pattern in ROOMS for path in ROOT.glob(pattern)}
    code = {name for name in code if not name.endswith("__init__.py")}
    cells = re.findall(r"(?m)^\| (`.*?) \|", README[README.index("## Files") :])
    assert code == {name for cell in cells for name in re.findall(r"`([\w/]+\.py)`", cell)}


def test_it_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 160
