"""Real images from the shipped archives, in folders small enough for fast tests."""

import csv
import importlib
import io
import multiprocessing.forkserver
import os
import re
import shlex
import shutil
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

# Before PyTorch is imported, here and in every process that the tests start: beside other busy
# processes a second thread makes everything many times slower.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from comparison import runs
from comparison.results import load_comparison
from experiments.study import load_study
from utils.archives import parse_name
from utils.command import run_command

ROOT = Path(__file__).parent.parent
SIZES = {"train": 2000, "test": 500}
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits")
# The files that take longest: the workers take one file after the other, and end together.
SLOW = ("test_readme", "test_page", "test_photos", "test_cluster", "test_predict", "test_runs")


def pytest_collection_modifyitems(items):
    """Let the slow files be the first."""
    place = {name: index for index, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.stem, len(SLOW)))


def tar_bytes(members, mode="w"):
    """Return an archive of (name, content) pairs; a TarInfo in a name's place is taken as it is."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:
        for name, data in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = member.size or len(data)
            tar.addfile(member, io.BytesIO(data) if data else None)
    return content.getvalue()


def write_archives(folder, real, num_train, num_test):
    """Write archives of the first images of each split."""
    folder.mkdir(exist_ok=True)
    for split, number in (("train", num_train), ("test", num_test)):
        members = [(f"{split}/{name}", content) for name, content in real[split][:number]]
        (folder / f"{split}.tar").write_bytes(tar_bytes(members))
    return folder


def copy_code(folder, *patterns):
    """Copy the repository's files of these patterns into a folder."""
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def tree(folder):
    """Return every path below a folder with its content, but for locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def load_run(name):
    """Return (rows of metrics.csv as floats, checkpoint) of a run."""
    with open(f"runs/{name}/metrics.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return rows, torch.load(f"runs/{name}/checkpoint.pt", weights_only=True)


def same_run(name, other):
    """Assert that two runs have bit-identical weights, metrics and random state."""
    (rows, checkpoint), (other_rows, other_checkpoint) = load_run(name), load_run(other)
    assert len(rows) == len(other_rows) > 0
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row | {"seconds": 0} == other_row | {"seconds": 0}
    for key, value in checkpoint["model"].items():
        assert torch.equal(value, other_checkpoint["model"][key]), key
    assert torch.equal(checkpoint["generator"], other_checkpoint["generator"])


def commands(page):
    """Return the command lines of a page's sh blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]


@contextmanager
def full_disk(size):
    """Within this, this process can write files of at most so many bytes."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def wait_for(condition):
    """Wait until condition() is true."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def decode(content):
    """Return the pixels of a PNG, by Pillow alone."""
    return np.asarray(Image.open(io.BytesIO(content)))


def images_of(members):
    """Return the images uint8 [N, 28, 28] and labels int [N] of (name, PNG file) pairs."""
    images = np.stack([decode(content) for _, content in members])
    return images, np.array([parse_name(name)[1] for name, _ in members])


def results(recipe):
    """Return a recipe's published comparison."""
    return load_comparison(ROOT / f"plots/results/{recipe}.json")


def study(name):
    """Return a published study."""
    return load_study(ROOT / f"plots/results/{name}.json")


@pytest.fixture(scope="session")
def real():
    """The first members of the shipped archives: split -> list of (name, PNG bytes)."""
    members = {}
    for split, size in SIZES.items():
        with tarfile.open(ROOT / f"data/{split}.tar.xz", "r|xz") as tar:
            files = ((member.name, tar.extractfile(member).read()) for member in tar)
            members[split] = [(Path(name).name, content) for name, content in islice(files, size)]
    return members


@pytest.fixture(scope="session")
def digits(real):
    """The first 500 test images uint8 [500, 28, 28], and their labels int [500]."""
    return images_of(real["test"])


@pytest.fixture(scope="session")
def small_data(tmp_path_factory, real):
    """A data folder of 300 and 100 images, for tests that only read it: extracted once."""
    return write_archives(tmp_path_factory.mktemp("small_data"), real, 300, 100)


@pytest.fixture
def small(tmp_path, monkeypatch, small_data):
    """A working folder where data is that small folder."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(small_data)
    return tmp_path


@pytest.fixture
def fresh(tmp_path, monkeypatch, real):
    """A working folder with archives of 300 and 100 images of its own, not yet extracted."""
    monkeypatch.chdir(tmp_path)
    write_archives(tmp_path / "data", real, 300, 100)
    return tmp_path


@pytest.fixture
def cli(monkeypatch, capfd):
    """Run a script's main() as its command line would; returns (exit code, stdout, stderr)."""

    def run(module, *flags):
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, flags)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(module.main)
        return (ended.value.code, *capfd.readouterr())

    return run


@pytest.fixture
def refused(cli):
    """Assert that a command ends with code 2 and one line, as after a UserError; returns the line.

    Nothing else is printed but by main.py, which may have said what it trains.
    """

    def run(module, *flags):
        code, out, err = cli(module, *flags)
        assert (code, err.count("\n")) == (2, 1), err
        assert out == "" or (out.startswith(("LeNet5", "CustomMLP")) and out.count("\n") == 1)
        return err

    return run


@pytest.fixture
def run_line(cli):
    """Run a line such as python main.py --epochs 1, in this process, as cli() does."""

    def run(line):
        name, *flags = (word for word in shlex.split(line)[1:] if word != "-m")
        name = name.removeprefix("tests/").removesuffix(".py")
        return cli(importlib.import_module(name), *flags)

    return run


@pytest.fixture(scope="session")
def forkserver():
    """The way to start processes that does not import PyTorch and the tests for each of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "compare", "utils.plots", "conftest"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        multiprocessing.forkserver.ensure_running()
    return context


def run_module(module, *flags):
    """Run a script's main() in this process, which ends with it; stderr goes to stderr.txt."""
    # A cluster launcher's variables mean nothing without torchrun.
    os.environ |= {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    sys.argv[1:] = flags
    sys.stderr = open("stderr.txt", "a")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)  # for its own processes too
    run_command(importlib.import_module(module).main)


@pytest.fixture
def no_processes(monkeypatch):
    """Let compare.py and the studies train in this process, as to start others takes longer."""
    monkeypatch.setattr(runs, "processes", lambda count: ThreadPoolExecutor(1))


@pytest.fixture
def empty_plots(monkeypatch):
    """Let plots be empty files, as to render one takes longer than a short run."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


@pytest.fixture(scope="session")
def shipped_test_images():
    """MNIST's 10,000 test images, decoded once."""
    return predict.shipped_test_images()


@pytest.fixture
def processes(monkeypatch):
    """Call processes(number, rank) to be one of so many processes."""

    def join(number, rank=0):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: number)
        for name in ("get_rank", "get_node_local_rank"):
            monkeypatch.setattr(torch.distributed, name, lambda: rank)

    return join
