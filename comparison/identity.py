"""What makes two runs the same run, down to the last bit.

A run depends on its settings, its images and labels, the code that decides its numbers, the kind
of device, the number of threads and of processes, and PyTorch. The code is that of main.run() and
of the network's line in MODELS with all that they name, and what that names in turn. Comments,
docstrings and layout don't count, nor does any other network.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import main
from utils.checkpoint import RUNS, find_weights
from utils.device import select_device
from utils.distributed import world_size

ROOT = Path(__file__).parent.parent
# What these files do decides no number: they write, read and print.
NO_NUMBERS = {"compare.py", "predict.py", "files.py", "checkpoint.py", "metrics.py", "settings.py"}
# Nor does what these rooms do.
OTHER_ROOMS = ("comparison", "reading", "experiments", "tests")
# Settings and data count by their values, and each network for itself.
BY_VALUE = {"Args", "RECIPES", "MODELS", "load_splits", "digest"}
# Settings that name a run within its group, or that stand in its identity in another form.
OTHERWISE = ("model_type", "seed", "data_dir", "device", "threads")


@functools.cache
def source_of(code: str, path: str = "") -> list[str]:
    """Return code and the source of all that it uses in this project's files, and in one more.

    That is found by its name alone: of two definitions with the same name both count.
    """
    paths = [*ROOT.glob("utils/*.py"), *_imported()] + ([Path(path)] if path else [])
    files = [_definitions(file) for file in paths if file.name not in NO_NUMBERS]
    sources, seen = set(), BY_VALUE.copy()
    pending: list[ast.AST] = [ast.parse(code)]
    while pending:
        statement = pending.pop()
        sources.add(ast.unparse(statement))
        for name in _names(statement) - seen:
            seen.add(name)
            pending += [definitions[name] for definitions in files if name in definitions]
    return sorted(sources)


def _imported() -> list[Path]:
    """Return the files beside this project's commands that are imported, those of people's too."""
    stems = [name.split(".") for name in sys.modules if name.split(".")[0] not in OTHER_ROOMS]
    places = [ROOT.joinpath(*stem) for stem in stems if stem[0] != "utils"]
    files = [file for place in places for file in (Path(f"{place}.py"), place / "__init__.py")]
    return [file for file in files if file.is_file()]


def _names(statement: ast.AST) -> set[str]:
    """Return all names in a statement."""
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.name)
    return names


def _definitions(path: Path) -> dict[str, ast.AST]:
    """Return a file's functions, classes, constants and renamed imports, without docstrings."""
    definitions: dict[str, ast.AST] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        names = []
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.append(node.id)
            if isinstance(node, ast.alias) and node.asname:
                definitions[node.asname] = node
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = [statement.name]
        definitions |= dict.fromkeys(names, statement)
    return definitions


def _key(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def group_folder(args: Any, data: Sequence[str], run: Callable = main.run) -> Path:
    """Return the folder of the runs that differ from this one in network and seed alone.

    Args:
        args: the settings; those that are 0 or False don't count, so that a new one whose default
            changes nothing makes no other run.
        data: digests of the images and labels to train on and to evaluate on.
        run: the function that trains.
    """
    settings = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name not in OTHERWISE and getattr(args, field.name)
    }
    if args.init != "random":  # what the file holds, not where it lies
        settings["init"] = hashlib.sha256(find_weights(args.init).read_bytes()).hexdigest()
    identity = {
        "settings": settings,
        "code": source_of(run.__name__, inspect.getfile(run)),
        "data": list(data),
        "device": select_device(args.device).type,
        "threads": args.threads,
        "processes": world_size(),
        "torch": torch.__version__,
    }
    return RUNS / "compare" / _key(identity)


def run_folder(args: Any, group: Path) -> Path:
    """Return the folder of a run within its group: the network, its code's digest, the seed."""
    key = _key(source_of(_entry(args.model_type)))
    return group / f"{args.model_type}-{key}-seed{args.seed}"


def _entry(model_type: str) -> str:
    """Return what MODELS in model.py has for a network, as it is written; all of it if unclear."""
    statement = _definitions(ROOT / "model.py")["MODELS"]
    for node in ast.walk(statement):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == model_type:
                    return ast.unparse(value)
    return ast.unparse(statement)
