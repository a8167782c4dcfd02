"""The rooms: imports run one way, and every file can be read in one sitting."""

import ast

import pytest
from conftest import ROOT

# What each room may import; none imports experiments/.
MAY_IMPORT = {
    "utils": set(),
    "model": {"utils"},
    "dataset": {"utils"},
    "main": {"dataset", "model", "utils"},
    "compare": {"main", "dataset", "model", "utils"},
    "predict": {"dataset", "model", "utils"},
    "experiments": {"compare", "main", "dataset", "model", "utils"},
}
FILES = [
    path for pattern in ("*.py", "utils/*.py", "experiments/*.py") for path in ROOT.glob(pattern)
]


def imports(path):
    """Return the modules of this project that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    return names & ours


def room(module):
    return module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_run_one_way(path):
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert {room(module) for module in imports(path)} - {own} <= MAY_IMPORT[own]


def test_no_import_is_circular():
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imports(path) for path in FILES
    }
    while leaves := [module for module, used in graph.items() if not used]:
        graph = {module: used - set(leaves) for module, used in graph.items() if used}
    assert not graph


def test_main_and_every_function_can_be_read_in_one_sitting():
    assert len((ROOT / "main.py").read_text().splitlines()) <= 260
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, (path.name, node.name)
