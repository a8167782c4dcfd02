"""Train every network with many seeds and compare them: which is better, by how much, how sure.

    python compare.py                                       3 networks, 10 seeds, 20 epochs
    python compare.py --seeds 3 --epochs 5 --models LeNet5 CustomMLP
    python compare.py --recipe best --first_seed 10         another recipe, with seeds 10 to 19
    torchrun --standalone --nproc-per-node 2 compare.py     the runs shared out over processes

On a CPU as many runs go side by side as there are cores, on a GPU one after the other. Finished
runs are kept in runs/compare/: started again, it goes on with what is missing. Writes the table
into README.md, and plots/results.json, from which every number of it can be computed again; for
another recipe plots/results_RECIPE.json, and every picture's name ends in _RECIPE too.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import platform
import sys
from datetime import timedelta
from itertools import combinations
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import main as training
import parallel
from files import Parser, UserError, claim, command, write_whole
from main import COLUMNS, Args
from model import MODELS

RESAMPLES = 10_000
METHOD = (
    f"95 % percentile bootstrap of the mean, {RESAMPLES:,} resamples of the runs, "
    "widened by sqrt(n / (n - 1)) for few runs"
)
REPORTED = {"CustomMLP": 97.14, "LeNet5": 98.77, "LeNet5_regularization": 98.86}  # one run each
ORDER = ("CustomMLP", "LeNet5", "LeNet5_regularization")
MEASURES = ("test_accuracy", "test_loss", "train_accuracy", "train_loss")


# --- Statistics -------------------------------------------------------------------------------


def interval(values: list[float]) -> list[float] | None:
    """Return [low, high], the 95 % interval of the mean of n values; None for fewer than two.

    The percentile bootstrap (Efron, 1979). Resampling n values underestimates the variance of
    their mean by (n - 1) / n, so the interval is widened about the mean (Hesterberg, 2015).
    """
    n = len(values)
    if n < 2:
        return None
    sample = np.asarray(values)
    picks = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    deviations = sample[picks].mean(axis=1) - sample.mean()
    low, high = np.percentile(deviations, [2.5, 97.5]) * np.sqrt(n / (n - 1))
    return [float(sample.mean() + low), float(sample.mean() + high)]


def describe(values: list[float]) -> dict:
    """Return n, mean, its 95 % interval, min and max of values."""
    mean = float(np.mean(values))
    return {"n": len(values), "mean": mean, "interval": interval(values),
            "min": min(values), "max": max(values)}  # fmt: skip


def summarise(runs: list[dict]) -> dict:
    """Return for each model its finals and its means over the epochs, from the runs' curves."""
    summary = {}
    for model_type in ORDER:
        curves = [run["curves"] for run in runs if run["model_type"] == model_type]
        if curves:
            final = {m: describe([curve[m][-1] for curve in curves]) for m in MEASURES}
            over = {m: describe([float(np.mean(c[m])) for c in curves]) for m in MEASURES}
            summary[model_type] = {"final": final, "mean_over_epochs": over}
    return summary


def pair_up(runs: list[dict]) -> list[dict]:
    """Return the differences of final test accuracy between models, paired by seed."""
    finals = {
        model_type: {
            run["seed"]: run["curves"]["test_accuracy"][-1]
            for run in runs
            if run["model_type"] == model_type
        }
        for model_type in ORDER
    }
    pairs = []
    for one, other in combinations(ORDER, 2):
        seeds = sorted(finals[one].keys() & finals[other].keys())
        if seeds:
            differences = [finals[other][seed] - finals[one][seed] for seed in seeds]
            pairs.append({"better": other, "than": one, **describe(differences)})
            if pairs[-1]["mean"] < 0:
                differences = [-difference for difference in differences]
                pairs[-1] = {"better": one, "than": other, **describe(differences)}
    return pairs


def verdict(pair: dict) -> str:
    """Return what a difference says: the interval leaves out 0, or the runs don't tell."""
    names = {"LeNet5": "LeNet-5", "LeNet5_regularization": "LeNet-5 with regularization"}
    better, than = (names.get(pair[key], pair[key]) for key in ("better", "than"))
    if pair["interval"] is None:
        return f"{better} and {than}: one run each tells nothing"
    figures = f"{with_interval(pair, 2)} points"
    if pair["interval"][0] > 0:
        return f"{better} is better than {than} by {figures}"
    return f"{better} and {than} are not told apart by {pair['n']} runs: {figures}"


