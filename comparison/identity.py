"""What makes two runs the same run, down to the last bit.

A run depends on its settings, its images and labels, the code that decides its numbers, the kind
of device, the number of threads and of processes, and PyTorch. The code is followed from main.run()
and from the network: what they name counts, and what that names in turn. Comments, docstrings and
layout don't count, nor does any other network.
"""

import ast
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import main
from model import MODELS
from utils.checkpoint import RUNS, find_weights
from utils.device import select_device
from utils.distributed import world_size

ROOT = Path(__file__).parent.parent
# Settings count by their values and networks by their classes. What these modules do decides no
# number: they write, read and print.
NOT_FOLLOWED = (
    "main.Args",
    "main.RECIPES",
    "model.MODELS",
    "dataset.load_splits",
    "dataset.digest",
)
NO_NUMBERS = ("utils.files", "utils.checkpoint", "utils.metrics", "utils.settings")
# Settings that name a run within its group, or that stand in its identity in another form.
OTHERWISE = ("model_type", "seed", "data_dir", "device", "threads")


# --- Code -------------------------------------------------------------------------------------


@functools.cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """Return a module's top-level statements by the names they define; {} if it is not ours."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    return {name: statement for statement in body for name in _defined_names(statement)}


def _defined_names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _origin(module: str, name: str) -> tuple[str, str]:
    """Follow imports from a name in a module to (module, name) of its definition, "" for a module.

    The module is "" where the name leads out of this project.
    """
    statement = _definitions(module).get(name)
    if not isinstance(statement, ast.ImportFrom) or statement.level or not statement.module:
        return (module, name) if statement and not isinstance(statement, ast.Import) else ("", "")
    (real,) = [alias.name for alias in statement.names if name in (alias.asname, alias.name)]
    if _definitions(f"{statement.module}.{real}"):
        return f"{statement.module}.{real}", ""
    return _origin(statement.module, real)


def _used(module: str, statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of everything of this project that a statement names."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield _origin(module, node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner, name = _origin(module, node.value.id)
            if owner and not name:  # an attribute of one of our modules
                yield _origin(owner, node.attr)


def _plain_source(statement: ast.stmt) -> str:
    """Return a statement's source without comments, docstrings and layout."""
    copy = ast.parse(ast.unparse(statement))
    for node in ast.walk(copy):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(copy)


def source_of(module: str, name: str) -> str:
    """Return the source of a function or class and of all that it uses in this project."""
    pending, sources = [(module, name)], {}
    while pending:
        module, name = pending.pop()
        statement = _definitions(module).get(name)
        key = f"{module}.{name}"
        if statement is None or key in sources or key in NOT_FOLLOWED or module in NO_NUMBERS:
            continue
        sources[key] = _plain_source(statement)
        pending += _used(module, statement)
    return "\n".join(f"{key}: {sources[key]}" for key in sorted(sources))


# --- Folders ----------------------------------------------------------------------------------


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
        "code": [source_of(run.__module__, run.__name__)],
        "data": list(data),
        "device": select_device(args.device).type,
        "threads": args.threads,
        "processes": world_size(),
        "torch": torch.__version__,
    }
    return RUNS / "compare" / _key(identity)


def run_folder(args: Any, group: Path) -> Path:
    """Return the folder of a run within its group: the network, its code's digest, the seed."""
    network = MODELS[args.model_type]
    key = _key(source_of(network.__module__, network.__name__))
    return group / f"{args.model_type}-{key}-seed{args.seed}"
