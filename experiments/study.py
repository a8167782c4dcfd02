"""What the studies share: when they may be published, their runs, and where results go."""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from compare import RESULTS
from comparison.stats import METHOD
from utils.checkpoint import RUNS, load_checkpoint
from utils.device import processor_name
from utils.files import UserError, with_table, write_all
from utils.settings import Parser


def refuse_trials(parser: Parser, flags: argparse.Namespace, seeds: int, fixed: list[str]) -> None:
    """Check the number of seeds and, with --publish, that this is the full study.

    Args:
        parser: of the flags.
        flags: seeds and publish among them.
        seeds: the fewest to publish.
        fixed: the flags that must have their defaults.

    Raises:
        UserError: if there is no seed, or --publish would show a trial.
    """
    if flags.seeds < 1:
        parser.error(f"--seeds {flags.seeds}: must be at least 1")
    trial = any(getattr(flags, name) != parser.get_default(name) for name in fixed)
    if flags.publish and (trial or flags.seeds < seeds):
        others = f"--{', --'.join(fixed[:-1])} or --{fixed[-1]}"
        parser.error(f"--publish takes {seeds} seeds or more, and no {others}")


def refuse_other_data(flags: argparse.Namespace, data: str) -> None:
    """Raise UserError if --publish would show other images, as described, than the shipped ones."""
    if flags.publish and not data.startswith("MNIST,"):
        raise UserError(f"--data_dir {flags.data_dir}: --publish takes the shipped data only")


def refuse_failures(failed: list[Path], jobs: dict[Path, Any]) -> None:
    """Raise UserError if runs failed."""
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed; start again to retry")


def final_accuracies(folders: list[Path], column: str) -> list[float]:
    """Return the last accuracy, in percent, of each finished run: val_accuracy or test_accuracy."""
    return [load_checkpoint(folder)["history"][-1][column] for folder in folders]


def describe_setup(args: Any) -> dict[str, Any]:
    """Return what every study's JSON says of how its numbers were made."""
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "processor": processor_name(args.device, args.threads),
        "method": METHOD,
    }


def write_study(
    name: str, results: dict[str, Any], table: str, pictures: dict[str, bytes], publish: bool
) -> None:
    """Print a study's table and write its results and pictures, to plots/results/ if published."""
    folder = RESULTS if publish else RUNS / name
    files = {folder / f"{title}.png": picture for title, picture in pictures.items()}
    files[folder / f"{name}.json"] = (json.dumps(results, indent=1) + "\n").encode()
    if publish:
        files[RESULTS / "README.md"] = with_table(RESULTS / "README.md", name, table)
    write_all(files)
    print(table, f"results and plots: {folder}", sep="\n\n")
