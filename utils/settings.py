"""Settings: from the lines of a dataclass to flags, their help and their checks; the device."""

import argparse
import dataclasses
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from utils.distributed import world_size
from utils.files import UserError


def setting(
    default: Any,
    help: str,
    minimum: float = -math.inf,
    below: float = math.inf,
    above: float = -math.inf,
    choices: Iterable[str] = (),
) -> Any:
    """Return one line of the args block.

    Args:
        default: the value where no flag is given; its type is the flag's.
        help: what --help and the README say.
        minimum, below, above: limits of a number.
        choices: the values allowed, if not all are.
    """
    help = f"{help}: {', '.join(choices)}" if choices else help
    limits = {"minimum": minimum, "below": below, "above": above}
    metadata = {"help": help, "choices": tuple(choices), **limits}
    return dataclasses.field(default=default, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors: one line instead of a page of usage."""

    def __init__(self, **options: Any) -> None:
        # No abbreviations: compare.py would take --seed for --seeds.
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message} (--help lists the flags)")


def parse_flags(
    args_class: type, recipes: Mapping[str, dict[str, Any]], description: str | None
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the flags of a single run, name and resume among them, and the settings they give."""
    parser = Parser(description=description)
    parser.add_argument("--name", help="of the run's folder in runs/ (default: the model_type)")
    parser.add_argument("--resume", action="store_true", help="resume the newest run, or NAME")
    add_settings(parser, args_class)
    flags = parser.parse_args()
    if flags.name is not None and not re.fullmatch(r"[\w-][\w.-]*", flags.name):
        parser.error(f"--name {flags.name!r}: use letters, digits, '-', '_' and '.'")
    return flags, given_settings(flags, args_class, recipes)


def add_settings(parser: Parser, args_class: type, leave_out: tuple[str, ...] = ()) -> None:
    """Give a parser --recipe, and a flag for every setting; flags not given set no attribute."""
    parser.add_argument("--recipe", help="named set of settings, see RECIPES; other flags override")
    for field in dataclasses.fields(args_class):
        if field.name in leave_out:
            continue
        options: dict[str, Any] = {"type": field.type}
        if field.type is bool:
            options = {"action": argparse.BooleanOptionalAction}
        help = f"{field.metadata['help']} (default: {field.default})"
        parser.add_argument(f"--{field.name}", default=argparse.SUPPRESS, help=help, **options)


def given_settings(
    flags: argparse.Namespace, args_class: type, recipes: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the settings that the flags give: those of the recipe, overridden by single flags.

    A recipe fixes every setting that any recipe changes, but for network and epochs.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(args_class)}
    given = {name: value for name, value in vars(flags).items() if name in defaults}
    if flags.recipe is None:
        return given
    check_choice("recipe", flags.recipe, recipes)
    changed = {name for settings in recipes.values() for name in settings}
    base = {name: defaults[name] for name in sorted(changed - {"model_type", "epochs"})}
    return base | recipes[flags.recipe] | given


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError if a flag's value is none of the choices."""
    if value not in choices:
        raise UserError(f"--{name} {value}: unknown; known are {', '.join(choices)}")


def check_settings(args: Any) -> None:
    """Raise UserError for the first setting that its line in the args block does not allow."""
    for field in dataclasses.fields(args):
        value, limits = getattr(args, field.name), field.metadata
        if limits["choices"]:
            check_choice(field.name, value, limits["choices"])
        # Infinities fail the strict comparisons, NaN all of them.
        if isinstance(value, int | float) and not (
            limits["minimum"] <= value < limits["below"] and limits["above"] < value
        ):
            words = {"minimum": "at least", "above": "above", "below": "below"}
            parts = [f"{words[key]} {limits[key]}" for key in words if math.isfinite(limits[key])]
            raise UserError(f"--{field.name} {value}: must be {' and '.join(parts)}")
    select_device(args.device)


def select_device(name: str) -> torch.device:
    """Return the device of that name; auto is CUDA, else MPS, else the CPU.

    Under torchrun "cuda" is the GPU with the process's own number on its machine.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto" and torch.cuda.is_available():
        name = "cuda"
    elif name == "auto":
        name = "mps" if torch.backends.mps.is_available() and world_size() == 1 else "cpu"
    try:
        device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:1 or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type):
        raise UserError(f"--device {device}: this machine or this PyTorch has none; use auto")
    if device.type == "mps" and world_size() > 1:
        raise UserError("--device mps: several processes can't share it; use --device cpu")
    return device


def processor_name(device_name: str, threads: int) -> str:
    """Return the name of the processor that runs use on that device, on a CPU with threads."""
    device = select_device(device_name)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''} per run"


def make_reproducible(seed: int, threads: int) -> None:
    """Seed PyTorch, allow only deterministic algorithms, and set the number of CPU threads.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for cuBLAS to be deterministic
    torch.use_deterministic_algorithms(True)
    # A debugging aid that costs 3 %.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)  # another number adds in another order
    torch.manual_seed(seed)
