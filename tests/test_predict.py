"""predict.py: what it prints, writes and draws, the way to one's own digits, the ONNX file."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, commands, decode, tar_bytes
from PIL import Image

import main
import predict
import utils.plots
from comparison.analysis import calibration_error
from dataset import Split, normalise
from main import Args
from model import MODELS
from reading import onnx as reading_onnx
from reading import photos, plots
from reading.classifier import fit_temperature
from utils.archives import parse_name
from utils.augment import deskew
from utils.checkpoint import RUNS, load_weights, pack_weights
from utils.files import UserError

WEIGHTS = {name: str(predict.WEIGHTS / f"{name}.pt") for name in MODELS}


@pytest.fixture(scope="module")
def digits(real):
    """The first 500 test images uint8 [500, 28, 28], and their labels int [500]."""
    images = np.stack([decode(content) for _, content in real["test"]])
    return images, np.array([parse_name(name)[1] for name, _ in real["test"]])


def write_sheet(path, images, columns=10, scale=4):
    """Write images as dark digits in rows on paper, of that many pixels per pixel of theirs."""
    rows, size = -(-len(images) // columns), 28 * scale
    paper = np.full((rows * 48 * scale + 60, columns * 36 * scale + 60), 240.0)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        ink = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        y, x = 30 + 48 * scale * row + 10 * scale, 30 + 36 * scale * column + 4 * scale
        paper[y : y + size, x : x + size] -= ink * 0.8
    paper += np.random.default_rng(0).normal(0, 2, paper.shape)
    Image.fromarray(paper.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def vague(place):
    """LeNet-5's weights with so high a temperature that no digit reaches 50 %."""
    settings, weights = load_weights(WEIGHTS["LeNet5"])
    Path("vague.pt").write_bytes(pack_weights("LeNet5", settings["deskew"], weights, 10.0))
    return "vague.pt"


@pytest.fixture(scope="module")
def shipped_test_images():
    """MNIST's 10,000 test images, decoded once."""
    return predict.shipped_test_images()


# --- Weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", MODELS)
def test_shipped_weights_are_small_good_and_calibrated(model_type, shipped_test_images):
    assert Path(WEIGHTS[model_type]).stat().st_size < 200_000
    images, labels = shipped_test_images
    classifier = predict.load_classifier(WEIGHTS[model_type])
    assert classifier.deskewed
    shares = predict.classify(classifier, images).softmax(dim=1).numpy()
    assert (shares.argmax(axis=1) == labels.numpy()).mean() >= 0.99
    assert calibration_error(shares, labels.numpy()) <= 0.5


def test_fitted_temperature_undoes_what_scaled_the_logits():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    for factor in (0.5, 3.0):
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


@pytest.mark.parametrize("deskewed", [False, True])
def test_classifier_prepares_images_as_training_does(digits, deskewed):
    images = torch.from_numpy(digits[0][:50])
    network = MODELS["LeNet5"]()
    classifier = predict.Classifier("LeNet5", deskewed, network.state_dict(), "here", 2.0)
    prepared = normalise(images)
    with torch.inference_mode():
        expected = network.eval()(deskew(prepared) if deskewed else prepared) / 2
    assert torch.equal(predict.classify(classifier, images), expected)


def test_weights_that_do_not_fit_are_refused(place):
    _, weights = load_weights(WEIGHTS["CustomMLP"])
    Path("other.pt").write_bytes(pack_weights("LeNet5", False, weights))
    Path("unknown.pt").write_bytes(pack_weights("VGG", False, weights))
    for source, tells in {"other.pt": "LeNet5", "unknown.pt": "VGG", "none": "neither"}.items():
        with pytest.raises(UserError, match=rf"{source}.*{tells}"):
            predict.load_classifier(source)


# --- Pictures ---------------------------------------------------------------------------------


