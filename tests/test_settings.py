"""utils/settings.py, utils/device.py: flags from the args block, what they refuse, the device."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from main import RECIPES, Args
from utils.device import select_device
from utils.files import UserError


@pytest.fixture
def parse(monkeypatch):
    """Return the settings that main.py's flags give."""

    def run(*flags):
        monkeypatch.setattr("sys.argv", ["main.py", *map(str, flags)])
        return main.parse_flags()[2]

    return run


# --- Flags ------------------------------------------------------------------------------------


@pytest.mark.parametrize("line, words", [
    ("main.py --model_type VGG", "unknown; known are LeNet5, LeNet5_regularization, CustomMLP"),
    ("main.py --recipe secret", "secret: unknown; known are baseline, best, record, fast"),
    ("main.py --epochs 0", "--epochs 0: must be at least 1"),
    ("main.py --epochs 1.5", "--epochs: invalid int value: '1.5'"),
    ("main.py --epoch 3", "unrecognized arguments: --epoch 3"),  # no abbreviations
    ("main.py --lr 0", "--lr 0.0: must be above 0"),
    ("main.py --lr nan", "--lr nan: must be a number"),
    ("main.py --lr fast", "--lr: invalid float value: 'fast'"),
    ("main.py --momentum 1", "--momentum 1.0: must be at least 0 and below 1"),
    (f"main.py --seed {2**63}", f"--seed {2**63}: must be at least 0 and below {2**63}"),
    ("main.py --device tpu", "--device tpu: unknown; use auto, cpu, cuda, cuda:1 or mps"),
    ("main.py --device cuda:99", "--device cuda:99: this machine or this PyTorch has none"),
    ("main.py --name ../up", "--name '../up': use up to 64 letters"),
    (f"main.py --name {'L' * 65}", "use up to 64 letters"),
    ("compare.py --seeds 0", "--seeds: 0: must be at least 1"),
    ("compare.py --at_once 0", "--at_once: 0: must be at least 1"),
    ("compare.py --models VGG", "LeNet5, LeNet5_regularization, CustomMLP"),
    ("compare.py --lr -1", "--lr -1.0: must be above 0"),
    ("compare.py --runs one --lr 0.1", "--runs trains nothing, so --lr has no meaning"),
    ("-m experiments.ablation --val_size 0", "--val_size: 0: must be at least 1"),
    ("-m experiments.ablation --val_size 5000", "--val_size 5000: leaves none of 300"),
    ("-m experiments.data_size --sizes 301 --steps 5", "--sizes 301: there are only 300 images"),
    ("-m experiments.data_size --sizes 0", "--images 0: must be at least 1"),
    ("-m experiments.data_size --sizes 300 --steps 4", "--steps 4: too few to see 300 images"),
    ("-m experiments.robustness --epochs 0", "--epochs 0: must be at least 1"),
])  # fmt: skip
def test_wrong_flags_are_one_line_before_anything_is_done(small, run_line, line, words):
    code, out, err = run_line(f"python {line}")
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err
    assert {path.name for path in small.iterdir()} <= {"data", "runs"}
    assert not list(small.glob("runs/*"))


def test_help_names_every_setting_recipe_and_choice(cli):
    code, out, _ = cli(main, "--help")
    assert code == 0
    text = " ".join(out.split())
    for field in dataclasses.fields(Args):
        assert f"--{field.name} " in text.replace(",", " ")
        assert " ".join(f"{field.metadata['help']} (default: {field.default})".split()) in text
    assert ", ".join(RECIPES) in text and "LeNet5, LeNet5_regularization, CustomMLP" in text


def test_flags_are_settings_of_their_types_and_a_flag_not_given_is_none(parse):
    assert parse() == {}
    flags = ("--model_type", "CustomMLP", "--epochs", "7", "--lr", "1", "--deskew")
    given = parse(*flags)
    assert given == {"model_type": "CustomMLP", "epochs": 7, "lr": 1.0, "deskew": True}
    assert [type(value) for value in given.values()] == [str, int, float, bool]
    assert parse("--no-deskew", "--recipe", "best")["deskew"] is False


@pytest.mark.parametrize("name, value, kind", [
    ("epochs", "3", "a whole number"), ("epochs", 3.5, "a whole number"),
    ("epochs", None, "a whole number"), ("lr", "0.1", "a number"),
    ("data_dir", Path("data"), "text"), ("deskew", 2, "True or False"),
])  # fmt: skip
def test_values_of_another_type_are_refused(name, value, kind):
    with pytest.raises(UserError, match=rf"--{name} .*: must be {kind}"):
        Args(**{name: value})


def test_numbers_of_numpy_become_what_a_checkpoint_can_keep():
    args = Args(seed=np.int64(3), lr=np.float64(0.1), momentum=0, deskew=np.True_)
    assert args == Args(seed=3, lr=0.1, momentum=0.0, deskew=True)
    assert [type(v) for v in (args.seed, args.lr, args.momentum, args.deskew)] == [
        int, float, float, bool,
    ]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_what_it_names_and_single_flags_override_it(parse, recipe):
    assert Args(**parse("--recipe", recipe)) == Args(**RECIPES[recipe])
    given = parse("--lr", 0.005, "--recipe", recipe, "--shift", 0.5)
    assert Args(**given) == dataclasses.replace(Args(**RECIPES[recipe]), lr=0.005, shift=0.5)


# --- Device -----------------------------------------------------------------------------------


def test_mps_is_for_one_process_only(monkeypatch, processes):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("mps").type == select_device("auto").type == "mps"
    processes(2)
    with pytest.raises(UserError, match=r"^--device mps: .*--device cpu"):
        select_device("mps")
    assert select_device("auto").type == select_device("cpu").type == "cpu"


def test_cuda_is_the_gpu_of_the_process(monkeypatch, processes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto") == select_device("cuda") == torch.device("cuda:0")
    processes(2, 1)
    assert select_device("auto") == select_device("cuda") == torch.device("cuda:1")
    processes(4, 2)
    with pytest.raises(UserError, match="cuda:2"):
        select_device("cuda")
