"""utils/command.py: commands start soon and end without a traceback."""

import ast
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, copy_code, posix_only

from utils.command import run_command
from utils.files import atomic_write

COMMANDS = ("main", "dataset", "model", "compare", "predict", "experiments.ablation")


def file_of(module):
    return ROOT / f"{module.replace('.', '/')}.py"


def imports(nodes):
    """Return what nodes of a module's code import."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_import_nothing_slow_beside_torch(command):
    loaded, waiting = set(), {command}
    while waiting:
        module = waiting.pop()
        loaded.add(module)
        if file_of(module).exists():
            code = ast.parse(file_of(module).read_text(encoding="utf-8"))
            waiting |= imports(code.body) - loaded
    slow = {"matplotlib", "scipy", "torchvision", "onnxruntime", "distributed"}
    assert "torch" in loaded and not {name.partition(".")[0] for name in loaded} & slow


@posix_only
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_during_the_imports_is_quiet(tmp_path, command):
    for module in ("torch", "numpy"):
        (tmp_path / f"{module}.py").write_text("import os; os.kill(os.getpid(), 2)")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    words = [sys.executable, file_of(command)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("name, before, backend, expected", [
    ("main.py", "", "Qt4Agg", "False True False"),
    ("main.py", "import sys; sys.modules['IPython'] = sys", "agg", "True False True"),  # %run
    ("own.py", "", "agg", "True False True"),
])  # fmt: skip
def test_only_a_command_changes_ctrl_c_and_plots(tmp_path, name, before, backend, expected):
    copy_code(tmp_path, "utils/*.py")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True")
    (tmp_path / name).write_text(
        f"import signal\n{before}\nhandler = signal.getsignal(2)\n"
        "from utils.command import IS_COMMAND\nimport utils.plots\nimport matplotlib\n"
        "own = signal.getsignal(2) is handler\n"
        "print(own, IS_COMMAND, matplotlib.rcParams['text.usetex'])"
    )
    environment = os.environ | {"MPLBACKEND": backend}
    words = [sys.executable, tmp_path / name]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


@pytest.mark.parametrize("command, line", [
    (lambda: atomic_write(ROOT, b""), ".*: is a folder; .*"),
    (lambda: bytearray(2**60), "out of memory; .*help"),
    (lambda: torch.empty(2**60), "out of memory; .*help"),
])  # fmt: skip
def test_what_the_user_or_the_system_refuses_is_one_line(capsys, command, line):
    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 2
    assert re.fullmatch(f"{line}\n", capsys.readouterr().err)


def test_an_error_of_the_code_has_a_traceback():
    with pytest.raises(RuntimeError, match="shape"):
        run_command(lambda: torch.ones(2) @ torch.ones(3, 3))


@posix_only
@pytest.mark.parametrize("closed, printed", [("2>&-", "[1]\n"), (">&-", "")])
def test_a_closed_stream_ends_no_command(tmp_path, closed, printed):
    copy_code(tmp_path, "utils/*.py")
    (tmp_path / "main.py").write_text(
        "from utils.command import run_command\nfrom tqdm import tqdm\n"
        "run_command(lambda: print(list(tqdm([1], disable=None))))"
    )
    words = ["sh", "-c", f"'{sys.executable}' main.py {closed}"]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, printed)


def test_a_missing_package_is_named_in_one_line():
    # -S: without what pip installed
    for words in (["main.py"], ["-m", "experiments.ablation"], ["experiments/ablation.py"]):
        line = [sys.executable, "-S", *words]
        ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        assert ": not installed for " in ended.stderr and "requirements.txt" in ended.stderr


@posix_only
def test_a_closed_pipe_is_quiet():
    command = [sys.executable, ROOT / "model.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as head does once it has its lines
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()
