"""utils/files.py: files are written whole or not at all, and commands end without a traceback."""

import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from utils.files import UserError, atomic_write, markers, with_table, write_all

COMMANDS = ("main.py", "dataset.py", "compare.py", "model.py", "experiments/ablation.py")
FULL_DISK = """
import resource, sys
from utils.files import UserError, atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_write(sys.argv[1], bytes(2000))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_full_disk_keeps_the_older_file(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"older")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], cwd=ROOT, capture_output=True, text=True
    )
    assert f"{path}: cannot be written" in done.stdout and done.stderr == ""
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]


def test_only_atomic_write_and_extraction_write_files():
    writing = re.compile(
        r"""write_bytes|write_text|savefig\((?!content)|(?<![.\w])open\([^)]*["'][wax]b?["']"""
    )
    found = {
        (path.name, line.strip())
        for pattern in ("*.py", "utils/*.py", "experiments/*.py")
        for path in ROOT.glob(pattern)
        for line in path.read_text().splitlines()
        if writing.search(line)
    }
    assert found == {
        ("files.py", 'with open(staged[path], "wb") as file:'),
        ("archives.py", 'with open(staging / name, "wb") as file:'),
    }


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_all({tmp_path / "new": b"1", tmp_path: b"2"})


def test_a_table_goes_between_its_markers(tmp_path):
    path = tmp_path / "README.md"
    first, last = markers("a")
    path.write_text(f"Before\n{first}\nold\n{last}\nAfter\n")
    assert with_table(path, "a", "new").decode() == f"Before\n{first}\nnew\n{last}\nAfter\n"
    with pytest.raises(UserError, match="missing"):
        with_table(path, "b", "new")
    with pytest.raises(UserError, match="missing"):
        with_table(tmp_path / "none.md", "a", "new")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_during_the_imports_is_quiet(tmp_path, name):
    for module in ("torch", "numpy"):
        (tmp_path / f"{module}.py").write_text("import os; os.kill(os.getpid(), 2)")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, ROOT / name], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_a_closed_pipe_is_quiet():
    command = [sys.executable, ROOT / "model.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as head does once it has its lines
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()
