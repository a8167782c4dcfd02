"""Publish finished results: plots/results/, data/weights/, the generated parts of the READMEs.

    python -m experiments.publish

For maintainers. It takes the full results in runs/ that this code made on the shipped data: of each
recipe the comparison, and the studies. What is not there stays as it is published. The tables are
written again from plots/results/*.json; findings between them are written by hand, and
tests/test_publish.py holds their numbers against the JSON.

With the recipe best come the shipped weights: the first run of each network, and a temperature
(Guo et al., 2017) fitted on the validation images of a run of its own, for LeNet5 that of
python main.py --recipe best --model_type LeNet5 --val_size 10000 --name LeNet5-validation
"""

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for python experiments/publish.py

from utils.command import run_command  # isort: split

import json

import numpy as np

from comparison.identity import group_folder, run_folder
from comparison.results import Comparison, load_comparison, recipe_difference
from comparison.stats import describe, format_mean
from comparison.tables import column_table, comparison_tables, difference_cells, markdown
from dataset import digest, load_splits
from experiments import ablation, data_size, robustness
from experiments.study import load_study
from main import RECIPES, Args
from model import MODELS, TITLES, count_parameters
from utils.checkpoint import RUNS, load_checkpoint, pack_weights
from utils.files import PLOTS, UserError, write_all
from utils.settings import Parser

RESULTS, PAGE, README = PLOTS / "results", PLOTS / "results/README.md", Path("README.md")
WEIGHTS, WEIGHTS_RECIPE = Path("data/weights"), "best"  # shipped for use without training
SEEDS = 10  # of a full comparison, at least
COMPARED_WITH = {"best": "baseline", "record": "best", "fast": "baseline"}
STUDIES = {"ablation": ablation, "robustness": robustness, "data_size": data_size}
Files = dict[Path, bytes]


# --- Tables in READMEs ------------------------------------------------------------------------


def with_tables(path: Path, tables: Mapping[str, str]) -> bytes:
    """Return a README's content with each table between its markers.

    Args:
        path: of the README.
        tables: name -> text between <!-- NAME: written by a script --> and <!-- end of NAME -->.

    Raises:
        UserError: if markers are missing.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for name, table in tables.items():
        first, last = f"<!-- {name}: written by a script -->", f"<!-- end of {name} -->"
        before, begin, rest = text.partition(first)
        _, end, after = rest.partition(last)
        if not (begin and end):
            raise UserError(f"{path}: the lines {first} and {last} are missing; put them back")
        text = f"{before}{begin}\n{table}\n{end}{after}"
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
        if recipe in recipes and other in recipes:
            new, old = recipes[recipe].networks, recipes[other].networks
            for model_type in (name for name in new if name in old):
                cells = difference_cells(recipe_difference(new[model_type], old[model_type]))
                rows.append([f"`{recipe}` against `{other}`", TITLES[model_type], *cells])
    heads = ["test accuracy, points", "network", "difference", "over the runs"]
    return markdown([*heads, "over the test images", "verdict"], rows)


def costs_table(path: Path) -> str:
    """Return how long commands take, from what tests/benchmark.py --commands measured."""
    costs = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [f"`{command}`", f"{np.median(seconds):.0f}"]
        for command, seconds in costs["seconds"].items()
    ]
    return markdown([f"start-up included, on {costs['processor']}", "seconds"], rows)


def table_files(sources: Mapping[str, Path]) -> Files:
    """Return both READMEs with the tables of all results, from name -> JSON."""
    recipes = {name: load_comparison(sources[name]) for name in RECIPES if name in sources}
    tables = {recipe: comparison_tables(comparison) for recipe, comparison in recipes.items()}
    tables["recipes"] = recipe_table(recipes)
    for name, module in STUDIES.items():
        if name in sources:
            tables[name] = module.render(load_study(sources[name]))
    readme_tables = {"results": summary_table(recipes)}
    if (costs := RUNS / "costs.json").is_file():
        readme_tables["costs"] = costs_table(costs)
    return {PAGE: with_tables(PAGE, tables), README: with_tables(README, readme_tables)}


# --- Results ----------------------------------------------------------------------------------


def find_results() -> dict[str, Path]:
    """Return name -> JSON of the full results in runs/; trials with fewer runs are left out."""
    data = [digest(split) for split in load_splits(Args.data_dir, 0)]
    results = {}
    for recipe, settings in RECIPES.items():
        path = group_folder(Args(**settings), data) / "results.json"
        if path.is_file():
            comparison = load_comparison(path)
            count = min(len(network.runs) for network in comparison.networks.values())
            models = [settings["model_type"]] if "model_type" in settings else list(MODELS)
            all_there = count >= SEEDS and list(comparison.networks) == models
            if all_there and comparison.setup["shipped"]:
                results[recipe] = path
    for name, module in STUDIES.items():
        path = RUNS / name / f"{name}.json"
        if path.is_file():
            setup = load_study(path).setup
            if setup["seeds"] >= module.SEEDS and setup["shipped"]:
                results[name] = path
    return results


def result_files(name: str, path: Path) -> Files:
    """Return the files of results: their JSON and their pictures, under their published names."""
    files = {RESULTS / f"{name}.json": path.read_bytes()}
    ending = "" if name in STUDIES else f"_{name}"
    for picture in path.parent.glob("*.png"):
        files[RESULTS / f"{picture.stem}{ending}.png"] = picture.read_bytes()
    return files


def weight_files(path: Path) -> Files:
    """Return the weights that are shipped: those of each network's first run in a comparison."""
    files = {}
    for model_type, network in load_comparison(path).networks.items():
        settings = RECIPES[WEIGHTS_RECIPE] | {"model_type": model_type}
        args = Args(seed=network.seeds[0], **settings)
        weights = load_checkpoint(run_folder(args, path.parent))["model"]
        content = pack_weights(model_type, args.deskew, weights, temperature_of(model_type))
        files[WEIGHTS / f"{model_type}.pt"] = content
    return files


def temperature_of(model_type: str) -> float:
    """Return a network's temperature, fitted on the validation images of a run made for that.

    Raises:
        UserError: if there is no such run.
    """
    from reading.classifier import classify, fit_temperature, load_classifier

    name = f"{model_type}-validation"
    classifier = load_classifier(name)
    settings = load_checkpoint(RUNS / name)["settings"]
    validation = load_splits(settings["data_dir"], settings["val_size"])[1]
    return fit_temperature(classify(classifier, validation.images), validation.labels)


def main() -> None:
    """Write all files or none."""
    Parser(description=__doc__).parse_args()
    results = find_results()
    files: Files = {}
    for name, path in results.items():
        print(f"{path}: published as {name}")
        files |= result_files(name, path)
        if name == WEIGHTS_RECIPE:
            files |= weight_files(path)
    published = {path.stem: path for path in RESULTS.glob("*.json")}
    files |= table_files(published | results)
    write_all(files)
    print(f"tables written: {PAGE}, {README}")


if __name__ == "__main__":
    run_command(main)
