"""comparison/runs.py: what makes two runs the same, and runs side by side."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from comparison import runs
from comparison.runs import cores, group_folder
from main import Args

DATA = ("a digest", "another")


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the code that trains, whose identity is asked for."""
    for name in runs.CODE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    runs.code_digest.cache_clear()
    yield tmp_path
    runs.code_digest.cache_clear()


def group(**settings):
    runs.code_digest.cache_clear()
    return group_folder(Args(device="cpu", **settings), DATA)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name, old, new", [
    ("model.py", "x = F.relu(self.fc1(images.flatten(1)))", "x = self.fc1(images.flatten(1))"),
    ("main.py", "optimizer.zero_grad()", "optimizer.zero_grad(set_to_none=False)"),
    ("dataset.py", "MEAN, STD = 0.1307, 0.3081", "MEAN, STD = 0.5, 0.5"),
    ("utils/augment.py", "KNOTS = 4", "KNOTS = 5"),
])  # fmt: skip
def test_other_code_is_another_run(code, name, old, new):
    before = group()
    edit(code / name, old, new)
    assert group() != before


def test_comments_layout_and_a_new_setting_change_nothing(code):
    before = group()
    edit(
        code / "model.py",
        "        x = F.relu(self.fc2(x))\n",
        "\n        # why\n        x = F.relu( self.fc2(x) )\n",
    )
    edit(
        code / "main.py",
        "    epochs: int =",
        "    clip: float = setting(0.0, 'norm')\n    epochs: int =",
    )
    edit(code / "main.py", '"weight_decay": 0.0003', '"weight_decay": 0.1')  # of a recipe
    assert group() == before


def test_settings_data_threads_and_pytorch_are_part_of_it(monkeypatch):
    before = group()
    assert group(seed=7, model_type="CustomMLP", data_dir="elsewhere") == before
    monkeypatch.setattr(Args.__dataclass_fields__["epochs"], "default", 5)  # a default that changed
    assert group(epochs=20) == before != group(epochs=5)
    monkeypatch.undo()
    others = [group(lr=0.5), group(deskew=True), group(threads=2), group(epochs=3)]
    others.append(group_folder(Args(device="cpu"), ("a digest", "of other labels")))
    monkeypatch.setattr("torch.__version__", "0.0")
    assert len({before, *others, group()}) == 7


def test_initial_weights_count_by_what_they_are(tmp_path):
    one, other, copy = (tmp_path / f"{name}.pt" for name in ("one", "other", "copy"))
    one.write_bytes(b"weights")
    other.write_bytes(b"other weights")
    copy.write_bytes(b"weights")
    assert group(init=str(one)) == group(init=str(copy))
    assert len({group(), group(init=str(one)), group(init=str(other))}) == 3


def test_cores_honour_affinity_and_quota(tmp_path, monkeypatch):
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(runs, "QUOTA", quota)
    assert cores() == 64
    for text, expected in (("max 100000", 64), ("200000 100000", 2), ("50000 100000", 1)):
        quota.write_text(text)
        assert cores() == expected


def test_workers_end_with_the_process_that_started_them(workplace, script):
    probe = Path("probe.py")
    probe.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from comparison.runs import _start_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), _start_worker)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    os._exit(9)\n"
    )
    # Waits, until its time limit, for every process that holds the pipe: the worker too.
    assert script(probe.absolute()).returncode == 9
