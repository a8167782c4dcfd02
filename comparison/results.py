"""Finished runs as arrays with named axes, what follows from them, and their JSON.

R runs of a network, E epochs, N test images, C classes.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comparison import stats
from comparison.analysis import calibration_error, class_counts
from comparison.stats import Interval, Summary, describe
from dataset import SHIPPED, Batches, Split, digest, prepare
from main import EVALUATION_BATCH
from model import MODELS
from utils.checkpoint import load_checkpoint
from utils.classes import CLASSES
from utils.device import processor_name, select_device
from utils.distributed import warn

# In points: other layouts of tensors and other precision change the class of a few images.
ROUNDING = 0.1
OF_A_RUN = ("model_type", "seed", "data_dir")  # settings that runs of a comparison differ in


@dataclass
class Run:
    """What is known of a finished run: a line of JSON."""

    model_type: str
    seed: int
    hits: list[int]  # correctly classified test images of each class, [C]
    calibration_error: float  # in percentage points
    curves: dict[str, list[float]]  # column of metrics.csv -> its values, [E]


@dataclass
class NetworkRuns:
    """The runs of one network, which differ in the seed alone, in order of seed."""

    runs: list[Run]
    errors: np.ndarray  # how many of them misclassify each test image, int [N]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    def curves(self, column: str) -> np.ndarray:
        """Return a column of metrics.csv, float [R, E]; a run that stopped early keeps its last."""
        values = [run.curves[column] for run in self.runs]
        epochs = max(map(len, values))
        return np.array([curve + curve[-1:] * (epochs - len(curve)) for curve in values])

    @property
    def accuracies(self) -> np.ndarray:
        """Each run's final test accuracy in percent, float [R]."""
        return self.curves("test_accuracy")[:, -1]

    @property
    def correct_shares(self) -> np.ndarray:
        """The share of the runs that classify each test image correctly, float [N].

        Their mean is the mean test accuracy, so its interval over the images comes from them.
        """
        return 1 - self.errors / len(self.runs)


@dataclass
class Comparison:
    """Runs of several networks that have all else in common."""

    setup: dict[str, Any]  # how they were made: settings, and what describe_setup() returns
    test_images: np.ndarray  # how many of each class, int [C]
    networks: dict[str, NetworkRuns]


@dataclass
class Difference:
    """A difference of two mean test accuracies, in percentage points, with 95 % intervals."""

    mean: float
    over_runs: Interval | None
    over_images: Interval | None

    @property
    def verdict(self) -> str:
        """Whether it is significant: 0 is in neither interval."""
        if self.over_runs is None or self.over_images is None:
            return "unknown (one run)"
        both = all(low > 0 or high < 0 for low, high in (self.over_runs, self.over_images))
        return "significant" if both else "not significant"


@dataclass
class Predictions:
    """What the runs of one network say of each test image, for the pictures."""

    classes: np.ndarray  # the predicted ones, int [R, N]
    probabilities: np.ndarray  # of the first run, float32 [N, C]
    weights: dict[str, torch.Tensor]  # of the first run


# --- From runs to results ---------------------------------------------------------------------


@torch.inference_mode()
def class_probabilities(
    model_type: str, weights: dict[str, torch.Tensor], batches: Batches
) -> np.ndarray:
    """Return a network's class probabilities, float32 [N, C], for the images of the batches."""
    model = MODELS[model_type]().to(batches.images.device).eval()
    model.load_state_dict(weights)
    logits = [model(images) for images, _, _ in batches]
    return torch.cat(logits).float().softmax(dim=1).cpu().numpy()


def evaluate(
    jobs: Mapping[Path, Any], splits: tuple[Split, Split]
) -> tuple[Comparison, dict[str, Predictions]]:
    """Return what is known of finished runs, and what those of each network say of test images.

    Args:
        jobs: folder -> settings of each run, in order of seed; only network and seed differ.
        splits: the images to train on and to test on, as loaded.
    """
    args = next(iter(jobs.values()))
    test = prepare(splits[1], args.deskew, select_device(args.device))
    networks, predictions = {}, {}
    for model_type in MODELS:
        folders = {a.seed: folder for folder, a in jobs.items() if a.model_type == model_type}
        if folders:
            networks[model_type], predictions[model_type] = _evaluate_network(
                model_type, folders, Batches(test, EVALUATION_BATCH)
            )
    settings = {key: value for key, value in asdict(args).items() if key not in OF_A_RUN}
    setup = {"settings": settings} | describe_setup(args, splits)
    return Comparison(setup, class_counts(splits[1].labels.numpy()), networks), predictions


