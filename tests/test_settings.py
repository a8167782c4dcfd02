"""utils/settings.py: flags from the args block, what they refuse, recipes, and the device."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch

import main
from main import RECIPES, Args
from utils.device import make_reproducible, processor_name, select_device
from utils.files import UserError
from utils.settings import Parser, add_settings, check_settings, given_settings, setting


@dataclass
class Example:
    """An args block with one setting of each kind."""

    colour: str = setting("red", "colour", choices=("red", "blue"))
    count: int = setting(3, "number of things", 1)
    share: float = setting(0.5, "share", 0, 1)
    rate: float = setting(0.1, "rate", above=0)
    fast: bool = setting(False, "hurry")
    device: str = setting("cpu", "device, 100 % of it")


@pytest.fixture
def parse():
    """Return the settings that main.py's flags, or those of another args block, give."""

    def run(*flags, args_class=Args, recipes=RECIPES):
        parser = Parser()
        add_settings(parser, args_class, recipes)
        parsed = parser.parse_args([str(flag) for flag in flags])
        return given_settings(parsed, args_class, recipes)

    return run


# --- Limits -----------------------------------------------------------------------------------


def test_values_up_to_the_limits_are_allowed():
    for value in (1, 10**12):
        check_settings(Example(count=value))
    for value in (0.0, 0.999):
        check_settings(Example(share=value))
    for value in (1e-300, 1e300):
        check_settings(Example(rate=value))


@pytest.mark.parametrize("name, value, words", [
    ("colour", "green", "unknown; known are red, blue"),
    ("count", 0, "must be at least 1"),
    ("share", -1e-9, "must be at least 0 and below 1"),
    ("share", 1, "must be at least 0 and below 1"),
    ("share", math.nan, "must be at least 0 and below 1"),
    ("rate", 0, "must be above 0"),
    ("rate", math.inf, "must be above 0"),
    ("rate", "0.1", "must be of type float"),
    ("count", 1.5, "must be of type int"),
])  # fmt: skip
def test_values_beyond_the_limits_are_refused(name, value, words):
    with pytest.raises(UserError) as error:
        check_settings(Example(**{name: value}))
    assert str(error.value).replace("'", "") == f"--{name} {value}: {words}"


@pytest.mark.parametrize("flags, words", [
    (("--model_type", "VGG"), "VGG: unknown; known are LeNet5, LeNet5_regularization, CustomMLP"),
    (("--recipe", "secret"), "secret: unknown; known are baseline, best, record, fast"),
    (("--schedule", "wild"), "wild: unknown; known are constant, onecycle"),
    (("--epochs", 0), "--epochs 0"),
    (("--epochs", 1.5), "--epochs"),
    (("--epoch", 3), "--epoch"),  # no abbreviations
    (("--lr", 0), "--lr 0"),
    (("--lr", "nan"), "--lr nan"),
    (("--lr", "fast"), "--lr"),
    (("--batch_size", 0), "--batch_size 0"),
    (("--momentum", 1), "--momentum 1"),
    (("--seed", -1), "--seed -1"),
    (("--seed", 2**63), "--seed"),
    (("--threads", 0), "--threads 0"),
    (("--device", "tpu"), "--device tpu"),
    (("--device", "cuda:99"), "--device cuda:99"),
    (("--label_smoothing", -0.1), "--label_smoothing -0.1"),
    (("--weight_decay", 1), "--weight_decay 1"),
    (("--rotate", 180), "--rotate 180"),
    (("--shift", 28), "--shift 28"),
    (("--stretch", 1), "--stretch 1"),
    (("--elastic", -1), "--elastic -1"),
    (("--val_size", -1), "--val_size -1"),
    (("--deskew", 2), "2"),
    (("--name", "../up"), "--name"),
    (("--name", ""), "--name"),
    (("--colour", "red"), "--colour"),
])  # fmt: skip
def test_wrong_flags_are_one_line_before_anything_is_done(tmp_path, monkeypatch, cli, flags, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(main, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


# --- Flags ------------------------------------------------------------------------------------


def test_help_names_every_setting_recipe_and_choice_and_bears_any_sign(cli, capfd):
    code, out, _ = cli(main, "--help")
    assert code == 0
    text = " ".join(out.split())
    for field in dataclasses.fields(Args):
        assert f"--{field.name} " in text.replace(",", " ")
        assert " ".join(f"{field.metadata['help']} (default: {field.default})".split()) in text
    parser = Parser()
    add_settings(parser, Example, {"plain": {}, "quick": {}})
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = " ".join(capfd.readouterr().out.split())
    for words in ("plain, quick", "colour: red, blue", "device, 100 % of it (default: cpu)"):
        assert words in text


def test_flags_have_the_types_of_their_settings(parse):
    flags = ("--colour", "blue", "--count", "7", "--share", "0", "--fast")
    given = parse(*flags, args_class=Example, recipes={})
    assert given == {"colour": "blue", "count": 7, "share": 0.0, "fast": True}
    assert [type(value) for value in given.values()] == [str, int, float, bool]


def test_a_bool_is_switched_on_and_off_and_a_flag_not_given_is_no_setting(parse):
    assert parse() == {}
    assert parse("--deskew") == {"deskew": True}
    assert parse("--no-deskew") == {"deskew": False}
    assert parse("--deskew", "--no-deskew") == {"deskew": False}
    assert parse("--no-deskew", "--recipe", "best")["deskew"] is False


# --- Recipes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_what_it_names_and_single_flags_override_it(parse, recipe):
    assert Args(**parse("--recipe", recipe)) == Args(**RECIPES[recipe])
    given = parse("--lr", 0.005, "--recipe", recipe, "--shift", 0.5)
    assert Args(**given) == dataclasses.replace(Args(**RECIPES[recipe]), lr=0.005, shift=0.5)


# --- Device -----------------------------------------------------------------------------------


@pytest.fixture
def mps(monkeypatch):
    """A machine that has MPS and no CUDA."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_mps_is_for_one_process_only(mps, processes):
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


def test_what_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(UserError, match=f"--device {name}"):
            select_device(name)


def test_a_seed_gives_the_same_numbers_and_threads_are_set():
    try:
        make_reproducible(5, 2)
        assert torch.get_num_threads() == 2
        assert processor_name("cpu", 2).endswith(", 2 threads per run")
        drawn = torch.rand(3)
    finally:
        make_reproducible(5, 1)
    assert torch.get_num_threads() == 1
    assert torch.equal(drawn, torch.rand(3))
    assert torch.are_deterministic_algorithms_enabled()
