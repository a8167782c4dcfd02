"""Speed and memory of training, every variant in one run, alternating: python tests/benchmark.py

Prints for each network the seconds of one training epoch, medians over the rounds: the textbook
way (MNIST files through a DataLoader), main.py's way, and a bare loop of tensors; then what
checkpoints, determinism and random warps cost, how training scales over processes, and peak memory.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from augment import Warp
from files import command
from torch.utils.data import DataLoader

import main
from dataset import MNIST, Batches
from main import Args
from model import MODELS

ROOT = Path(__file__).parent.parent


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    """The optimizer of the defaults."""
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=True)


def textbook_epoch(model_type: str, data_dir: str, share: float) -> None:
    """Train over a share of the files, through a DataLoader, as tutorials do."""
    split = MNIST(Path(data_dir) / "train")
    subset = torch.utils.data.Subset(split, range(round(share * len(split))))
    model = MODELS[model_type]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    for images, labels in DataLoader(subset, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()


def our_epoch(
    model_type: str, images: torch.Tensor, labels: torch.Tensor, warp: Warp | None = None
) -> None:
    """Train one epoch with main.py's code."""
    model = MODELS[model_type]().to(images.device, memory_format=torch.channels_last)
    main.train(model, Batches(images, labels, 64, torch.Generator(), warp), sgd(model))


def bare_epoch(model_type: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train one epoch in the shortest loop there is: the floor, without any figures of it."""
    model = MODELS[model_type]().to(images.device, memory_format=torch.channels_last).train()
    optimizer = sgd(model)
    for batch in torch.randperm(len(labels)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


def seconds(step, *values) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    step(*values)
    return time.perf_counter() - started


def report(name: str, times: list[float], note: str = "") -> float:
    """Print a row, median and spread; returns the median."""
    median = statistics.median(times)
    spread = f"{min(times):8.3f} to {max(times):.3f}"
    print(f"  {name:<34}{median:8.3f} s   {spread:<20} n={len(times)}  {note}")
    return median


def compare_loops(data_dir: str, rounds: int, share: float) -> None:
    """Textbook, main.py and bare loop, alternating."""
    images, labels = main.load(Path(data_dir, "train").resolve(), torch.device("cpu"))
    count = len(labels)
    for model_type in ("LeNet5", "CustomMLP"):
        textbook, ours, bare = [], [], []
        our_epoch(model_type, images, labels)  # warm up
        for _ in range(rounds):
            textbook.append(seconds(textbook_epoch, model_type, data_dir, share) / share)
            for _ in range(3):
                ours.append(seconds(our_epoch, model_type, images, labels))
                bare.append(seconds(bare_epoch, model_type, images, labels))
        print(f"\n{model_type}: one training epoch of {count:,} images, batch 64")
        slow = report(
            "textbook: files, DataLoader",
            textbook,
            f"{count / statistics.median(textbook):,.0f} images/s",
        )
        fast = report("main.py", ours, f"{count / statistics.median(ours):,.0f} images/s")
        floor = report("bare loop of tensors", bare)
        print(f"  textbook / main.py {slow / fast:.1f}   main.py / bare loop {fast / floor:.2f}")


def cost_of_trust(data_dir: str, rounds: int) -> None:
    """Seconds of a checkpoint and of deterministic algorithms, in percent of an epoch."""
    device = torch.device("cpu")
    images, labels = main.load(Path(data_dir, "train").resolve(), device)
    print("\nCost of checkpoints and of determinism")
    for model_type in ("LeNet5", "CustomMLP"):
        model = MODELS[model_type]().to(memory_format=torch.channels_last)
        generator, optimizer = torch.Generator(), sgd(model)
        main.train(model, Batches(images[:640], labels[:640], 64, generator), optimizer)
        history = [dict.fromkeys(main.COLUMNS, 0.0)] * 20
        epochs = {True: [], False: []}
        with tempfile.TemporaryDirectory() as folder:
            state = (Path(folder), Args(), model, optimizer, generator, history)
            saves = [seconds(main.save_run, *state) for _ in range(20)]
        for _ in range(3 * rounds):
            for deterministic, times in epochs.items():
                torch.use_deterministic_algorithms(deterministic)
                times.append(seconds(our_epoch, model_type, images, labels))
        epoch = report(f"{model_type}, deterministic", epochs[True])
        other = report(f"{model_type}, not deterministic", epochs[False])
        save = report(f"{model_type}, checkpoint and metrics", saves)
        print(f"  in percent of an epoch: checkpoint {100 * save / epoch:.1f}, ", end="")
        print(f"determinism {100 * epoch / other - 100:.1f}")


def cost_of_warps(data_dir: str, rounds: int) -> None:
    """Seconds of an epoch with the best recipe's random warps and without, alternating."""
    images, labels = main.load(Path(data_dir, "train").resolve(), torch.device("cpu"))
    warp = main.make_warp(Args(**main.RECIPES["best"]), torch.device("cpu"))
    print("\nCost of random warps")
    for model_type in ("LeNet5", "CustomMLP"):
        times = {warp: [], None: []}
        for _ in range(3 * rounds):
            for choice, seen in times.items():
                seen.append(seconds(our_epoch, model_type, images, labels, choice))
        warped = report(f"{model_type}, warped", times[warp])
        plain = report(f"{model_type}, not warped", times[None])
        print(f"  the warps' share of the warped epoch: {100 * (1 - plain / warped):.0f} %")


def scaling(data_dir: str, rounds: int) -> None:
    """Seconds an epoch, test included, over 1 and 2 processes of one thread each."""
    print("\nScaling of LeNet5 over processes of one thread each, an epoch with its test")
    times = {1: [], 2: []}
    flags = [str(ROOT / "main.py"), "--epochs", "2", "--data_dir", str(Path(data_dir).resolve())]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for _ in range(rounds):
        for processes, seen in times.items():
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [*torchrun, str(processes), *flags], cwd=folder, text=True, check=True,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            seen += [float(s) for s in re.findall(r"Epoch: 2,.*Seconds: ([\d.]+)", done.stdout)]
    one, two = (report(f"{processes} process(es)", seen) for processes, seen in times.items())
    print(f"  1 process / 2 processes {one / two:.2f}")


def peak_memory(data_dir: str) -> None:
    """Peak memory of one epoch of main.py in a process of its own, in MB."""
    import resource

    flags = ["--epochs", "1", "--data_dir", str(Path(data_dir).resolve())]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, ROOT / "main.py", *flags],
            cwd=folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss's unit
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    print(f"\nPeak memory of python main.py --epochs 1: {peak / 1e6:,.0f} MB")


def run_all() -> None:
    """Run every measurement, under main.py's settings of PyTorch."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default=str(ROOT / "data"), help="folder of the images")
    parser.add_argument("--rounds", type=int, default=3, help="times each variant is measured")
    parser.add_argument("--share", type=float, default=1.0, help="of the files the textbook reads")
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {flags.rounds} rounds")
    peak_memory(flags.data_dir)  # first, while it is the only child
    compare_loops(flags.data_dir, flags.rounds, flags.share)
    cost_of_trust(flags.data_dir, flags.rounds)
    cost_of_warps(flags.data_dir, flags.rounds)
    scaling(flags.data_dir, flags.rounds)


if __name__ == "__main__":
    command(run_all)
