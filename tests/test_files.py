"""utils/files.py: files are written whole or not at all, and commands end without a traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from utils import files
from utils.files import UserError, acquire_lock, atomic_write, write_all

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


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_all({tmp_path / "new": b"1", tmp_path: b"2"})


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


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_a_drive_without_locks_is_noted_and_its_folder_taken_once(
    tmp_path, monkeypatch, capsys, code
):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    lock = acquire_lock(tmp_path)
    assert lock is not None and acquire_lock(tmp_path) is None
    lock.release()
    assert acquire_lock(tmp_path) is not None
    notes = capsys.readouterr().err.splitlines()
    assert all(line.startswith("note: ") and str(tmp_path) in line for line in notes)


def test_another_error_of_a_lock_is_no_missing_lock(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with pytest.raises(UserError, match="make the folder writable"):
        acquire_lock(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX streams")
def test_a_service_without_streams_trains_all_the_same(small):
    flags = "--model_type CustomMLP --epochs 1"
    line = f"exec {sys.executable} {ROOT / 'main.py'} {flags} >&- 2>&-"
    assert subprocess.run(line, shell=True, timeout=110).returncode == 0
    assert (small / "runs/CustomMLP/metrics.csv").read_text().count("\n") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_a_closed_pipe_is_quiet():
    command = [sys.executable, ROOT / "model.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as head does once it has its lines
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs /dev/full")
@pytest.mark.parametrize("flags, output, words", [
    ("model.py", "/dev/full", "output: No space left on device"),
    (f"main.py --name {'L' * 300}", "/dev/null", "File name too long"),
])  # fmt: skip
def test_what_the_system_refuses_is_one_line(tmp_path, flags, output, words):
    line = f"exec {sys.executable} {ROOT}/{flags} > {output}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and words in done.stderr
