"""Publish finished results: plots/results/, data/weights/, the generated parts of the READMEs.

    python -m experiments.publish                           all full results in runs/
    python -m experiments.publish runs/compare/1a2b3c4d     those of this folder, or why not

For maintainers. Results are full ones of a recipe or a study on the shipped data; it says which
others it leaves out and why. Without any it writes the tables again, from plots/results/*.json.
Findings between the tables are written by hand; tests/test_publish.py holds their numbers against
the JSON. With the recipe best come the shipped weights: the first run of each network, and a
temperature fitted on validation images (Guo et al., 2017), for which it asks for a run.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for python experiments/publish.py

from utils.command import run_command  # isort: split

import dataclasses
import json

import numpy as np

from comparison.identity import run_folder
from comparison.results import OF_A_RUN, Comparison, load_comparison, recipe_difference
from comparison.stats import describe, format_mean
from comparison.tables import comparison_tables, difference_cells, markdown
from dataset import load_splits
from experiments import ablation, data_size, robustness
from experiments.study import Study, load_study
from main import RECIPES, Args
from model import MODELS, TITLES, count_parameters
from utils.checkpoint import RUNS, load_checkpoint, pack_weights
from utils.files import PLOTS, UserError, write_all
from utils.settings import Parser

RESULTS = PLOTS / "results"
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
    rows = []
    for model_type in MODELS:
        cells = []
        for comparison in recipes.values():
            runs = comparison.networks.get(model_type)
            cells.append(format_mean(describe(runs.accuracies), 2) if runs else "")
        rows.append([TITLES[model_type], f"{count_parameters(model_type):,}", *cells])
    heads = [f"`{recipe}`" for recipe in recipes]
    return markdown(["test accuracy in percent", "parameters", *heads], rows)


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


# --- What may be published --------------------------------------------------------------------


def recipe_of(comparison: Comparison) -> str:
    """Return the recipe that a comparison is of.

    Raises:
        UserError: if it is not a full one of a recipe on the shipped data.
    """
    settings = comparison.setup["settings"] | {"device": Args.device}
    recipes = []
    for recipe, changes in RECIPES.items():
        expected = dataclasses.asdict(Args()) | changes
        models = [changes["model_type"]] if "model_type" in changes else list(MODELS)
        for name in OF_A_RUN:
            del expected[name]
        if settings == expected and list(comparison.networks) == models:
            recipes.append(recipe)
    if not recipes:
        raise UserError("its settings and networks are those of no recipe")
    if not comparison.setup["shipped"]:
        raise UserError(f"{comparison.setup['data']}: not the shipped data")
    fewest = min(len(runs.seeds) for runs in comparison.networks.values())
    if fewest < SEEDS:
        raise UserError(f"{fewest} runs of a network, but {SEEDS} are needed")
    return recipes[0]


def check_study(name: str, study: Study) -> None:
    """Raise UserError unless this is the full study on the shipped data."""
    if not study.setup["shipped"]:
        raise UserError(f"{study.setup['data']}: not the shipped data")
    if study.setup["seeds"] < STUDIES[name].SEEDS:
        raise UserError(f"{study.setup['seeds']} seeds, but {STUDIES[name].SEEDS} are needed")
    for key, value in STUDIES[name].FULL.items():
        actual = study.values(key) if key in study.axes else study.setup[key]
        if actual != value:
            raise UserError(f"{key} {actual}, not {value}")


def check_results(path: Path) -> str:
    """Return the name under which results are published; else UserError says why they are not."""
    if path.stem in STUDIES:
        check_study(path.stem, load_study(path))
        return path.stem
    return recipe_of(load_comparison(path))


def find_results(folders: list[str]) -> dict[str, Path]:
    """Return name -> JSON of the results to publish; the newest of each name.

    Args:
        folders: of results; none for all in runs/ that may be published.
    """
    paths = [path for folder in folders for path in Path(folder).glob("*.json")]
    if not folders:
        paths = list((RUNS / "compare").glob("*/results.json"))
        paths += [path for name in STUDIES if (path := RUNS / name / f"{name}.json").is_file()]
    results = {}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        try:
            results[check_results(path)] = path
        except UserError as error:
            if folders:
                raise UserError(f"{path}: not published: {error}") from error
            print(f"{path}: left out: {error}")
    return results


# --- Files ------------------------------------------------------------------------------------


def result_files(name: str, path: Path) -> Files:
    """Return the files of results: their JSON and their pictures, under their published names."""
    files = {RESULTS / f"{name}.json": path.read_bytes()}
    ending = "" if name in STUDIES else f"_{name}"
    for picture in path.parent.glob("*.png"):
        files[RESULTS / f"{picture.stem}{ending}.png"] = picture.read_bytes()
    return files


def weight_files(comparison: Comparison, group: Path) -> Files:
    """Return the weights that are shipped: those of each network's first run."""
    files = {}
    for model_type, runs in comparison.networks.items():
        settings = RECIPES[WEIGHTS_RECIPE] | {"model_type": model_type}
        args = Args(seed=int(runs.seeds[0]), **settings)
        weights = load_checkpoint(run_folder(args, group))["model"]
        content = pack_weights(model_type, args.deskew, weights, temperature_of(model_type))
        files[WEIGHTS / f"{model_type}.pt"] = content
    return files


def temperature_of(model_type: str) -> float:
    """Return a network's temperature, fitted on the validation images of a run made for that."""
    from reading.classifier import classify, fit_temperature, load_classifier

    name = f"{model_type}-validation"
    if not (RUNS / name / "checkpoint.pt").is_file():
        raise UserError(
            f"no run {name} to fit the temperature on; to train it: python main.py --recipe "
            f"{WEIGHTS_RECIPE} --model_type {model_type} --val_size 10000 --name {name}"
        )
    settings = load_checkpoint(RUNS / name)["settings"]
    validation = load_splits(settings["data_dir"], settings["val_size"])[1]
    logits = classify(load_classifier(name), validation.images)
    return fit_temperature(logits, validation.labels)


def table_files(sources: Mapping[str, Path]) -> Files:
    """Return both READMEs with the tables of all results, from name -> JSON."""
    recipes = {name: load_comparison(sources[name]) for name in RECIPES if name in sources}
    defaults = dataclasses.asdict(Args())
    tables = {name: comparison_tables(comparison, defaults) for name, comparison in recipes.items()}
    tables["recipes"] = recipe_table(recipes)
    for name, module in STUDIES.items():
        if name in sources:
            tables[name] = module.render(load_study(sources[name]))
    readme_tables = {"results": summary_table(recipes)}
    if (costs := RUNS / "costs.json").is_file():
        readme_tables["costs"] = costs_table(costs)
    page, readme = RESULTS / "README.md", Path("README.md")
    return {page: with_tables(page, tables), readme: with_tables(readme, readme_tables)}


def main() -> None:
    """Check what is there, then write all files or none."""
    parser = Parser(description=__doc__)
    parser.add_argument("folders", nargs="*", help="of results (default: all in runs/)")
    found = find_results(parser.parse_args().folders)
    files: Files = {}
    for name, path in found.items():
        print(f"{path}: published as {name}")
        files |= result_files(name, path)
        if name == WEIGHTS_RECIPE:
            files |= weight_files(load_comparison(path), path.parent)
    sources = {path.stem: path for path in RESULTS.glob("*.json")}
    files |= table_files(sources | found)
    write_all(files)
    print(f"tables written: {RESULTS / 'README.md'}, README.md")


if __name__ == "__main__":
    run_command(main)
