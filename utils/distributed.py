"""Several processes, started by torchrun, as PyTorch documents it.

    https://docs.pytorch.org/docs/stable/elastic/run.html

Rank and number come from the process group, never from the environment, which cluster launchers
fill as they please. Without torchrun there is one process of rank 0, and nothing here has an
effect.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.files import UserError


def rank() -> int:
    """Return this process's number; rank 0 alone prints and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Return whether this is the process that was started: no other rank, no worker of it."""
    return rank() == 0 and multiprocessing.parent_process() is None


def warn(text: str) -> None:
    """Print a warning on stderr, but not again in the other processes."""
    if is_first():
        print(f"warning: {text}", file=sys.stderr)


def init_processes() -> None:
    """Join the processes of torchrun: gloo carries CPU tensors, NCCL those of this rank's GPU."""
    if not dist.is_torchelastic_launched() or "RANK" not in os.environ:  # left in a shell
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group(backend="cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group(backend="gloo")


def end_processes() -> None:
    """Leave the process group, after all ranks have come to the end."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def broadcast(make: Callable[[], Any]) -> Any:
    """Call make() on rank 0 alone and return its result on every process.

    Raises:
        UserError: on rank 0, if make() does; the other processes then end too, silently.
    """
    outcome: list[Any] = [None, None]  # result, error
    if rank() == 0:
        try:
            outcome[0] = make()
        except UserError as refusal:
            outcome[1] = refusal
    if dist.is_initialized():
        dist.broadcast_object_list(outcome)
    result, error = outcome
    if error and rank() != 0:
        sys.exit(2)
    if error:
        raise error
    return result


def wrap_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model in DistributedDataParallel, which shares its parameters and gradients.

    On the CPU each process normalizes its own share, as PyTorch's SyncBatchNorm is for GPUs only.
    """
    if not dist.is_initialized():
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model)


def check_shares(model: nn.Module, num_images: int, batch_size: int) -> None:
    """Raise UserError where a process's share of a batch is too small for batch normalization."""
    smallest = (num_images % batch_size or batch_size) // world_size()
    if smallest < 2 and any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        raise UserError(
            f"--batch_size {batch_size}: the last batch of {num_images:,} images has fewer than 2 "
            "per process, which batch normalization needs; choose another"
        )
