"""Publish finished results: plots/results/, data/weights/, the generated parts of the READMEs.

    python -m experiments.publish

For maintainers. It takes the full results in runs/ that this code made on the shipped data: of each
recipe the comparison, the studies, a run with the defaults (python main.py), what was measured of
pictures (python tests/pictures.py) and of time (python tests/benchmark.py --commands). What is not
there stays as it is published. The tables and the plots that follow from plots/results/*.json are
made again; findings between them are written by hand, and tests/test_publish.py holds their numbers
against the JSON.

The shipped weights are those of python -m experiments.weights.
"""

from utils.command import run_command  # isort: split

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compare import draw_results
from comparison.identity import group_folder
from comparison.results import Comparison, accuracy_difference, load_comparison, to_json
from comparison.runs import is_finished
from comparison.stats import describe, format_interval, format_mean, proportion_interval
from comparison.tables import (
    DIFFERENCE_HEADS,
    column_table,
    comparison_tables,
    difference_cells,
    markdown,
)
from dataset import digest, load_splits
from experiments import ablation, data_size, robustness, weights
from experiments.study import load_study
from main import RECIPES, Args, draw_curves
from model import MODELS, TITLES, count_parameters
from utils.checkpoint import RUNS, load_checkpoint
from utils.files import PLOTS, write_all
from utils.metrics import format_row
from utils.settings import Parser

RESULTS, PAGE, README = PLOTS / "results", PLOTS / "results/README.md", Path("README.md")
SEEDS = 10  # of a full comparison, at least
COMPARED_WITH = {"best": "baseline", "record": "best", "fast": "baseline"}
STUDIES = {"ablation": ablation, "robustness": robustness, "data_size": data_size}
Files = dict[Path, bytes]


# --- Tables in READMEs ------------------------------------------------------------------------


def with_tables(path: Path, tables: Mapping[str, str]) -> bytes:
    """Return a README's content with each table, name -> text, between the markers of that name."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        before, begin, rest = text.partition(f"<!-- {name}: written by a script -->\n")
        _, end, after = rest.partition(f"\n<!-- end of {name} -->")
        assert end, f"{path} has no markers of {name}"
        text = f"{before}{begin}{table}{end}{after}"
    return text.encode()


def summary_table(recipes: Mapping[str, Comparison]) -> str:
    """Return the README's table, a column per recipe."""
    parameters = {TITLES[name]: f"{count_parameters(name):,}" for name in MODELS}
    columns = [("parameters", parameters)]
    for recipe, comparison in recipes.items():
        networks = comparison.networks.items()
        cells = {TITLES[name]: format_mean(describe(runs.accuracies), 2) for name, runs in networks}
        columns.append((f"`{recipe}`", cells))
    return column_table("test accuracy in percent", columns)


def recipe_table(recipes: Mapping[str, Comparison]) -> str:
    """Return what each recipe brings to each network, with its verdict."""
    rows = []
    for recipe, other in COMPARED_WITH.items():
        old = recipes[other].networks
        for model_type, new in recipes[recipe].networks.items():
            cells = difference_cells(accuracy_difference(new, old[model_type]))
            rows.append([f"`{recipe}` against `{other}`", TITLES[model_type], *cells])
    return markdown(["test accuracy, points", "network", *DIFFERENCE_HEADS], rows)


def costs_line(costs: Mapping[str, Any]) -> str:
    """Return how long commands take, from what tests/benchmark.py --commands measured."""
    times = [f"`{name}` {np.median(seconds):.0f} s" for name, seconds in costs["seconds"].items()]
    return f"Seconds, start-up included, on {costs['processor']}: {', '.join(times)}."


def durations(recipes: Mapping[str, Comparison]) -> str:
    """Return how long comparisons took on the two cores that they were made on."""
    times = []
    for recipe, comparison in recipes.items():
        runs = [run for network in comparison.networks.values() for run in network.runs]
        seconds = sum(sum(run.curves["seconds"]) for run in runs)
        times.append(f"{seconds / 2 / 60:.0f} with `{recipe}`")
    processors = sorted({comparison.setup["processor"] for comparison in recipes.values()})
    made_on = ", ".join(["two cores", *processors])
    return f"Minutes of `python compare.py` on {made_on}: {', '.join(times)}."


def run_text(run: Mapping[str, Any]) -> str:
    """Return what main.py prints of a run, as Markdown, without the epochs in the middle."""
    lines = [format_row(row) for row in run["history"]]
    return "\n".join(["```text", *lines[:3], "...", lines[-1], "```"])


