"""What a run reports: its first line, and an epoch's row as it is saved and as it is printed."""

import math
from pathlib import Path
from typing import Any

from torch import nn

from utils.files import UserError
from utils.settings import select_device


def describe_run(args: Any, folder: Path, model: nn.Module, training: Any, evaluation: Any) -> str:
    """Return the line that a run starts with: network, device, images, folder."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = "validation" if args.val_size else "test"
    return (
        f"{args.model_type} ({parameters:,} parameters) on {select_device(args.device)}, "
        f"{args.threads} CPU thread{'s' if args.threads > 1 else ''}: "
        f"{len(training.labels):,} training and {len(evaluation.labels):,} {kind} images "
        f"of {args.data_dir}, run {folder}"
    )


def make_row(
    folder: Path,
    args: Any,
    epoch: int,
    trained: tuple[float, float],
    tested: tuple[float, float],
    seconds: float,
) -> dict[str, float]:
    """Return an epoch's row of metrics.csv; UserError if a loss is not finite."""
    if not math.isfinite(trained[0] + tested[0]):
        raise UserError(
            f"{folder}: the loss is not finite in epoch {epoch}; try a smaller --lr than "
            f"{args.lr} or a larger --batch_size than {args.batch_size}"
        )
    split = "val" if args.val_size else "test"
    columns = f"epoch train_loss train_accuracy {split}_loss {split}_accuracy seconds".split()
    return dict(zip(columns, (epoch, *trained, *tested, seconds), strict=True))


def format_row(row: dict[str, float]) -> str:
    """Return an epoch's row as a line: Epoch: 1, Train Loss: 0.2219, Train Accuracy: 94.51, ..."""
    digits = {"epoch": 0, "loss": 4}
    words = []
    for column, value in row.items():
        places = digits.get(column.split("_")[-1], 2)
        words.append(f"{column.replace('_', ' ').title()}: {value:.{places}f}")
    return ", ".join(words)
