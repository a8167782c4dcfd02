"""Speed and memory, variants in one run and alternating: python tests/benchmark.py

Prints for each network the seconds of a training epoch, medians over the rounds: the textbook way
(MNIST files through a DataLoader), main.py's way, and a bare loop of tensors; then what threads,
checkpoints, determinism and augmentation cost, how training scales over processes, peak memory.
With --commands it times the README's commands instead, into runs/costs.json.
"""

import json
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
from torch.utils.data import DataLoader, Subset

from dataset import MNIST, Batches, Split, load_splits, prepare
from main import RECIPES, Args, train
from model import MODELS
from utils.augment import make_augmentation
from utils.checkpoint import RUNS, save_run
from utils.command import run_command
from utils.device import make_reproducible, processor_name
from utils.files import atomic_write
from utils.settings import Parser

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
# The README's commands that a reader waits for.
COMMANDS = (
    ("dataset.py",),
    ("main.py",),
    ("main.py", "--model_type", "CustomMLP"),
    ("main.py", "--recipe", "fast"),
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


def seconds(step, *values) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    step(*values)
    return time.perf_counter() - started


def report(name: str, times: list[float], note: str = "") -> float:
    """Print a row, median and range; returns the median."""
    median = statistics.median(times)
    extent = f"{min(times):8.3f} to {max(times):.3f}"
    print(f"  {name:<34}{median:8.3f} s   {extent:<20} n={len(times)}  {note}", flush=True)
    return median


def compare_loops(split: Split, data_dir: str, rounds: int, share: float) -> None:
    """Textbook, main.py and bare loop, alternating."""
    count = len(split.labels)
    for model_type in ("LeNet5", "CustomMLP"):
        textbook, ours, bare = [], [], []
        our_epoch(model_type, split)  # warm up
        for _ in range(rounds):
            textbook.append(seconds(textbook_epoch, model_type, data_dir, share) / share)
            for _ in range(3):
                ours.append(seconds(our_epoch, model_type, split))
                bare.append(seconds(bare_epoch, model_type, split))
        print(f"\n{model_type}: one training epoch of {count:,} images, batch 64")
        rate = f"{count / statistics.median(textbook):,.0f} images/s"
        slow = report("textbook: files, DataLoader", textbook, rate)
        fast = report("main.py", ours, f"{count / statistics.median(ours):,.0f} images/s")
        floor = report("bare loop of tensors", bare)
        print(f"  textbook / main.py {slow / fast:.1f}   main.py / bare loop {fast / floor:.2f}")


def cost_of_threads(split: Split, rounds: int) -> None:
    """Seconds of an epoch with 1 and 2 threads, alone and beside a busy process."""
    print("\nThreads")
    for model_type in ("LeNet5", "CustomMLP"):
        for neighbours in (0, 1):
            times: dict[int, list[float]] = {1: [], 2: []}
            command = [sys.executable, "-c", "while True: pass"]
            busy = [subprocess.Popen(command) for _ in range(neighbours)]
            try:
                for _ in range(rounds):
                    for threads, seen in times.items():
                        torch.set_num_threads(threads)
                        seen.append(seconds(our_epoch, model_type, split))
            finally:
                torch.set_num_threads(1)
                for process in busy:
                    process.kill()
            beside = "busy neighbour" if neighbours else "idle machine"
            one, two = (
                report(f"{model_type}, {n} thread(s), {beside}", t) for n, t in times.items()
            )
            print(f"  2 threads / 1 thread {two / one:.2f}")


def cost_of_trust(split: Split, rounds: int) -> None:
    """Seconds of a checkpoint and of deterministic algorithms, in percent of an epoch."""
    print("\nCheckpoints and determinism")
    for model_type in ("LeNet5", "CustomMLP"):
        model = MODELS[model_type]().to(memory_format=torch.channels_last)
        generator, optimizer = torch.Generator(), sgd(model)
        few = Split(split.images[:640], split.labels[:640])
        train(model, Batches(few, 64, generator), optimizer, Args())
        history = [dict.fromkeys(("epoch", "train_loss", "test_loss", "seconds"), 0.0)] * 20
        epochs: dict[bool, list[float]] = {True: [], False: []}
        with tempfile.TemporaryDirectory() as folder:
            state = (Path(folder), Args(), [], model, optimizer, generator, history)
            saves = [seconds(save_run, *state) for _ in range(20)]
        for _ in range(3 * rounds):
            for deterministic, times in epochs.items():
                torch.set_deterministic_debug_mode(2 if deterministic else 0)
                times.append(seconds(our_epoch, model_type, split))
        torch.set_deterministic_debug_mode("error")
        epoch = report(f"{model_type}, deterministic", epochs[True])
        other = report(f"{model_type}, not deterministic", epochs[False])
        save = report(f"{model_type}, checkpoint and metrics", saves)
        print(f"  in percent of an epoch: checkpoint {100 * save / epoch:.1f}, ", end="")
        print(f"determinism {100 * epoch / other - 100:.1f}")


def cost_of_augmentation(split: Split, rounds: int) -> None:
    """Seconds of an epoch with the best recipe's augmentation and without, alternating."""
    augmentation = make_augmentation(Args(**RECIPES["best"]), CPU)
    print("\nAugmentation")
    for model_type in ("LeNet5", "CustomMLP"):
        times = {augmentation: [], None: []}
        for _ in range(3 * rounds):
            for choice, seen in times.items():
                seen.append(seconds(our_epoch, model_type, split, choice))
        augmented = report(f"{model_type}, augmented", times[augmentation])
        plain = report(f"{model_type}, not augmented", times[None])
        print(f"  augmentation's share of its epoch: {100 * (1 - plain / augmented):.0f} %")


def scaling(data_dir: str, rounds: int) -> None:
    """Seconds per epoch, test included, over 1 and 2 processes of one thread each."""
    print("\nLeNet5 over processes of one thread each, an epoch with its test")
    times: dict[int, list[float]] = {1: [], 2: []}
    flags = [str(ROOT / "main.py"), "--epochs", "2", "--data_dir", str(Path(data_dir).resolve())]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--local-addr", "127.0.0.1", "--nproc-per-node"]
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


def time_commands(rounds: int) -> None:
    """Time the README's commands in an empty folder; experiments/publish.py shows the medians."""
    times: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "data").mkdir()
            for path in (ROOT / "data").glob("*.tar.xz"):
                (Path(folder) / "data" / path.name).symlink_to(path)
            for command, seen in times.items():
                words = [sys.executable, str(ROOT / command[0]), *command[1:]]
                seen.append(seconds(lambda w=words: subprocess.run(w, cwd=folder, check=True)))
    costs = {"processor": processor_name("cpu", 1)}
    costs["seconds"] = {" ".join(("python", *command)): times[command] for command in COMMANDS}
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
    compare_loops(split, flags.data_dir, flags.rounds, flags.share)
    cost_of_threads(split, flags.rounds)
    cost_of_trust(split, flags.rounds)
    cost_of_augmentation(split, flags.rounds)
    scaling(flags.data_dir, flags.rounds)


if __name__ == "__main__":
    run_command(main)