def render_table(results: dict) -> str:
    """Return the results as Markdown, for the terminal and the README."""
    changed = {
        name: value
        for name, value in results["settings"].items()
        if name not in ("epochs", "device") and value != getattr(Args, name)
    }
    heads = ["network", "parameters", "test accuracy, %", "min to max", "test loss"]
    heads += ["train accuracy, %", "train loss", "test accuracy, mean over epochs"]
    heads += [] if changed else ["earlier report"]  # those were made with the defaults
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for model_type, parts in results["summary"].items():
        final, over = parts["final"], parts["mean_over_epochs"]
        accuracy = final["test_accuracy"]
        parameters = sum(weight.numel() for weight in MODELS[model_type]().parameters())
        cells = [
            model_type,
            f"{parameters:,}",
            with_interval(accuracy, 2),
            f"{accuracy['min']:.2f} to {accuracy['max']:.2f}",
            with_interval(final["test_loss"], 4),
            with_interval(final["train_accuracy"], 2),
            with_interval(final["train_loss"], 4),
            with_interval(over["test_accuracy"], 2),
            f"{REPORTED[model_type]:.2f}",
        ]
        lines.append(f"| {' | '.join(cells[: len(heads)])} |")
    seeds = sorted({run["seed"] for run in results["runs"]})
    epochs = results["settings"]["epochs"]
    lines += [
        "",
        f"Means of {len(seeds)} runs (seeds {seeds[0]} to {seeds[-1]}) after "
        f"{epochs} epoch{'' if epochs == 1 else 's'}, in brackets the {results['method']}. "
        f"PyTorch {results['versions']['torch']} on {results['processor']}.",
    ]
    if changed:
        settings = ", ".join(f"{name} {value}" for name, value in changed.items())
        lines[-1] += f" Settings other than the defaults: {settings}."
    if results.get("at_once") == 1:  # side by side, runs take longer
        lines[-1] += f" Seconds of a run, its tests included: {_seconds(results['runs'])}."
    if results["differences"]:
        lines += ["", "Differences in test accuracy, paired by seed:", ""]
        lines += [f"- {verdict(pair)}" for pair in results["differences"]]
    return "\n".join(lines)


def _seconds(runs: list[dict]) -> str:
    totals: dict[str, list[float]] = {}
    for run in runs:
        totals.setdefault(run["model_type"], []).append(sum(run["curves"]["seconds"]))
    return "; ".join(
        f"{name} {np.median(values):.1f} (median; {min(values):.1f} to {max(values):.1f})"
        for name, values in totals.items()
    )


def with_interval(part: dict, digits: int, sign: str = "") -> str:
    """Return a mean and, if there is one, its interval; with sign "+" gains show theirs."""
    text = f"{part['mean']:{sign}.{digits}f}"
    if part["interval"]:
        text += " [{:{sign}.{d}f}, {:{sign}.{d}f}]".format(*part["interval"], sign=sign, d=digits)
    return text


# --- Many runs --------------------------------------------------------------------------------


def folder_of(args: Args) -> Path:
    """Return the folder of a run: runs with other settings or PyTorch have other folders."""
    rest = dataclasses.asdict(args) | {"model_type": "", "seed": 0, "torch": torch.__version__}
    key = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]
    return training.RUNS / "compare" / key / f"{args.model_type}-seed{args.seed}"


def epochs_done(folder: Path) -> int:
    """Return how many epochs a run has behind it."""
    metrics = folder / "metrics.csv"
    return max(len(metrics.read_text().splitlines()) - 1, 0) if metrics.exists() else 0


def train_one(args: Args, threads: int | None = None) -> None:
    """Train one run to its end, from where it stands; in a process of its own if on a CPU."""
    if threads:
        torch.set_num_threads(threads)
    folder = folder_of(args)
    # Waits for a process that outlived a killed compare.py; held as long as the name is there.
    _lock = claim(folder, timeout=-1)
    there = (folder / "checkpoint.pt").exists()
    checkpoint = training.load_checkpoint(folder)[1] if there else None
    training.run(args, folder, checkpoint, on_epoch=lambda row: None)


def _child(args: Args, threads: int) -> None:
    os.environ.pop("RANK", None)  # it is a run of its own, and may print its error
    command(lambda: train_one(args, threads))