def test_line_says_how_many_digits_and_which_is_least_certain(place, digits, cli):
    images, labels = digits
    write_sheet("one.png", images[:1])
    write_sheet("sheet.png", images[1:13], columns=4)
    code, out, err = cli(predict, "one.png", "sheet.png")
    one, sheet, plot = out.splitlines()
    assert (code, err, plot) == (0, "", "plots/predictions.png")
    assert re.fullmatch(rf"one\.png: {labels[0]} \(\d+\.\d %\)", one)
    text = "".join(map(str, labels[1:13]))
    found = re.fullmatch(
        rf"sheet\.png: 12 digits, {text} \(least certain: (\d) at line (\d), (\d+) %\)", sheet
    )
    content = json.loads(cli(predict, "sheet.png", "--json")[1])
    shares = np.max(content["probabilities"], axis=1)
    worst = shares.argmin()
    assert found.groups() == (text[worst], str(1 + worst // 4), str(int(100 * shares[worst])))
    assert Image.open(plot).size[0] > 1000


def test_json_holds_guesses_boxes_and_probabilities(place, digits, cli, vague):
    images, labels = digits
    write_sheet("row.png", images[:4])
    code, out, err = cli(predict, "row.png", "--json", "--run", vague)
    content = json.loads(out)
    assert (code, err, content["picture"]) == (0, "", "row.png")
    assert content["digits"] == "".join(map(str, labels[:4]))
    assert content["uncertain"] == [0, 1, 2, 3] and content["lines"] == [1] * 4
    assert content["warnings"] == []
    shares, boxes = np.array(content["probabilities"]), np.array(content["boxes"])
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-4) and shares.max() < 0.5
    assert shares.argmax(axis=1).tolist() == labels[:4].tolist()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.abs(centres - [[102 + 144 * i, 126] for i in range(4)]).max() < 30
    line = cli(predict, "row.png", "--run", vague)[1].splitlines()[0]
    assert line.startswith("row.png: 4 digits, ???? (least certain: ? at line 1, ")
    assert json.loads(cli(predict, "row.png", "--json")[1])["uncertain"] == []


def test_errors_and_warnings_name_their_picture(place, digits, cli, monkeypatch):
    def warn(picture, classify):
        reading = find_digits(picture, classify)
        return SimpleNamespace(digits=reading.digits, warnings=["ink is cut off at x 0, y 30"])

    find_digits = photos.find_digits
    monkeypatch.setattr(photos, "find_digits", warn)
    write_sheet("good.png", digits[0][:1])
    Image.new("L", (300, 200), 250).save("empty.png")
    Path("text.txt").write_text("seven")
    code, out, err = cli(predict, "none.jpg", "empty.png", "text.txt", "good.png", "--json")
    *errors, warning = err.splitlines()
    assert [line.partition(": ")[0] for line in errors] == ["none.jpg", "empty.png", "text.txt"]
    assert warning == "warning: good.png: ink is cut off at x 0, y 30"
    assert code == 2 and json.loads(out)["warnings"] == ["ink is cut off at x 0, y 30"]


def test_any_file_name_is_read_and_drawn(place, digits, cli, monkeypatch):
    names = [b"Ba$$in.png", "照片.png".encode(), b"b\xffd.png", b"new\nline.png"]
    names = [os.fsdecode(name) for name in names]
    write_sheet("one.png", digits[0][:1])
    for name in names:
        shutil.copy("one.png", name)
    narrow = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    code, _, err = cli(predict, *names)
    assert (code, err) == (0, "")
    assert [line.partition(": ")[0] for line in narrow.buffer.getvalue().decode().splitlines()] == [
        "Ba$$in.png", r"\u7167\u7247.png", r"b\udcffd.png", r"new\nline.png",
        "plots/predictions.png",
    ]  # fmt: skip
    assert Image.open("plots/predictions.png").size[1] > 1000


def test_plot_that_cannot_be_drawn_costs_no_result(place, real, digits, cli):
    write_sheet("one.png", digits[0][:1])
    Path("plots").write_text("a file where the folder should be")
    code, out, err = cli(predict, "one.png")
    assert code == 0 and out.startswith("one.png: ") and out.count("\n") == 1
    assert err.startswith("warning: plots/predictions.png is not drawn") and err.count("\n") == 1
    Path("test.tar").write_bytes(tar_bytes([("test/0_7.png", real["test"][0][1])]))
    code, out, err = cli(predict, "--test", "test.tar")
    assert code == 0 and "accuracy 100.00 %" in out and err.count("warning: ") == 1


def test_every_digit_of_a_sheet_is_drawn(place, digits, cli, vague, monkeypatch):
    figures = []
    monkeypatch.setattr(utils.plots, "to_png", lambda figure: figures.append(figure) or b"png")
    write_sheet("sheet.png", digits[0][:20])
    content = json.loads(cli(predict, "sheet.png", "--json")[1])
    cli(predict, "sheet.png", "--run", vague)
    sure, unsure = (figure.axes for figure in figures)
    assert len(sure) == len(unsure) == 1  # the picture alone, over the whole width
    assert [label.get_text()[0] for label in sure[0].texts] == list(content["digits"])
    assert {label.get_text()[:2] for label in unsure[0].texts} == {"? "}
    for label, box in zip(sure[0].texts, content["boxes"], strict=True):
        assert label.get_position() == (box[0], box[1])
    colours = [{patch.get_edgecolor() for patch in axes[0].patches} for axes in (sure, unsure)]
    assert colours[1] - colours[0] == colours[1]


def test_large_pictures_are_drawn_from_reduced_copies(place, digits, cli, monkeypatch):
    write_sheet("row.png", digits[0][:4], columns=4, scale=12)
    previews = []
    monkeypatch.setattr(plots, "plot_predictions", lambda given: previews.extend(given) or b"png")
    monkeypatch.setattr(plots, "MAX_PICTURES", 1)
    assert cli(predict, *["row.png"] * 2)[1].endswith("predictions.png (the first 1 of 2)\n")
    (preview,) = previews
    assert preview.size == Image.open("row.png").size == (1788, 636)
    assert max(preview.picture.size) <= 1500


@pytest.mark.parametrize("flags, tells", [
    ((), "give pictures, or one of"),
    (("a.png", "--test", "b"), "give pictures, or one of"),
    (("--test", "b", "--crops", "c"), "--crops and --json are for pictures"),
    (("a.png", "--model_type", "VGG"), "--model_type VGG"),
    (("a.png", "--model_type", "LeNet5", "--run", "x"), "--model_type is for"),
    (("a.png", "--run", ""), "neither a file of weights nor a run"),
    (("a.png", "--crops", "README.md"), "README.md: cannot be written"),
    (("--test", "none"), "none"),
    (("--test", "README.md"), "README.md: neither a folder nor an archive"),
    (("--export", "a/b.onnx", "--run", "README.md"), "README.md: "),
])  # fmt: skip
def test_wrong_flags_are_one_line(place, cli, flags, tells):
    Path("README.md").write_text("text")
    code, out, err = cli(predict, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and tells in err
    assert [path.name for path in place.iterdir()] == ["README.md"]


# --- Labelled images --------------------------------------------------------------------------


def test_labelled_images_of_folders_and_archives(place, real, cli, monkeypatch):
    """An archive may be named otherwise than its folder, and unlike a regular expression."""
    images = [("test/" + name, content) for name, content in real["test"][:100]]
    for index in range(30):
        name, content = images[index]
        images[index] = f"{name[:11]}{(int(name[11]) + 1) % 10}.png", content
    Path("dig(1.tar").write_bytes(tar_bytes(images))
    code, out, err = cli(predict, "--test", "dig(1.tar", "--model_type", "CustomMLP")
    assert (code, err) == (0, "")
    line, *wrong, confusion, misclassified = out.splitlines()
    assert re.fullmatch(
        r"CustomMLP on dig\(1\.tar: 100 images, loss \d\.\d{4}, accuracy 70\.00 % "
        r"\[60\.42, 78\.11\]", line,
    )  # fmt: skip
    form = r"misclassified: (\d{5})_(\d)\.png as (\d) \((\d+\.\d) %\)"
    found = [re.fullmatch(form, line).groups() for line in wrong[:-1]]
    assert all((int(label) - int(guess)) % 10 == 1 for _, label, guess, _ in found)
    certain = [float(percent) for *_, percent in found]
    assert len(certain) == 20 and certain == sorted(certain, reverse=True)
    assert wrong[-1].startswith("misclassified: 10 more")
    pictures = {confusion, misclassified}
    assert all(Image.open(picture).size[0] > 1000 for picture in pictures)
    monkeypatch.setattr(utils.plots, "to_png", lambda figure: b"the same pictures")
    Path("a").mkdir()
    shutil.copy("dig(1.tar", "a/dig(1.tar")
    shutil.copy("dig(1.tar", "a/test.tar")
    for source in ("a/dig(1.tar", "a/test"):
        assert not Path("a/test").exists()  # archives are read without extracting them
        code, other, err = cli(predict, "--test", source, "--model_type", "CustomMLP")
        assert (code, err) == (0, "") and other.splitlines()[1:-2] == wrong
        pictures |= set(other.splitlines()[-2:])
    assert len(pictures) == len(list(Path("plots").iterdir())) == 6


# --- One's own --------------------------------------------------------------------------------


def test_crops_start_where_the_folder_ends_and_are_like_mnists(place, digits, cli):
    images, labels = digits
    write_sheet("one.png", images[:40])
    write_sheet("two.png", images[40:50])
    Path("my_digits/test").mkdir(parents=True)
    Image.fromarray(images[50]).save(f"my_digits/test/00041_{labels[50]}.png")
    code, out, err = cli(predict, "one.png", "two.png", "--crops", "my_digits/test")
    assert (code, err) == (0, "") and "one.png: 40 digits, " in out
    paths = sorted(Path("my_digits/test").glob("*.png"))
    assert [path.name[:5] for path in paths] == [f"{number:05d}" for number in range(41, 92)]
    assert f"my_digits/test: {paths[1].name} to {paths[40].name}, least certain 000" in out
    for path, label in zip(paths[1:], labels, strict=False):  # as a person corrects the names
        path.rename(path.with_name(f"{path.name[:5]}_{label}.png"))
    code, out, err = cli(predict, "--test", "my_digits/test")
    assert (code, err) == (0, "") and "LeNet5 on my_digits/test: 51 images" in out
    assert float(re.search(r"accuracy (\d+\.\d+) %", out)[1]) >= 96


# --- ONNX -------------------------------------------------------------------------------------

GUARDED = """
import sys
import predict

def refuse(event, arguments):
    assert not event.startswith("socket."), f"{event}{arguments}"

sys.addaudithook(refuse)
predict.run_command(predict.main)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An ONNX file that the README's line wrote of a run, in a process that connects to nothing.

    onnxruntime's telemetry, which is not Python's, would leave a device ID in the home folder.
    """
    folder = tmp_path_factory.mktemp("exported")
    run, home = folder / "runs/mine/checkpoint.pt", folder / "home"
    home.mkdir()
    run.parent.mkdir(parents=True)
    shutil.copy(WEIGHTS["LeNet5_regularization"], run)
    (line,) = [line for line in commands((ROOT / "README.md").read_text()) if "--export" in line]
    _, _, *flags = line.split()
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    ended = subprocess.run(
        [sys.executable, "-c", GUARDED, *flags, "--run", "mine"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("lenet5.onnx: 1,000 images")
    assert list(home.rglob("*")) == []
    assert {path.name for path in folder.iterdir()} == {"home", "lenet5.onnx", "runs"}
    return (folder / "lenet5.onnx").read_bytes()


def test_onnx_file_computes_what_pytorch_does(exported, digits):
    model = onnx.load_from_string(exported)
    onnx.checker.check_model(model)
    classifier = predict.load_classifier(WEIGHTS["LeNet5_regularization"])
    assert {entry.key: entry.value for entry in model.metadata_props}.items() >= {
        "network": "LeNet5_regularization", "deskew": "True", "source": "mine",
        "temperature": str(classifier.temperature),
    }.items()  # fmt: skip
    session = reading_onnx.load_session(exported)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [1, 28, 28])
    assert isinstance(given.shape[0], str) and answer.name == "logits"
    images = digits[0]
    expected = predict.classify(classifier, torch.from_numpy(images)).numpy()
    for count in (1, 3, 500):
        (logits,) = session.run(None, {"images": images[:count, None]})
        assert logits.dtype == np.float32 and np.abs(logits - expected[:count]).max() < 1e-4


def test_onnx_file_that_differs_is_not_written(place, cli, exported, monkeypatch):
    monkeypatch.setattr(reading_onnx, "build_onnx", lambda classifier, name: exported)
    code, out, err = cli(predict, "--export", "net.onnx", "--model_type", "LeNet5")
    assert (code, out) == (2, "") and "net.onnx: not written" in err
    assert not Path("net.onnx").exists()


# --- Page -------------------------------------------------------------------------------------


def test_shipped_page_is_what_the_command_writes(place, cli, monkeypatch, shipped_test_images):
    monkeypatch.setattr(predict, "shipped_test_images", lambda: shipped_test_images)
    code, out, err = cli(predict, "--page", "page.html")
    assert (code, out, err) == (0, "page.html\n", "")
    assert Path("page.html").read_bytes() == (ROOT / "docs/index.html").read_bytes()


def test_own_run_reads_and_takes_its_networks_place_in_the_page(small, digits, cli, monkeypatch):
    few = Split(*map(torch.from_numpy, digits))
    monkeypatch.setattr(predict, "shipped_test_images", lambda: few)
    main.run(Args("CustomMLP", 1), RUNS / "mine", verbose=False)
    assert not predict.load_classifier("runs/mine").deskewed
    assert predict.load_classifier("mine").temperature == 1
    write_sheet("row.png", digits[0][:2])
    code, out, err = cli(predict, "row.png", "--run", "mine")
    assert (code, err) == (0, "") and out.startswith("row.png: 2 digits, ")
    assert cli(predict, "--page", "page.html", "--run", "mine")[0] == 0
    page, shipped = Path("page.html").read_text(), (ROOT / "docs/index.html").read_text()
    _, weights = load_weights("mine")
    text = base64.b64encode(weights["fc1.bias"].numpy().tobytes()).decode()
    assert text in page and text not in shipped
