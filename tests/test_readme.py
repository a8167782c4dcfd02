"""README.md: its lines run as they stand and leave git clean, its files and links exist."""

import base64
import contextlib
import importlib
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import (
    ROOT,
    commands,
    copy_code,
    images_of,
    load_run,
    results,
    tar_bytes,
    write_archives,
)
from nbclient import NotebookClient
from photographs import photograph

import predict
from experiments import data_size
from reading.classifier import UNCERTAIN
from reading.sheet import MAX_DIGITS

README = (ROOT / "README.md").read_text()
ROOMS = ("*.py", "utils/*.py", "comparison/*.py", "reading/*.py", "experiments/*.py")
CODE = (*ROOMS, "reading/*.html", "tests/benchmark.py", ".gitignore", "README.md",
        "requirements.txt", "docs/index.html")  # fmt: skip

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
    "python main.py --data_dir my_digits --val_size 20 --recipe best --batch_size 16 --lr 0.02 "
    "--epochs 60": "--epochs 12",
}
# The environment is CI's, which runs these tests; the others are run by test_predict,
# test_distributed and test_cluster.
ELSEWHERE = ("python3 -m", "python -m pytest", "python predict.py --export", "torchrun", "dask",
             "python compare.py --cluster")  # fmt: skip


def git(*words):
    words = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *words)
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory, real):
    """A clone with small archives and the files that a reader has made."""
    folder = tmp_path_factory.mktemp("clone")
    with contextlib.chdir(folder):
        copy_code(folder, *CODE)
        shutil.copytree(ROOT / "data/weights", "data/weights")
        write_archives(Path("data"), real, 600, 100)
        images, _ = images_of(real["test"][:20])
        for number, name in enumerate(("photo", "row", "sheet", "sheet2")):
            generator = np.random.default_rng(number)
            content = photograph(images[5 * number :][:5], generator, largest=5)
            Path(f"{name}.jpg").write_bytes(content)
        people = {
            "anna": ("train", real["train"][:30]),
            "ben": ("train", real["train"][30:50]),
            "carl": ("test", real["test"][:20]),
        }
        for person, (split, members) in people.items():
            tar = tar_bytes((f"{split}/{name}", content) for name, content in members)
            Path(f"{person}.tar").write_bytes(tar)
        Path("my_digits/train").mkdir(parents=True)
        for name, content in real["train"][:600]:
            Path("my_digits/train", name).write_bytes(content)
        git("init", "-q")
        git("add", "-A", "-f")
        git("commit", "-qm", "everything")
    return folder


def lines_to_run():
    """Return the README's command lines; of the first one what follows the installation."""
    lines = [line for line in commands(README) if not line.startswith(ELSEWHERE)]
    assert lines[0].startswith("pip install -r requirements.txt && ")
    return [line.partition(" && ")[2] or line for line in lines]


def test_commands_run_and_leave_git_clean(
    clone, run_line, monkeypatch, no_processes, empty_plots, shipped_test_images
):
    monkeypatch.chdir(clone)
    monkeypatch.syspath_prepend(ROOT / "tests")
    benchmark = importlib.import_module("benchmark")
    for name in ("scaling", "peak_memory"):  # these start PyTorch again
        monkeypatch.setattr(benchmark, name, lambda *_: None)
    monkeypatch.setattr(predict, "shipped_test_images", lambda: shipped_test_images)
    lines, printed = lines_to_run(), {}
    assert set(SHORTER) <= set(lines)
    for command in lines:
        code, printed[command], err = run_line(f"{command} {SHORTER.get(command, '')}")
        assert code == 0, (command, err)
    assert git("status", "--porcelain") == ""  # so docs/index.html is what --page writes
    fast = load_run("LeNet5_regularization")[1]["settings"]
    assert fast["label_smoothing"] == 0.05 and fast["epochs"] == 1
    assert printed["python main.py --resume"].count("already finished: Epoch: 5") == 1
    runs = [load_run(path.parent.name)[1] for path in Path("runs").glob("*/checkpoint.pt")]
    (digits,) = [run for run in runs if run["settings"]["val_size"]]
    assert digits["history"][-1]["val_accuracy"] > 85
    names = {path.name[:5] for path in Path("my_digits/train").glob("*.png")}
    assert len(names) == 605 and "00600" in names  # the five of sheet.jpg
    assert [path.name for path in sorted(Path("class").glob("*.tar"))] == ["test.tar", "train.tar"]
    (tested,) = [out for line, out in printed.items() if "--run ours --test" in line]
    assert re.match(r"ours on class/test: 20 images, .* accuracy (9\d\.|100)", tested)
    page, ours = Path("ours.html").read_text(), load_run("ours")[1]
    init = "with the initial weights data/weights/LeNet5.pt"
    assert f"LeNet-5 is run ours, trained on 50 images, {init}." in page
    assert base64.b64encode(ours["model"]["fc3.bias"].numpy().tobytes()).decode() in page


