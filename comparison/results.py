"""Finished runs as arrays with named axes, what follows from them, and their JSON.

R runs of a network, E epochs, N test images, C classes.
"""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
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

OF_A_RUN = ("model_type", "seed", "data_dir")  # settings that runs of a comparison differ in


@dataclass
class NetworkRuns:
    """The runs of one network, which differ in the seed alone.

    Attributes:
        seeds: int [R].
        curves: column of metrics.csv -> float [R, E].
        calibration_errors: in percentage points, float [R].
        hits: correctly classified test images of each class, int [R, C].
        errors: how many of the runs misclassify each test image, int [N].
    """

    seeds: np.ndarray
    curves: dict[str, np.ndarray]
    calibration_errors: np.ndarray
    hits: np.ndarray
    errors: np.ndarray

    @property
    def accuracies(self) -> np.ndarray:
        """Each run's final test accuracy in percent, float [R]."""
        return self.curves["test_accuracy"][:, -1]

    @property
    def correct_shares(self) -> np.ndarray:
        """The share of the runs that classify each test image correctly, float [N].

        Their mean is the mean test accuracy, so its interval over the images comes from them.
        """
        return 1 - self.errors / len(self.seeds)

    def band(self, column: str) -> np.ndarray:
        """Return the mean, the lowest and the highest run's curve of a column, float [3, E]."""
        curves = self.curves[column]
        return np.stack([curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0)])


@dataclass
class Comparison:
    """Runs of several networks that have all else in common.

    Attributes:
        setup: how they were made: settings, and what describe_setup() returns.
        test_images: how many of each class, int [C].
        networks: network -> its runs.
    """

    setup: dict[str, Any]
    test_images: np.ndarray
    networks: dict[str, NetworkRuns]


@dataclass
class Difference:
    """A difference of two mean test accuracies, in percentage points.

    It is significant if 0 is in neither of its 95 % confidence intervals.
    """

    mean: float
    over_runs: Interval | None
    over_images: Interval | None

    @property
    def verdict(self) -> str:
        """What both intervals say together."""
        if self.over_runs is None:
            return "unknown (one run)"
        both = stats.excludes_zero(self.over_runs) and stats.excludes_zero(self.over_images)
        return "significant" if both else "not significant"


@dataclass
class Predictions:
    """What the runs of one network say of each test image, for the pictures.

    Attributes:
        predictions: int [R, N].
        probabilities: of the first run, float32 [N, C].
        weights: of the first run.
    """

    predictions: np.ndarray
    probabilities: np.ndarray
    weights: dict[str, torch.Tensor]


# --- From runs to results ---------------------------------------------------------------------


@torch.inference_mode()
def class_probabilities(
    model_type: str, weights: dict[str, torch.Tensor], batches: Batches
) -> np.ndarray:
    """Return a network's class probabilities, float32 [N, C], for the images of the batches."""
    model = MODELS[model_type]().to(batches.images.device).eval()
    model.load_state_dict(weights)
    logits = [model(images) for images, _, _ in batches]
    return torch.cat(logits).softmax(dim=1).cpu().numpy()


def evaluate(
    jobs: Mapping[Path, Any], splits: tuple[Split, Split]
) -> tuple[Comparison, dict[str, Predictions]]:
    """Return what is known of finished runs, and what those of each network say of test images.

    Args:
        jobs: folder -> settings of each run; but for network and seed the settings are the same.
        splits: the images to train on and to test on, as loaded.
    """
    args = next(iter(jobs.values()))
    test = prepare(splits[1], args.deskew, select_device(args.device))
    networks, predictions = {}, {}
    for model_type in MODELS:
        folders = {a.seed: folder for folder, a in jobs.items() if a.model_type == model_type}
        if folders:
            networks[model_type], predictions[model_type] = _evaluate_network(
                model_type, dict(sorted(folders.items())), Batches(test, EVALUATION_BATCH)
            )
    settings = {key: value for key, value in asdict(args).items() if key not in OF_A_RUN}
    setup = {"settings": settings} | describe_setup(args, splits)
    return Comparison(setup, class_counts(splits[1].labels.numpy()), networks), predictions


