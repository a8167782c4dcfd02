"""The rooms: imports run one way."""

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


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room):
    imported = set()
    for path in [*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    assert imported & MAY_IMPORT.keys() - {room} <= MAY_IMPORT[room]