def test_python_blocks_run_in_a_notebook_and_draw_there(clone, monkeypatch):
    monkeypatch.chdir(clone)
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(clone.with_name(f"{clone.name} {variable}")))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    checks = "[list(images.shape), list(probabilities.shape), len(probabilities.sum(1))]"
    cells = [nbformat.v4.new_code_cell(source) for source in (*blocks, checks)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": str(clone)}}
    NotebookClient(notebook, timeout=110, resources=place, shutdown_kernel="immediate").execute()
    plotting, reading, checking = (cell["outputs"] for cell in notebook.cells)
    assert [output for output in plotting if "image/png" in output.get("data", ())]
    assert "Epoch: 3, " in "".join(output.get("text", "") for output in plotting)
    assert len(load_run("notebook")[0]) == 3
    assert reading == []
    assert checking[0]["data"]["text/plain"] == "[[1, 1, 28, 28], [1, 10], 1]"
    assert git("status", "--porcelain") == ""


def test_pictures_pages_and_files_it_names_exist():
    for name in ("README.md", "plots/results/README.md", "docs/exercises.md", "docs/answers.md"):
        page = ROOT / name
        text = page.read_text()
        named = re.findall(r'\]\(([^)#:]+)\)|src="(.*?)"', text)
        assert named and all(
            (page.parent / (link.strip() or source)).exists() for link, source in named
        )
    cells = re.findall(r"(?m)^\| (`.*?) \|", README[README.index("## Files") :])
    named = {name for cell in cells for name in re.findall(r"`([\w/]+(?:\.py)?)`", cell)}
    assert all((ROOT / name).exists() for name in named)
    code = git("-C", str(ROOT), "ls-files", "*.py").split()
    rooms = {name.partition("/")[0] + "/" if "/" in name else name for name in code}
    assert rooms <= named


def test_numbers_in_the_text_are_those_of_the_code():
    pages = {"README.md": README}
    for name in ("plots/results/README.md", "docs/exercises.md", "docs/answers.md"):
        pages[name] = (ROOT / name).read_text()
    pages = {name: re.sub(r"\s+", " ", text) for name, text in pages.items()}
    headings = [
        re.findall(r"## (\d+)\. ", pages[f"docs/{name}.md"]) for name in ("exercises", "answers")
    ]
    assert headings == 2 * [[str(number) for number in range(1, 12)]]
    setup = results("baseline").setup
    torch_version = setup["versions"]["torch"].partition("+")[0]
    processor = setup["processor"].partition(",")[0]
    pinned = re.findall(r"(?m)^torch(?:vision)?==.*$", (ROOT / "requirements.txt").read_text())
    least = f"{100 * UNCERTAIN:.0f} %"
    for name, expected in (
        ("README.md", "with [eleven exercises]"),
        ("docs/exercises.md", "# Eleven exercises"),
        ("README.md", f"`pip install {' '.join(pinned)} --index-url"),
        ("README.md", f"A digit below {least} is shown as `?`"),
        ("docs/exercises.md", f"a probability below {least} is shown as `?`"),
        ("README.md", f"a sheet of at most {MAX_DIGITS} digits"),
        ("README.md", f"# {data_size.SIZES[0]} to {data_size.SIZES[-1]:,} training images"),
        ("docs/exercises.md", f"measured on an {processor} with PyTorch {torch_version},"),
    ):
        assert expected in pages[name], expected
