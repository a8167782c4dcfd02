"""Where a run computes, and how its numbers become reproducible."""

import os
import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from utils.distributed import world_size
from utils.files import UserError


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
    local_rank = dist.get_node_local_rank() if dist.is_initialized() else 0
    try:
        device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
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
    """Seed random numbers, allow only deterministic algorithms, set the number of CPU threads.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for cuBLAS to be deterministic
    # As torch.use_deterministic_algorithms(True), which imports a compiler, for a second.
    torch.set_deterministic_debug_mode("error")
    # A debugging aid that costs 3 %.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)  # another number adds in another order
    seed_all(seed)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the random numbers of PyTorch's CPU, NumPy and Python back as they were before.

    Else a search in a notebook would draw the same settings again after each run.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def seed_all(seed: int) -> None:
    """Seed PyTorch, and NumPy and Python, from which your own augmentation may draw."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
