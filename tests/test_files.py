"""utils/command.py: commands end without a traceback."""

import signal
import subprocess
import sys

import pytest
from conftest import ROOT

COMMANDS = ("main.py", "dataset.py", "compare.py", "model.py", "experiments/ablation.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_during_the_imports_is_quiet(tmp_path, name):
    for module in ("torch", "numpy"):
        (tmp_path / f"{module}.py").write_text("import os; os.kill(os.getpid(), 2)")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, ROOT / name], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_closed_pipe_is_quiet():
    command = [sys.executable, ROOT / "model.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as head does once it has its lines
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()
