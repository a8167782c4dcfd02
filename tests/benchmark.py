"""Speed and memory, variants in one run and alternating: python tests/benchmark.py

Prints for each network the seconds of a training epoch, medians over the rounds: main.py's way, the
textbook way (MNIST files through a DataLoader), a bare loop of tensors, with augmentation; how
training scales over processes; peak memory.
With --commands it times the README's commands instead, into runs/costs.json.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset

from dataset import MNIST, Batches, Split, load_splits, prepare
from main import RECIPES, Args, train
from model import MODELS
from utils.augment import make_augmentation
from utils.checkpoint import RUNS
from utils.command import run_command
from utils.device import make_reproducible, processor_name
from utils.files import atomic_write
from utils.settings import Parser

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
# The README's commands that a reader waits for.
COMMANDS = (
    "python dataset.py",
    "python main.py",
    "python main.py --model_type CustomMLP",
    "python main.py --recipe fast",
)


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    """The optimizer of the defaults."""
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=True)


def textbook_epoch(model_type: str, data_dir: str, share: float) -> None:
    """Train over a share of the files, through a DataLoader, as tutorials do."""
    split = MNIST(Path(data_dir) / "train")
    subset = Subset(split, range(round(share * len(split))))
    model = MODELS[model_type]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    for images, labels in DataLoader(subset, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()


def our_epoch(model_type: str, split: Split, augmentation=None) -> None:
    """Train one epoch with main.py's code."""
    model = MODELS[model_type]().to(memory_format=torch.channels_last)
    train(model, Batches(split, 64, torch.Generator(), augmentation), sgd(model), Args())


def bare_epoch(model_type: str, split: Split) -> None:
    """Train one epoch in the shortest loop there is: the floor, without any figures of it."""
    model = MODELS[model_type]().to(memory_format=torch.channels_last).train()
    optimizer = sgd(model)
    for batch in torch.randperm(len(split.labels)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(split.images[batch]), split.labels[batch]).backward()
        optimizer.step()


def alternate(title: str, rounds: int, variants: dict[str, Callable[[], None]]) -> None:
    """Time variants, one after the other in each round; print medians, ranges, and their ratio."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    next(iter(variants.values()))()  # warm up
    for _ in range(rounds):
        for name, step in variants.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    print(f"\n{title}")
    first = statistics.median(next(iter(times.values())))
    for name, seen in times.items():
        median = statistics.median(seen)
        extent = f"{min(seen):.3f} to {max(seen):.3f}"
        print(f"  {name:<28}{median:9.3f} s   {extent:<18} {median / first:6.2f}", flush=True)


def run_main(data_dir: str, epochs: int, *launcher: str) -> None:
    """Run main.py in an empty folder, without what it prints."""
    flags = ["--epochs", str(epochs), "--data_dir", str(Path(data_dir).resolve())]
    words = [sys.executable, *launcher, str(ROOT / "main.py"), *flags]
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(words, cwd=folder, check=True, **quiet)


def scaling(data_dir: str, rounds: int) -> None:
    """Time main.py over 1 and 2 processes of one thread each, start-up included."""
    torchrun = "-m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node"
    variants = {
        f"{number} process(es)": partial(run_main, data_dir, 2, *torchrun.split(), str(number))
        for number in (1, 2)
    }
    alternate("LeNet5, 2 epochs over processes of one thread each", rounds, variants)


def peak_memory(data_dir: str) -> None:
    """Peak memory of one epoch of main.py in a process of its own, in MB."""
    import resource

    run_main(data_dir, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss's unit
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    print(f"\nPeak memory of python main.py --epochs 1: {peak / 1e6:,.0f} MB")


def time_commands(rounds: int) -> None:
    """Time the README's commands in an empty folder; experiments/publish.py shows the medians."""
    times: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "data").mkdir()
            for path in (ROOT / "data").glob("*.tar.xz"):
                (Path(folder) / "data" / path.name).symlink_to(path)
            for command, seen in times.items():
                _, script, *flags = command.split()
                started = time.perf_counter()
                subprocess.run([sys.executable, ROOT / script, *flags], cwd=folder, check=True)
                seen.append(time.perf_counter() - started)
    costs = {"processor": processor_name("cpu", 1), "seconds": times}
    atomic_write(RUNS / "costs.json", (json.dumps(costs, indent=1) + "\n").encode())
    print(json.dumps(costs, indent=1))


def main() -> None:
    """Run every measurement, under main.py's settings of PyTorch."""
    make_reproducible(seed=0, threads=1)
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", default="data", help="folder of the images")
    parser.add_argument("--rounds", type=int, default=3, help="times each variant is measured")
    parser.add_argument("--share", type=float, default=1.0, help="of the images that are used")
    parser.add_argument("--commands", action="store_true", help="time the README's commands")
    flags = parser.parse_args()
    if flags.commands:
        time_commands(flags.rounds)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {flags.rounds} rounds")
    peak_memory(flags.data_dir)  # first, while it is the only child
    split = prepare(load_splits(flags.data_dir, 0)[0], False, CPU)
    count = round(flags.share * len(split.labels))
    split = Split(split.images[:count], split.labels[:count])
    augmentation = make_augmentation(Args(**RECIPES["best"]), CPU)
    for model_type in ("LeNet5", "CustomMLP"):
        epoch = partial(our_epoch, model_type, split)
        textbook = partial(textbook_epoch, model_type, flags.data_dir, flags.share)
        variants = {
            "main.py": epoch,
            "textbook: files, DataLoader": textbook,
            "bare loop of tensors": partial(bare_epoch, model_type, split),
            "augmented": partial(our_epoch, model_type, split, augmentation),
        }
        title = f"{model_type}: one training epoch of {count:,} images, batch 64"
        alternate(title, flags.rounds, variants)
    scaling(flags.data_dir, flags.rounds)


if __name__ == "__main__":
    run_command(main)