def _evaluate_network(
    model_type: str, folders: Mapping[int, Path], batches: Batches
) -> tuple[NetworkRuns, Predictions]:
    """Return the same of one network, from seed -> folder and the test images."""
    labels = batches.labels.cpu().numpy()
    checkpoints = [load_checkpoint(folder) for folder in folders.values()]
    probabilities = [class_probabilities(model_type, c["model"], batches) for c in checkpoints]
    predictions = np.array([each.argmax(axis=1) for each in probabilities])
    correct = predictions == labels
    histories = [checkpoint["history"] for checkpoint in checkpoints]
    runs = NetworkRuns(
        seeds=np.array(list(folders)),
        curves={
            column: np.array([[row[column] for row in history] for history in histories])
            for column in histories[0][0]
            if column != "epoch"
        },
        calibration_errors=np.array([calibration_error(each, labels) for each in probabilities]),
        hits=np.array([class_counts(labels[hits]) for hits in correct]),
        errors=(~correct).sum(axis=0),
    )
    return runs, Predictions(predictions, probabilities[0], checkpoints[0]["model"])


def describe_setup(args: Any, splits: tuple[Split, Split]) -> dict[str, Any]:
    """Return what JSON says of how numbers were made: data, whether shipped, versions, method."""
    training, evaluation = splits
    kind = "test"
    digests = {"train": digest(training), "test": digest(evaluation)}
    if args.val_size:
        kind = "validation"
        images = torch.cat([training.images, evaluation.images])
        labels = torch.cat([training.labels, evaluation.labels])
        digests = {"train": digest(Split(images, labels))}
    shipped = all(SHIPPED[name] == value for name, value in digests.items())
    name = "MNIST" if shipped else f"folder {args.data_dir}"
    sizes = f"{len(training.labels):,} training and {len(evaluation.labels):,} {kind} images"
    return {
        "data": f"{name}, {sizes}",
        "shipped": shipped,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "processor": processor_name(args.device, args.threads),
        "method": stats.METHOD,
    }


# --- What follows from them -------------------------------------------------------------------


def summarise(runs: NetworkRuns) -> dict[str, Summary]:
    """Return the figures of a network's runs after the last epoch, described."""
    finals = {column: curve[:, -1] for column, curve in runs.curves.items()}
    return {
        "test_accuracy": describe(finals["test_accuracy"]),
        "over_images": describe(100 * runs.correct_shares),
        "mean_over_epochs": describe(runs.curves["test_accuracy"].mean(axis=1)),
        "test_loss": describe(finals["test_loss"], stats.LOSS),
        "calibration_error": describe(runs.calibration_errors),
        "train_accuracy": describe(finals["train_accuracy"]),
        "train_loss": describe(finals["train_loss"], stats.LOSS),
    }


def class_accuracies(runs: NetworkRuns, test_images: np.ndarray) -> dict[str, Summary]:
    """Return the accuracy in percent of each class that occurs, described over the runs."""
    return {
        CLASSES[label]: describe(100 * (runs.hits[:, label] / test_images[label]))
        for label in np.flatnonzero(test_images)
    }


def network_differences(networks: Mapping[str, NetworkRuns]) -> dict[tuple[str, str], Difference]:
    """Return (network of the higher mean, other) -> difference, of pairs with seeds in common.

    Paired by seed for the interval over the runs, by image for that over the test images.
    """
    differences = {}
    for one, other in combinations(networks, 2):
        seeds, places, other_places = np.intersect1d(
            networks[one].seeds, networks[other].seeds, return_indices=True
        )
        if not len(seeds):
            continue
        gains = networks[one].accuracies[places] - networks[other].accuracies[other_places]
        images = networks[one].correct_shares - networks[other].correct_shares
        better, than, sign = (one, other, 1) if gains.mean() >= 0 else (other, one, -1)
        over_runs = describe(sign * gains, stats.POINTS)
        over_images = describe(100 * sign * images, stats.POINTS).interval
        differences[better, than] = Difference(over_runs.mean, over_runs.interval, over_images)
    return differences


