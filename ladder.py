"""What each ingredient of the best recipe buys, measured on images held out from training.

    python ladder.py              5 seeds a rung, the last 10,000 training images held out

Climbs from the baseline to main.py's best recipe, one ingredient a rung, then takes side steps: one
more change on top, that was tried and not kept. The test set is not touched. Finished runs are
kept in runs/compare/. Writes plots/ladder.json, plots/ladder.png and the README's ladder.
"""

import argparse
import dataclasses
import platform

import torch

import compare
import main as training
from augment import deskew
from compare import describe, with_interval
from files import Parser, UserError, command
from main import RECIPES, Args

BEST = RECIPES["best"]


def _of_best(*names: str) -> dict:
    return {name: BEST[name] for name in names}


# Each rung changes these settings of the rung before.
RUNGS = {
    "baseline": {},
    "one-cycle schedule, higher lr": {"schedule": "onecycle", "lr": 0.05},
    "label smoothing": _of_best("label_smoothing"),
    "random affine warps": _of_best("rotate", "shift", "stretch", "shear"),
    "random elastic bends": _of_best("elastic"),
    "weight decay": _of_best("weight_decay"),
    "deskewed images": _of_best("deskew"),
    "twice the lr": _of_best("lr"),
}
# Each side step is the best recipe but for this.
SIDE_STEPS = {
    "four times the lr": {"lr": 2 * BEST["lr"]},
    "twice the label smoothing": {"label_smoothing": 2 * BEST["label_smoothing"]},
}


def steps() -> list[tuple[str, str, dict]]:
    """Return all (name, name of the step it is compared with, settings), rungs first."""
    settings, found, before = {}, [], ""
    for name, change in RUNGS.items():
        settings = settings | change
        found.append((name, before, settings))
        before = name
    return found + [(name, before, BEST | change) for name, change in SIDE_STEPS.items()]


def measure(model_type: str, accuracies: dict[str, list[float]]) -> list[dict]:
    """Return for each step of a model its accuracies and its gains, described.

    Args:
        model_type: the network's name.
        accuracies: of each step's runs, in the order of the seeds, by which gains are paired.
    """
    measured = []
    for name, before, settings in steps():
        own = accuracies[name]
        step = {"model_type": model_type, "step": name, "side_step": name in SIDE_STEPS}
        step |= {"settings": settings, "accuracies": own, "accuracy": describe(own)}
        if before:
            gains = [new - old for new, old in zip(own, accuracies[before], strict=True)]
            step |= {"compared_with": before, "gain": describe(gains)}
        measured.append(step)
    return measured


def render(ladder: dict) -> str:
    """Return the ladder as Markdown, for the terminal and the README."""
    found = {(step["model_type"], step["step"]): step for step in ladder["steps"]}
    models = list(dict.fromkeys(model_type for model_type, _ in found))
    lines = []
    for title, wanted in (("rung", False), ("tried on top of the best recipe, not kept", True)):
        lines += [f"| {title} |{''.join(f' {model_type} | gain |' for model_type in models)}"]
        lines += ["|---|" + "---|---|" * len(models)]
        for name in dict.fromkeys(s["step"] for s in ladder["steps"] if s["side_step"] == wanted):
            cells = [name]
            for model_type in models:
                step = found[model_type, name]
                gain = with_interval(step["gain"], 2, "+") if "gain" in step else ""
                cells += [with_interval(step["accuracy"], 2), gain]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines.append(
        f"Accuracy in percent on {ladder['holdout']:,} images held out from the training set, "
        f"means of {ladder['seeds']} seeds (0 to {ladder['seeds'] - 1}); a gain is paired by "
        "seed, against the rung above or, below, against the best recipe. In brackets the "
        f"{ladder['method']}. PyTorch {ladder['versions']['torch']} on {ladder['processor']}."
    )
    return "\n".join(lines)


def draw_warps(args: Args) -> None:
    """Draw the first training images, and what deskewing and the settings' warps make of them."""
    from figures import plot_warps

    _, ((images, _), _) = training.prepare(dataclasses.replace(args, deskew=0))
    images, warp = images[:5].cpu(), training.make_warp(args, torch.device("cpu"))
    upright = deskew(images)
    repeated = upright.repeat_interleave(8, dim=0)
    warped = warp(repeated, warp.draw(len(repeated), torch.Generator().manual_seed(0)))
    rows = torch.cat([images, upright, warped.view(5, 8, 28, 28)], dim=1)
    plot_warps(rows.numpy())


def parse_flags() -> argparse.Namespace:
    """Return the flags: models, seeds, epochs, holdout and data_dir."""
    parser = Parser(description=__doc__)
    both = ("LeNet5", "CustomMLP")
    parser.add_argument(
        "--models", nargs="+", default=both, help=f"networks (default: {' '.join(both)})"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs a step (default: 5)")
    parser.add_argument("--epochs", type=int, default=Args.epochs, help="a run (default: 20)")
    parser.add_argument("--holdout", type=int, default=10_000, help="images (default: 10000)")
    parser.add_argument("--data_dir", default=Args.data_dir, help="of the images (default: data)")
    flags = parser.parse_args()
    for name in ("seeds", "holdout"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} {getattr(flags, name)}: must be at least 1")
    return flags


def main() -> None:
    """Train what is missing, then tell the ladder."""
    from figures import plot_ladder  # here, as the processes of the runs don't need it

    flags = parse_flags()
    models = tuple(dict.fromkeys(flags.models))
    shared = {"epochs": flags.epochs, "holdout": flags.holdout, "data_dir": flags.data_dir}
    jobs = {
        (model_type, name): [
            Args(model_type=model_type, seed=seed, **shared, **settings)
            for seed in range(flags.seeds)
        ]
        for model_type in models
        for name, _, settings in steps()
    }
    for runs in jobs.values():
        device, _ = training.prepare(runs[0])  # before any training, so that mistakes show at once
    at_once = compare.cores()
    failed = compare.train_all([args for runs in jobs.values() for args in runs], device, at_once)
    if failed:
        raise UserError(f"{len(failed)} runs failed: {', '.join(failed)}; start again to retry")
    measured = []
    for model_type in models:
        accuracies = {
            name: [compare.collect(args)["curves"]["test_accuracy"][-1] for args in runs]
            for (owner, name), runs in jobs.items()
            if owner == model_type
        }
        measured += measure(model_type, accuracies)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    ladder = {
        **{"seeds": flags.seeds, "epochs": flags.epochs, "holdout": flags.holdout},
        **{"versions": versions, "processor": compare.processor(at_once), "method": compare.METHOD},
        "steps": measured,
    }
    table = render(ladder)
    compare.publish(ladder, table, "ladder")
    plot_ladder(measured)
    draw_warps(Args(**shared, **BEST))
    print(table)


if __name__ == "__main__":
    command(main)
