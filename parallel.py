"""Training over several processes, started by torchrun; without it, everything here is a no-op."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from files import UserError


def start(timeout: timedelta | None = None) -> None:
    """Join the processes that torchrun started: gloo carries CPU tensors, nccl CUDA tensors.

    The others are waited for, here and later, up to timeout (default: PyTorch's).
    """
    if "RANK" in os.environ:
        dist.init_process_group(timeout=timeout)


def stop() -> None:
    """Leave the group of processes."""
    if dist.is_initialized():
        gc.collect()  # a wrapped model that outlives the group can abort the process at its exit
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's number; number 0 alone prints and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def from_rank_0(value: object) -> object:
    """Return rank 0's value on every process."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def gather(value: object) -> list:
    """Return the values of all processes, in the order of their ranks, on every process."""
    values = [value]
    if dist.is_initialized():
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values


@contextmanager
def shared_errors() -> Iterator[None]:
    """What stops one process stops all, with the same line, so that none waits for another."""
    error = None
    try:
        yield
    except UserError as caught:
        error = caught
    for any_error in gather(error):
        if any_error:
            raise any_error


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes, with its gradient, which is such a sum too."""

    @staticmethod
    def forward(_, tensor: torch.Tensor) -> torch.Tensor:
        return add_up(tensor.clone())

    @staticmethod
    def backward(_, gradient: torch.Tensor) -> torch.Tensor:
        return add_up(gradient.clone())


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization over the whole batch of all processes.

    PyTorch's SyncBatchNorm does the same on CUDA only; this one runs on the CPU too.
    """

    def _check_input_dim(self, x: torch.Tensor) -> None:
        """Any [B, C, ...] will do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x, [B, C] or [B, C, H, W]; B is this process's share and may be 0."""
        if not self.training:
            return super().forward(x)
        others = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.new_tensor([x.numel() / x.size(1)])
        sums = _SumOverProcesses.apply(torch.cat([x.sum(others), x.square().sum(others), count]))
        count = sums[-1].detach()
        mean, mean_square = sums[:-1].view(2, -1) / count
        variance = mean_square - mean.square()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)


def spread(model: nn.Module) -> nn.Module:
    """Return the model wrapped for training over all processes; its parameters are shared."""
    if not dist.is_initialized():
        return model
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.__class__ = _GlobalBatchNorm
    return nn.parallel.DistributedDataParallel(model)
