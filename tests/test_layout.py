"""The rooms: imports run one way, and commands start with nothing that takes long to import."""

import ast

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
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for pattern in ROOMS
    for path in ROOT.glob(pattern)
}


def imports(module, anywhere):
    """Return what a module of this project imports, anywhere in it or at its start."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room):
    modules = [module for module in FILES if module.partition(".")[0] == room]
    imported = set().union(*(imports(module, anywhere=True) & FILES.keys() for module in modules))
    assert {module.partition(".")[0] for module in imported} - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("command", ["main", "dataset", "model", "compare", "predict"])
def test_commands_start_without_what_draws_or_computes_beside_torch(command):
    loaded, waiting = set(), {command}
    while waiting:
        module = waiting.pop()
        loaded.add(module)
        if module in FILES:
            waiting |= imports(module, anywhere=False) - loaded
    slow = {"matplotlib", "scipy", "torchvision", "onnxruntime", "distributed"}
    assert "torch" in loaded and not {name.partition(".")[0] for name in loaded} & slow
