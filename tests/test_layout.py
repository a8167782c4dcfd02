"""The rooms: imports run one way, and importing a command changes nothing around it."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# What each room may import; none imports experiments/.
TRAINING = {"utils", "dataset", "model", "main"}
MAY_IMPORT = {
    "utils": set(),
    "model": {"utils"},
    "dataset": {"utils"},
    "main": {"dataset", "model", "utils"},
    "comparison": TRAINING,
    "reading": {"dataset", "model", "utils"},
    "compare": TRAINING | {"comparison"},
    "predict": {"dataset", "model", "utils", "reading", "comparison"},
    "experiments": TRAINING | {"comparison", "compare", "reading", "predict"},
}
ROOMS = ("*.py", "utils/*.py", "comparison/*.py", "reading/*.py", "experiments/*.py")
FILES = [path for pattern in ROOMS for path in ROOT.glob(pattern)]


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path):
    """Return the modules of this project that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names & {module_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_one_way(path):
    room = module_of(path).split(".")[0]
    assert {module.split(".")[0] for module in imports(path)} - {room} <= MAY_IMPORT[room]


def test_importing_the_commands_loads_nothing_that_draws_or_computes_beside_torch():
    code = (
        "import sys, signal; before = signal.getsignal(signal.SIGINT)\n"
        "import main, dataset, model, compare, predict\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "slow = {'matplotlib', 'scipy', 'torchvision', 'onnxruntime', 'distributed'}\n"
        "print(slow & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
