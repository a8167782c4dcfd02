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
NO_NUMBERS = [f"utils/{name}.py" for name in ("command", "files", "plots", "settings")]
# Settings and data count by their values, and each network for itself.
BY_VALUE = {"RECIPES", "MODELS", "load_splits", "digest"}
# Settings that name a run within its group, or that stand in its identity in another form.
OTHERWISE = ("model_type", "seed", "data_dir", "device", "threads")


def source_of(code: str, path: Path) -> list[str]:
    """Return code and the source of all that it uses in a file and in those that it imports.

    That is found by its name alone: of two definitions with the same name both count.
    """
    definitions = _definitions(path)
    sources, seen = set(), BY_VALUE.copy()
    pending: list[ast.AST] = [ast.parse(code), *definitions[""]]
    while pending:
        statement = pending.pop()
        sources.add(ast.unparse(statement))
        for name in _names(statement) - seen:
            seen.add(name)
            pending += definitions.get(name, [])
    return sorted(sources)


@functools.cache
def _definitions(path: Path) -> dict[str, list[ast.AST]]:
    """Return what a file and those that it imports say of each name, without docstrings.

    Calls stand under "", and so does what is within an if or a try. Of Args only the methods count.
    """
    definitions: dict[str, list[ast.AST]] = {"": []}
    for tree in _imported(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
            if isinstance(node, ast.ClassDef) and node.name == "Args":
                node.body = [part for part in node.body if not isinstance(part, ast.AnnAssign)]
            if isinstance(node, ast.alias) and node.asname:
                definitions.setdefault(node.asname, []).append(node)
        for statement in tree.body:
            for name in _defined(statement):
                definitions.setdefault(name, []).append(statement)
    return definitions


def _defined(statement: ast.stmt) -> set[str]:
    """Return the names that a statement at the top of a file defines, or puts something into."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    if call or hasattr(statement, "body"):
        return set() if "__main__" in ast.unparse(statement) else {""}
    nodes = ast.walk(statement)
    stored = [node for node in nodes if isinstance(getattr(node, "ctx", None), ast.Store)]
    return set().union(*map(_names, stored))


def _imported(path: Path) -> list[ast.Module]:
    """Return a file and those of this folder that it imports, people's own too, parsed."""
    trees = []
    seen = {ROOT / name for name in NO_NUMBERS}
    pending = [path]
    while pending:
        file = pending.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        trees.append(ast.parse(file.read_bytes()))
        for node in ast.walk(trees[-1]):
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
    return trees


def _names(tree: ast.AST) -> set[str]:
    """Return all names in a statement or a part of it, and all texts: getattr() takes them."""
    kinds = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name", ast.Constant: "value"}
    return {getattr(node, kinds[type(node)]) for node in ast.walk(tree) if type(node) in kinds}


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
    if args.init != "random":
        settings["init"] = str(find_weights(args.init))
    for name, value in settings.items():
        if isinstance(value, str) and Path(value).is_file():  # what it holds, not where it lies
            settings[name] = hashlib.sha256(Path(value).read_bytes()).hexdigest()
    texts = [value for value in settings.values() if isinstance(value, str)]
    code = f"{run.__name__}, {texts}"  # as getattr(losses, args.loss) finds what a setting names
    identity = {
        "settings": settings,
        "code": source_of(code, Path(inspect.getfile(inspect.unwrap(run)))),
        "data": list(data),
        "device": select_device(args.device).type,
        "threads": args.threads,
        "processes": world_size(),
        "torch": torch.__version__,
    }
    return RUNS / "compare" / _key(identity)


def run_folder(args: Any, group: Path) -> Path:
    """Return the folder of a run within its group: the network, its code's digest, the seed."""
    key = _key(source_of(_entry(args.model_type), ROOT / "main.py"))
    return group / f"{args.model_type}-{key}-seed{args.seed}"


def _entry(model_type: str) -> str:
    """Return what model.py has in MODELS for a network; all of MODELS and its name if unclear."""
    statements = _definitions(ROOT / "main.py")["MODELS"]
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == model_type:
                    return ast.unparse(value)
    name = getattr(main.MODELS[model_type], "__name__", "")  # such as what a decorator registers
    return "\n".join([*map(ast.unparse, statements), name])