def cores() -> int:
    """Return how many cores there are for each of torchrun's processes on this machine."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def threads_each(at_once: int) -> int:
    """Return how many threads a run has when so many share the cores."""
    return max(cores() // at_once, 1)


def train_side_by_side(jobs: list[Args], at_once: int, bar: tqdm) -> list[str]:
    """Train runs, each in a process of its own; returns the names that failed."""
    threads = threads_each(at_once)
    context = multiprocessing.get_context("spawn")
    waiting, running, failed = list(jobs), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                args = waiting.pop(0)
                process = context.Process(target=_child, args=(args, threads), daemon=True)
                process.start()
                running[process.sentinel] = (process, args)
            ended = wait(list(running), timeout=1)
            for sentinel in ended:
                process, args = running.pop(sentinel)
                process.join()
                error = f"failed, exit code {process.exitcode}" if process.exitcode else ""
                if error:
                    failed.append(folder_of(args).name)
                _tell(bar, args, error)
            _show(bar, jobs, [args for _, args in running.values()])
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()
    return failed


def train_in_turn(jobs: list[Args], bar: tqdm) -> list[str]:
    """Train runs one after the other in this process, for a GPU; returns the names that failed."""
    failed = []
    for args in jobs:
        _show(bar, jobs, [args])
        error = ""
        try:
            train_one(args)
        except UserError as caught:
            error = str(caught)
            failed.append(folder_of(args).name)
        _tell(bar, args, error)
    return failed


def _tell(bar: tqdm, args: Args, error: str) -> None:
    if error:
        bar.write(f"{folder_of(args).name}: {error}", file=sys.stderr)
    else:
        row = training.load_checkpoint(folder_of(args))[1]["history"][-1]
        accuracy = f"{training.tested(args)} accuracy {row['test_accuracy']:.2f}"
        bar.write(f"{folder_of(args).name}: {accuracy}")


def _show(bar: tqdm, jobs: list[Args], running: list[Args]) -> None:
    done = [epochs_done(folder_of(args)) for args in jobs]
    finished = sum(epochs == args.epochs for epochs, args in zip(done, jobs, strict=True))
    names = ", ".join(folder_of(args).name for args in running)
    bar.set_description(f"{finished} of {len(jobs)} runs done, running: {names or 'none'}")
    bar.update(sum(done) - bar.n)


def train_all(jobs: list[Args], device: torch.device, at_once: int) -> list[str]:
    """Train this process's share of the runs, on a CPU so many at once.

    Returns:
        The names of the runs that failed.
    """
    mine = [args for args in jobs if epochs_done(folder_of(args)) < args.epochs]
    behind = sum(epochs_done(folder_of(args)) for args in mine)
    total = sum(args.epochs for args in mine)
    print(
        f"{len(jobs) - len(mine)} of {len(jobs)} runs are there, {len(mine)} to train", flush=True
    )
    with tqdm(total=total, initial=behind, unit=" epochs", disable=None) as bar:
        if device.type != "cpu":
            return train_in_turn(mine, bar)
        return train_side_by_side(mine, at_once, bar)


def collect(args: Args) -> dict | None:
    """Return a finished run: model_type, seed, curves and weights; None where it failed."""
    folder = folder_of(args)
    if epochs_done(folder) < args.epochs:
        return None
    checkpoint = training.load_checkpoint(folder)[1]
    curves = {column: [row[column] for row in checkpoint["history"]] for column in COLUMNS}
    run = {"model_type": args.model_type, "seed": args.seed, "curves": curves}
    return run | {"weights": checkpoint["model"]}


# --- Results ----------------------------------------------------------------------------------


@torch.inference_mode()
def probabilities(run: dict, images: torch.Tensor) -> np.ndarray:
    """Return a run's class probabilities, float32 [N, 10], for images [N, 1, 28, 28]."""
    model = MODELS[run["model_type"]]().to(images.device).eval()
    model.load_state_dict(run["weights"])
    logits = [model(batch) for batch in images.split(training.EVALUATION_BATCH)]
    return torch.cat(logits).softmax(dim=1).cpu().numpy()


def processor(at_once: int) -> str:
    """Return the name of this machine's processor, and how runs use it, so many at once."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = threads_each(at_once)
    plural = f"{threads} threads" if threads > 1 else "one thread"
    return f"{names[0] if names else platform.processor() or platform.machine()}, {plural} a run"


def build_results(runs: list[dict], args: Args, at_once: int) -> dict:
    """Return what results.json holds: how the runs were made, their curves, and the statistics."""
    settings = dataclasses.asdict(args)
    del settings["model_type"], settings["seed"], settings["data_dir"]
    kept = [{key: run[key] for key in ("model_type", "seed", "curves")} for run in runs]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "settings": settings,
        "versions": versions | {"numpy": np.__version__},
        "processor": processor(at_once),
        "at_once": at_once,
        "method": METHOD,
        "summary": summarise(kept),
        "differences": pair_up(kept),
        "runs": kept,
    }


def markers(name: str) -> tuple[str, str]:
    """Return the lines of the README between which the table of that name stands."""
    return f"<!-- {name}: written by a script -->", f"<!-- end of {name} -->"


def write_readme(table: str, name: str) -> None:
    """Put the table between the README's markers of that name, where there is such a README."""
    path = Path("README.md")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    first, last = markers(name)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if begin and end:
        text = f"{before}{begin}\n{table}\n{end}{after}"
        write_whole(path, text.encode())


