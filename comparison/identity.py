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
NO_NUMBERS = [
    f"utils/{name}.py"
    for name in ("checkpoint", "command", "files", "metrics", "plots", "settings")
]
# Settings and data count by their values, and each network for itself.
BY_VALUE = {"Args", "RECIPES", "MODELS", "load_splits", "digest"}
# Settings that name a run within its group, or that stand in its identity in another form.
OTHERWISE = ("model_type", "seed", "data_dir", "device", "threads")


def source_of(code: str, path: str = "") -> list[str]:
    """Return code and the source of all that it uses in this project's files, and in one more.

    That is found by its name alone: of two definitions with the same name both count.
    """
    definitions = _project(path)
    sources, seen = set(), BY_VALUE | {""}
    pending: list[ast.AST] = [ast.parse(code), *definitions.get("", [])]
    while pending:
        statement = pending.pop()
        sources.add(ast.unparse(statement))
        for name in _names(statement) - seen:
            seen.add(name)
            pending += definitions.get(name, [])
    return sorted(sources)


@functools.cache
def _project(path: str) -> dict[str, list[ast.AST]]:
    """Return what all files that count say of each name, see _add_definitions()."""
    files = _imported(ROOT / "main.py")
    for name in NO_NUMBERS:
        files.pop(ROOT / name, None)
    if path:
        files[Path(path)] = ast.parse(Path(path).read_bytes())
    definitions: dict[str, list[ast.AST]] = {}
    for tree in files.values():
        for statement in tree.body:
            _add_definitions(definitions, statement)
    return definitions


def _imported(path: Path) -> dict[Path, ast.Module]:
    """Return a file and those of this folder that it imports, people's own too, parsed."""
    files: dict[Path, ast.Module] = {}
    pending = [path]
    while pending:
        file = pending.pop()
        if file in files or not file.is_file():
            continue
        files[file] = ast.parse(file.read_bytes())
        for node in ast.walk(files[file]):
            if isinstance(node, ast.Import):
                places = [ROOT.joinpath(*alias.name.split(".")) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = file.parents[node.level - 1] if node.level else ROOT
                place = start.joinpath(*(node.module or "").split("."))
                places = [place, *(place / alias.name for alias in node.names)]
            else:
                continue
            for place in places:
                package = place / "__init__.py", place.parent / "__init__.py"
                pending += [place.with_suffix(".py"), *package]
    return files


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


def _add_definitions(definitions: dict[str, list[ast.AST]], statement: ast.stmt) -> None:
    """Add a file's statement, without docstrings, to what is said of each name.

    That is what a name is, and what is put into it. Calls stand under "", and so does what is
    within an if or a try. Of a class that counts by its value the methods stand under theirs.
    """
    definition = isinstance(statement, ast.FunctionDef | ast.ClassDef)
    call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    block = hasattr(statement, "body") and not definition
    names = {""} if call or (block and "__main__" not in ast.unparse(statement)) else set()
    for node in ast.walk(statement):
        if isinstance(getattr(node, "ctx", None), ast.Store):
            names |= _names(node)
        if isinstance(node, ast.alias) and node.asname:
            definitions.setdefault(node.asname, []).append(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        names = {statement.name}
    if isinstance(statement, ast.ClassDef) and statement.name in BY_VALUE:
        for method in statement.body:
            if isinstance(method, ast.FunctionDef):
                _add_definitions(definitions, method)
    for name in names:
        definitions.setdefault(name, []).append(statement)


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
    """Return what model.py puts into MODELS for a network; all of MODELS if that is unclear."""
    statements = _project("")["MODELS"]
    found: list[ast.AST] = []
    for node in (node for statement in statements for node in ast.walk(statement)):
        pairs: list[tuple[Any, ast.expr]] = []
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            pairs = [(node.targets[0].slice, node.value)]
        found += [v for key, v in pairs if getattr(key, "value", None) == model_type]
    if not found:  # such as what a decorator registers
        name = getattr(main.MODELS.get(model_type), "__name__", model_type)
        found = [*statements, ast.Name(name)]
    return "\n".join(map(ast.unparse, found))
