"""What a run prints: its first line, and a line per epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn


def describe_run(
    args: Any, folder: Path, model: nn.Module, device: torch.device, splits: Sequence[Any]
) -> str:
    """Return the line that a run starts with: network, device, images, folder."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    training, evaluation = (len(split.labels) for split in splits)
    return (
        f"{args.model_type} ({parameters:,} parameters) on {device}, "
        f"{args.threads} CPU thread{'s' if args.threads > 1 else ''}: {training:,} training and "
        f"{evaluation:,} {'validation' if args.val_size else 'test'} images of {args.data_dir}, "
        f"run {folder}"
    )


def format_row(row: dict[str, float]) -> str:
    """Return an epoch's row as a line: Epoch: 1, Train Loss: 0.2219, Train Accuracy: 94.51, ..."""
    places = {"epoch": 0, "loss": 4}
    words = []
    for column, value in row.items():
        if column != "lr":  # which metrics.csv has
            digits = places.get(column.split("_")[-1], 2)
            words.append(f"{column.replace('_', ' ').title()}: {value:.{digits}f}")
    return ", ".join(words)