def _evaluate_network(
    model_type: str, folders: Mapping[int, Path], batches: Batches
) -> tuple[NetworkRuns, Predictions]:
    """Return the same of one network; folders are seed -> folder."""
    labels = batches.labels.cpu().numpy()
    checkpoints = [load_checkpoint(folder) for folder in folders.values()]
    probabilities = [class_probabilities(model_type, c["model"], batches) for c in checkpoints]
    predictions = np.array([each.argmax(axis=1) for each in probabilities])
    correct = predictions == labels
    runs = []
    for index, (seed, checkpoint) in enumerate(zip(folders, checkpoints, strict=True)):
        history = checkpoint["history"]
        hits = class_counts(labels[correct[index]]).tolist()
        error = calibration_error(probabilities[index], labels)
        columns = [name for name in history[0] if all(name in row for row in history)]
        curves = {name: [row[name] for row in history] for name in columns if name != "epoch"}
        runs.append(Run(model_type, seed, hits, error, curves))
    network = NetworkRuns(runs, (~correct).sum(axis=0))
    reported, saved = network.accuracies.mean(), 100 * network.correct_shares.mean()
    if abs(reported - saved) > ROUNDING:
        warn(
            f"{model_type}: the saved weights classify {saved:.2f} % of the test images correctly, "
            f"the runs report {reported:.2f} %; classes, calibration, intervals over the test "
            "images and pictures are of the saved weights; State must hold what test() is given"
        )
    return network, Predictions(predictions, probabilities[0], checkpoints[0]["model"])


def describe_setup(args: Any, splits: tuple[Split, Split]) -> dict[str, Any]:
    """Return what JSON says of how numbers were made: data, whether shipped, versions."""
    training, evaluation = splits
    if args.val_size:
        kind = "validation"
        images = torch.cat([training.images, evaluation.images])
        labels = torch.cat([training.labels, evaluation.labels])
        shipped = digest(Split(images, labels)) == SHIPPED["train"]
    else:
        kind = "test"
        shipped = [digest(split) for split in splits] == [SHIPPED["train"], SHIPPED["test"]]
    name = "MNIST" if shipped else f"folder {args.data_dir}"
    sizes = f"{len(training.labels):,} training and {len(evaluation.labels):,} {kind} images"
    return {
        "data": f"{name}, {sizes}",
        "shipped": shipped,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "processor": processor_name(args.device, args.threads),
    }


# --- What follows from them -------------------------------------------------------------------


def class_accuracies(runs: NetworkRuns, test_images: np.ndarray) -> dict[str, Summary]:
    """Return the accuracy in percent of each class that occurs, described over the runs."""
    hits = np.array([run.hits for run in runs.runs])
    return {
        CLASSES[label]: describe(100 * (hits[:, label] / test_images[label]))
        for label in np.flatnonzero(test_images)
    }


def accuracy_difference(new: NetworkRuns, old: NetworkRuns) -> Difference:
    """Return how much higher the mean accuracy of some runs is than that of others.

    Over the runs the interval is paired by seed if both have the same, else Welch's; over the test
    images it is paired by image.
    """
    if new.seeds == old.seeds:
        over_runs = describe(new.accuracies - old.accuracies, stats.POINTS).interval
    else:
        over_runs = stats.welch_interval(new.accuracies, old.accuracies)
    images = 100 * (new.correct_shares - old.correct_shares)
    mean = float(new.accuracies.mean() - old.accuracies.mean())
    return Difference(mean, over_runs, describe(images, stats.POINTS).interval)


def network_differences(networks: Mapping[str, NetworkRuns]) -> dict[tuple[str, str], Difference]:
    """Return (network of the higher mean, other) -> difference, of each pair."""
    differences = {}
    for pair in combinations(networks, 2):
        better, than = sorted(pair, key=lambda name: -networks[name].accuracies.mean())
        differences[better, than] = accuracy_difference(networks[better], networks[than])
    return differences


# --- JSON -------------------------------------------------------------------------------------


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON with a line per value, and in a list of dicts, such as runs, a line for each."""
    parts = []
    for key, value in content.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def pack_comparison(comparison: Comparison) -> bytes:
    """Return a comparison as JSON: its runs, and how many of them misclassify which image."""
    errors, runs = [], []
    for model_type, network in comparison.networks.items():
        counts = {str(i): int(network.errors[i]) for i in np.flatnonzero(network.errors)}
        errors.append({"model_type": model_type, "runs_wrong": counts})
        runs += [asdict(run) for run in network.runs]
    content = comparison.setup | {"test_images": comparison.test_images.tolist()}
    return to_json(content | {"errors": errors, "runs": runs})


def load_comparison(path: Path) -> Comparison:
    """Return what pack_comparison() packed."""
    setup = json.loads(path.read_text(encoding="utf-8"))
    test_images = np.array(setup.pop("test_images"))
    runs, networks = [Run(**run) for run in setup.pop("runs")], {}
    for content in setup.pop("errors"):
        model_type, errors = content["model_type"], np.zeros(test_images.sum(), dtype=int)
        for image, count in content["runs_wrong"].items():
            errors[int(image)] = count
        of_network = [run for run in runs if run.model_type == model_type]
        networks[model_type] = NetworkRuns(of_network, errors)
    return Comparison(setup, test_images, networks)
