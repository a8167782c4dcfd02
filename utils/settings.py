"""The args block's lines, the flags made from them, and what both refuse."""

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, NoReturn

from utils.files import UserError

KINDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def setting(
    default: Any,
    help: str,
    minimum: float = -math.inf,
    below: float = math.inf,
    above: float = -math.inf,
    choices: Iterable[str] = (),
) -> Any:
    """Return one line of the args block: a default, what --help says, and which values are allowed.

    A number may be its minimum, but is strictly above and below the other limits.
    """
    help = f"{help}: {', '.join(choices)}" if choices else help
    limits = {"minimum": minimum, "below": below, "above": above, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=limits | {"help": help})


def check_settings(args: Any) -> None:
    """Give settings their types; UserError for the first that its line does not allow."""
    for field in dataclasses.fields(args):
        if field.type in KINDS:
            setattr(args, field.name, _convert(args, field))
        value, limits = getattr(args, field.name), field.metadata
        if limits["choices"]:
            check_choice(field.name, value, limits["choices"])
        # Infinities fail the strict comparisons, NaN all of them.
        elif not isinstance(value, str) and not (
            limits["minimum"] <= value < limits["below"] and limits["above"] < value
        ):
            words = {"minimum": "at least", "above": "above", "below": "below"}
            parts = [f"{words[key]} {limits[key]}" for key in words if math.isfinite(limits[key])]
            raise UserError(f"--{field.name} {value}: must be {' and '.join(parts)}")


def _convert(args: Any, field: Any) -> Any:
    """Return a setting's value in its type: a notebook may give NumPy's numbers, or 1 for 1.0.

    Raises:
        UserError: if the type can't say the same.
    """
    value, kind = getattr(args, field.name), field.type
    with suppress(TypeError, ValueError, OverflowError):
        if isinstance(value, str) == (kind is str) and kind(value) == value:
            return kind(value)
    raise UserError(f"--{field.name} {value!r}: must be {KINDS[kind]}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError if a flag's value is none of the choices."""
    if value not in choices:
        raise UserError(f"--{name} {value}: unknown; known are {', '.join(choices)}")


def positive(text: str) -> int:
    """Return a flag's whole number of at least 1: a type for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return int(text)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors: one line instead of a page of usage."""

    def __init__(self, description: str | None = None) -> None:
        # No abbreviations: compare.py would take --seed for --seeds.
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        for before, word in pairwise(["the first word", *words]):
            if not word or re.fullmatch("--[a-z_]+=", word):  # as "$NAME" that is not set
                self.error(f"{word or before}: it or what follows is empty")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message} (--help lists the flags)")


def add_settings(
    parser: Parser,
    args_class: type,
    recipes: Mapping[str, Mapping[str, Any]],
    leave_out: tuple[str, ...] = (),
) -> None:
    """Give a parser --recipe, and a flag for every setting; flags not given set no attribute."""
    names = ", ".join(recipes)
    parser.add_argument("--recipe", help=f"named set of settings, which flags override: {names}")
    for field in dataclasses.fields(args_class):
        if field.name in leave_out:
            continue
        options: dict[str, Any] = {"type": field.type}
        if field.type is bool:
            options = {"action": argparse.BooleanOptionalAction}
        help = f"{field.metadata['help']} (default: {field.default})".replace("%", "%%")
        parser.add_argument(f"--{field.name}", default=argparse.SUPPRESS, help=help, **options)


def given_settings(
    flags: argparse.Namespace, args_class: type, recipes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the settings that the flags give: those of the recipe, overridden by single flags."""
    names = {field.name for field in dataclasses.fields(args_class)}
    given = {name: value for name, value in vars(flags).items() if name in names}
    if flags.recipe is None:
        return given
    check_choice("recipe", flags.recipe, recipes)
    return dict(recipes[flags.recipe]) | given