def recipe_difference(new: NetworkRuns, old: NetworkRuns) -> Difference:
    """Return how much higher a network's accuracy is with a new recipe than with an old one.

    By Welch's t for the interval over the runs, paired by image for that over the test images.
    """
    return Difference(
        float(new.accuracies.mean() - old.accuracies.mean()),
        stats.welch_interval(new.accuracies, old.accuracies),
        describe(100 * (new.correct_shares - old.correct_shares), stats.POINTS).interval,
    )


# --- JSON -------------------------------------------------------------------------------------


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON with a line per value, and where a value holds others, a line for each of these.

    So runs and networks have a line each, and a change in one of them is a change in one line.
    """
    parts = []
    for key, value in content.items():
        text = json.dumps(value)
        if isinstance(value, dict) and _holds_others(value.values()):
            lines = [f"{json.dumps(name)}: {json.dumps(inner)}" for name, inner in value.items()]
            text = "{\n  " + ",\n  ".join(lines) + "\n }"
        elif isinstance(value, list) and _holds_others(value):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def _holds_others(values: Iterable[Any]) -> bool:
    return any(isinstance(value, dict | list) for value in values)


def pack_comparison(comparison: Comparison) -> bytes:
    """Return a comparison as JSON: its runs, a line each, and the statistics that follow."""
    summaries, lines, errors = {}, [], {}
    for name, runs in comparison.networks.items():
        summaries[name] = {key: asdict(summary) for key, summary in summarise(runs).items()}
        errors[name] = {str(i): int(runs.errors[i]) for i in np.flatnonzero(runs.errors)}
        for index, seed in enumerate(runs.seeds.tolist()):
            line = {"model_type": name, "seed": seed, "hits": runs.hits[index].tolist()}
            line["calibration_error"] = float(runs.calibration_errors[index])
            line["curves"] = {key: curve[index].tolist() for key, curve in runs.curves.items()}
            lines.append(line)
    differences = [
        {"better": better, "than": than, **asdict(difference), "verdict": difference.verdict}
        for (better, than), difference in network_differences(comparison.networks).items()
    ]
    content = dict(comparison.setup)
    content["test_images"] = comparison.test_images.tolist()  # of each class
    content["networks"] = summaries
    content["differences"] = differences
    content["errors"] = errors  # test image -> how many runs misclassify it
    content["runs"] = lines
    return to_json(content)


def load_comparison(path: Path) -> Comparison:
    """Return what pack_comparison() packed; the statistics in it are left for other readers."""
    content = json.loads(path.read_text(encoding="utf-8"))
    test_images = np.array(content.pop("test_images"))
    lines = content.pop("runs")
    networks = {}
    for name, error_counts in content.pop("errors").items():
        errors = np.zeros(test_images.sum(), dtype=int)
        for image, count in error_counts.items():
            errors[int(image)] = count
        own_lines = [line for line in lines if line["model_type"] == name]
        networks[name] = _stack(own_lines, errors)
    del content["networks"], content["differences"]
    return Comparison(content, test_images, networks)


def _stack(lines: Sequence[dict[str, Any]], errors: np.ndarray) -> NetworkRuns:
    """Return the runs of a network from their lines of JSON."""
    columns = lines[0]["curves"]
    return NetworkRuns(
        seeds=np.array([line["seed"] for line in lines]),
        curves={column: np.array([line["curves"][column] for line in lines]) for column in columns},
        calibration_errors=np.array([line["calibration_error"] for line in lines]),
        hits=np.array([line["hits"] for line in lines]),
        errors=errors,
    )