def publish(results: dict, table: str, name: str) -> None:
    """Write plots/{name}.json and the README's table of that name."""
    content = json.dumps(results, indent=1) + "\n"
    write_whole(Path(f"plots/{name}.json"), content.encode())
    write_readme(table, name)


def draw(
    runs: list[dict], results: dict, images: torch.Tensor, labels: torch.Tensor, suffix: str
) -> None:
    """Draw every comparison plot; images and labels are those of the test split."""
    import figures

    pixels = images.cpu().squeeze(1).numpy()
    truth = labels.cpu().numpy()
    if results["settings"]["epochs"] > 1:  # a curve of one point is none
        figures.plot_comparison(results["runs"], "accuracy", suffix)
        figures.plot_comparison(results["runs"], "loss", suffix)
    figures.plot_finals(results["runs"], results["summary"], suffix)
    for model_type in results["summary"]:
        own = [run for run in runs if run["model_type"] == model_type]
        shares = [probabilities(run, images) for run in own]
        counts = np.zeros((10, 10), dtype=int)
        for share in shares:
            np.add.at(counts, (truth, share.argmax(axis=1)), 1)
        figures.plot_confusion(model_type, counts, len(own), suffix)
        figures.plot_misclassified(model_type, pixels, truth, shares[0], own[0]["seed"], suffix)
        if model_type == "LeNet5":
            weight, bias = own[0]["weights"]["conv1.weight"], own[0]["weights"]["conv1.bias"]
            maps = torch.relu(torch.nn.functional.conv2d(images[:1].cpu(), weight, bias))[0]
            figures.plot_filters(weight.squeeze(1).numpy(), pixels[0], maps.numpy(), suffix)


def report(runs: list[dict], args: Args, recipe: str, at_once: int) -> None:
    """Write results.json, the README's table and the plots, and print the table."""
    suffix = "" if recipe == "baseline" else f"_{recipe}"
    results = build_results(runs, args, at_once)
    table = render_table(results)
    publish(results, table, f"results{suffix}")
    _, (_, (images, labels)) = training.prepare(args)
    draw(runs, results, images, labels, suffix)
    print(table)


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, seeds, and the settings that are for all runs and for the test."""
    parser = Parser(description=__doc__)
    parser.add_argument("--models", nargs="+", help="networks (default: the recipe's, or all)")
    parser.add_argument("--seeds", type=int, default=10, help="runs a network (default: 10)")
    parser.add_argument("--first_seed", type=int, default=0, help="then 1 more each (default: 0)")
    parser.add_argument(
        "--at_once", type=int, default=cores(), help="runs that share a CPU (default: its cores)"
    )
    training.add_settings(parser, leave_out=("model_type", "seed", "holdout"))
    flags = parser.parse_args()
    for name in ("seeds", "at_once"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} {getattr(flags, name)}: must be at least 1")
    return flags


def main() -> None:
    """Train what is missing, then tell the results."""
    flags = parse_flags()
    settings = training.given_settings(flags)
    recipe_model = settings.pop("model_type", None)
    models = flags.models or ([recipe_model] if recipe_model else ORDER)
    # A seed at a time, so that the models are comparable however far it has come.
    jobs = [
        Args(model_type=model_type, seed=seed, **settings)
        for seed in range(flags.first_seed, flags.first_seed + flags.seeds)
        for model_type in dict.fromkeys(models)
    ]
    for args in jobs[: len(models)]:
        device, _ = training.prepare(args)  # before any training, so that mistakes show at once
    rank = int(os.environ.get("RANK", "0"))  # of torchrun; the group itself is joined later
    mine = jobs[rank :: int(os.environ.get("WORLD_SIZE", "1"))]
    at_once = flags.at_once if device.type == "cpu" else 1
    failed = train_all(mine, device, at_once)
    parallel.start(timeout=timedelta(days=30))  # only now, as every run is a single process
    try:
        failed = [name for names in parallel.gather(failed) for name in names]
        gathered = parallel.gather([collect(args) for args in mine])
        runs = [run for share in gathered for run in share if run]
        runs.sort(key=lambda run: (ORDER.index(run["model_type"]), run["seed"]))
        with parallel.shared_errors():
            if rank == 0 and runs:
                report(runs, jobs[0], flags.recipe, at_once)
    finally:
        parallel.stop()
    if failed:
        raise UserError(
            f"{len(failed)} runs failed: {', '.join(failed)}; start again to retry them"
        )


if __name__ == "__main__":
    command(main)
