"""What the studies share: their results and JSON, their runs, how they end."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comparison.identity import group_folder, run_folder
from comparison.results import to_json
from comparison.runs import Run, cores, train_all
from comparison.stats import Summary, describe
from dataset import Split, digest
from utils.checkpoint import RUNS, load_checkpoint
from utils.files import UserError, atomic_write

Key = tuple[Any, ...]


@dataclass
class Study:
    """The results of a study."""

    setup: dict[str, Any]  # how they were made
    axes: tuple[str, ...]  # what the parts of a key are, such as model_type and step
    accuracies: dict[Key, np.ndarray]  # each run's, in percent, in order of seed, float [R]

    def values(self, axis: str) -> list[Any]:
        """Return the values along an axis, in order of appearance."""
        place = self.axes.index(axis)
        return list(dict.fromkeys(key[place] for key in self.accuracies))

    def summary(self, *key: Any) -> Summary:
        """Return the accuracies of a key, described."""
        return describe(self.accuracies[key])


def pack_study(study: Study) -> bytes:
    """Return a study as JSON, a line per key."""
    points = []
    for key, accuracies in study.accuracies.items():
        point = dict(zip(study.axes, key, strict=True))
        points.append(point | {"accuracies": accuracies.tolist()})
    return to_json(study.setup | {"axes": study.axes, "points": points})


def load_study(path: Path) -> Study:
    """Return what pack_study() packed."""
    setup = json.loads(path.read_text(encoding="utf-8"))
    axes, points = tuple(setup.pop("axes")), setup.pop("points")
    accuracies = {
        tuple(point[axis] for axis in axes): np.array(point["accuracies"]) for point in points
    }
    return Study(setup, axes, accuracies)


def train_runs(
    run: Run, plan: Mapping[Key, Sequence[Any]], splits: tuple[Split, Split], cluster: str = ""
) -> dict[Key, list[Path]]:
    """Train what is missing of a study's runs; return key -> their folders, in order of seed.

    The plan is key -> settings of its runs, in order of seed; the splits are as loaded. UserError
    if runs fail.
    """
    data = [digest(split) for split in splits]
    jobs = {}
    folders: dict[Key, list[Path]] = {key: [] for key in plan}
    for key, all_args in plan.items():
        for args in all_args:
            folder = run_folder(args, group_folder(args, data, run))
            folders[key].append(folder)
            jobs[folder] = args
    failed = train_all(run, jobs, cores(), cluster)
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed; see above")
    return folders


def final_accuracies(folders: Mapping[Key, Sequence[Path]], column: str) -> dict[Key, np.ndarray]:
    """Return key -> that column of metrics.csv after the last epoch of each run, float [R]."""
    return {
        key: np.array([load_checkpoint(path)["history"][-1][column] for path in paths])
        for key, paths in folders.items()
    }


def finish_study(name: str, study: Study, tables: str, draw: Callable[[Study], bytes]) -> None:
    """Write a study's results and print its tables; then draw and write its picture."""
    folder = RUNS / name
    atomic_write(folder / f"{name}.json", pack_study(study))
    print(tables, flush=True)
    atomic_write(folder / f"{name}.png", draw(study))
    print(f"\nresults and plot: {folder}")


def draw_band(axis: Any, xs: Sequence[float], summaries: Sequence[Summary], **style: Any) -> None:
    """Draw described values on a plot's axes, means as a line, their intervals as a band."""
    axis.plot(xs, [summary.mean for summary in summaries], marker="o", ms=3, **style)
    ends = np.array([summary.ends for summary in summaries])
    axis.fill_between(xs, ends[:, 0], ends[:, 1], color=style["color"], alpha=0.2, lw=0)
