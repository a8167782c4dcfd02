"""The rooms: imports run one way."""

import ast

import pytest
from conftest import ROOT
from test_command import imports

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
    names = set()
    for path in [*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/*.py")]:
        names |= imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {name.partition(".")[0] for name in names}
    assert imported & MAY_IMPORT.keys() - {room} <= MAY_IMPORT[room]