def pictures_table(pictures: Mapping[str, list]) -> str:
    """Return how many pictures are read, from what tests/pictures.py measured."""
    kinds = [(kind, *counts) for kind, *counts in pictures["real"]]
    kinds += [(f"simulated: {kind}", *counts, None) for kind, *counts in pictures["simulated"]]
    rows = []
    for kind, count, correct, baseline in kinds:
        interval = format_interval(proportion_interval(correct, count), 1)
        share = f"{100 * correct / count:.1f} {interval}"
        baseline_share = "" if baseline is None else f"{100 * baseline / count:.1f}"
        rows.append([kind, f"{count:,}", share, baseline_share])
    return markdown(["pictures", "number", "all digits right, %", "baseline, %"], rows)


def table_files() -> Files:
    """Return both READMEs with the tables of all published results."""
    recipes = {name: load_comparison(RESULTS / f"{name}.json") for name in RECIPES}
    tables = {recipe: comparison_tables(comparison) for recipe, comparison in recipes.items()}
    tables["recipes"] = recipe_table(recipes)
    for name, module in STUDIES.items():
        tables[name] = module.render(load_study(RESULTS / f"{name}.json"))
    readme_tables = {"results": summary_table(recipes)}
    for name, make in {"costs": costs_line, "run": run_text, "pictures": pictures_table}.items():
        content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        readme_tables[name] = make(content)
    readme_tables["costs"] += " " + durations(recipes)
    return {PAGE: with_tables(PAGE, tables), README: with_tables(README, readme_tables)}


def plot_files() -> Files:
    """Return the plots that follow from the published results, those that need no predictions."""
    files = {}
    for recipe in RECIPES:
        for name, plot in draw_results(load_comparison(RESULTS / f"{recipe}.json")).items():
            files[RESULTS / f"{name}_{recipe}.png"] = plot
    for name, module in STUDIES.items():
        files[RESULTS / f"{name}.png"] = module.draw(load_study(RESULTS / f"{name}.json"))
    run = json.loads((RESULTS / "run.json").read_text(encoding="utf-8"))
    plots = draw_curves(Args(), Args.model_type, run["history"])
    return files | {RESULTS / name: plot for name, plot in plots.items()}


# --- Results ----------------------------------------------------------------------------------


def is_full(name: str, path: Path) -> bool:
    """Return whether the JSON of a recipe or study holds all runs, on the shipped data.

    Those of a study are what is published of it: a trial has other settings, or fewer points.
    """
    if name in STUDIES:
        study, published = load_study(path), load_study(RESULTS / f"{name}.json")
        made = ("shipped", "epochs", "steps", "lr", "val_size")
        alike = all(study.setup.get(key) == published.setup.get(key) for key in made)
        has_all = study.accuracies.keys() >= published.accuracies.keys()
        return alike and has_all and study.setup["seeds"] >= published.setup["seeds"]
    comparison = load_comparison(path)
    models = [RECIPES[name]["model_type"]] if "model_type" in RECIPES[name] else list(MODELS)
    fewest = min(len(runs.seeds) for runs in comparison.networks.values())
    return comparison.setup["shipped"] and list(comparison.networks) == models and fewest >= SEEDS


def result_files() -> Files:
    """Return the full results in runs/, JSON and pictures, under their published names."""
    data = [digest(split) for split in load_splits(Args.data_dir, 0)]
    paths = {name: RUNS / name / f"{name}.json" for name in STUDIES}
    for recipe, settings in RECIPES.items():
        paths[recipe] = group_folder(Args(**settings), data) / "results.json"
    files = {}
    for name, path in paths.items():
        if path.is_file() and not is_full(name, path):
            print(f"{path}: a trial of {name}, not published")
        elif path.is_file():
            print(f"{path}: published as {name}")
            files[RESULTS / f"{name}.json"] = path.read_bytes()
            ending = "" if name in STUDIES else f"_{name}"
            for picture in path.parent.glob("*.png"):
                files[RESULTS / f"{picture.stem}{ending}.png"] = picture.read_bytes()
    for name in ("costs", "pictures"):  # measured by scripts of tests/
        if (RUNS / f"{name}.json").is_file():
            files[RESULTS / f"{name}.json"] = (RUNS / f"{name}.json").read_bytes()
    return files


def run_files() -> Files:
    """Return the history of the run with the defaults, if that is finished."""
    args = Args()
    folder = RUNS / args.model_type
    if not is_finished(args, folder):
        return {}
    checkpoint = load_checkpoint(folder)
    if checkpoint["settings"] != dataclasses.asdict(args):
        return {}
    return {RESULTS / "run.json": to_json({"history": checkpoint["history"]})}


def main() -> None:
    """Publish what is full, then write the tables and plots of all that is published."""
    Parser(description=__doc__).parse_args()
    write_all(result_files())
    write_all(run_files())
    write_all(weights.shipped_files())
    write_all(table_files() | plot_files())
    print(f"written: plots in {RESULTS}, tables in {PAGE} and {README}")


if __name__ == "__main__":
    run_command(main)
