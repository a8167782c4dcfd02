"""predict.py: what it prints, writes and draws, the way to one's own digits, the ONNX file."""

import json
import os
import re
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, commands, load_run, results, tar_bytes
from PIL import Image

import main
import predict
from comparison.analysis import calibration_error
from main import Args
from model import MODELS
from reading import classifier as reading_classifier
from reading import onnx as reading_onnx
from reading.groups import Digit
from utils import files
from utils.checkpoint import RUNS, load_weights, pack_weights

WEIGHTS = {name: str(predict.WEIGHTS / f"{name}.pt") for name in MODELS}


def write_sheet(path, images, columns=10):
    """Write images as dark digits in rows on paper, twice enlarged."""
    rows = -(-len(images) // columns)
    paper = np.full((rows * 96 + 30, columns * 72 + 30), 240.0)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        ink = np.asarray(Image.fromarray(image).resize((56, 56), Image.Resampling.BICUBIC))
        y, x = 96 * row + 35, 72 * column + 23
        paper[y : y + 56, x : x + 56] -= ink * 0.8
    paper += np.random.default_rng(0).normal(0, 2, paper.shape)
    Image.fromarray(paper.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- Weights ----------------------------------------------------------------------------------


def test_shipped_weights_are_small_good_and_calibrated(shipped_test_images):
    images, labels = (part.numpy() for part in shipped_test_images)
    wrong = {}
    for model_type, source in WEIGHTS.items():
        assert Path(source).stat().st_size < 200_000
        shares = predict.probabilities(predict.load_classifier(source), images)
        wrong[model_type] = shares.argmax(axis=1) != labels
        published = results("best").networks[model_type].accuracies
        # Four standard deviations of a run.
        assert 100 - 100 * wrong[model_type].mean() > published.mean() - 0.2
        assert calibration_error(shares, labels) <= 0.5
    first, second = wrong["LeNet5"], wrong["CustomMLP"]
    expected = (
        f"LeNet-5 alone misclassifies {(first & ~second).sum()} of the 10,000 test images, the MLP "
        f"alone {(second & ~first).sum()}."
    )
    assert expected in " ".join((ROOT / "docs/answers.md").read_text().split())


def test_own_run_predicts_as_it_did_in_training(small, cli, empty_plots):
    main.run(Args("CustomMLP", 1), RUNS / "mine", verbose=False)
    code, out, err = cli(predict, "--test", "data/test", "--run", "mine")
    row = load_run("mine")[0][-1]
    figures = f"loss {row['test_loss']:.4f}, accuracy {row['test_accuracy']:.2f} %"
    assert (code, err) == (0, "") and out.startswith(f"mine on data/test: 100 images, {figures}")
    Path("data").unlink()  # what the folder holds today does not matter
    text = predict.describe_origin(predict.load_classifier("mine"))
    assert text == "CustomMLP is run mine, trained on 300 images."


# --- Pictures ---------------------------------------------------------------------------------


def test_a_line_per_picture_and_all_of_it_as_json(place, digits, cli):
    images, labels = digits
    write_sheet("one.png", images[:1])
    write_sheet("rows.png", images[1:7], columns=3)
    code, out, err = cli(predict, "one.png", "rows.png")
    one, rows, plot = out.splitlines()
    assert (code, err, plot) == (0, "", "plots/predictions.png")
    assert Image.open(plot).size[0] > 800
    assert re.fullmatch(rf"one\.png: {labels[0]} \(\d+\.\d %\)", one)
    text = "".join(map(str, labels[1:7]))
    least = re.fullmatch(rf"rows\.png: 6 digits, {text} \(least certain: (.*)\)", rows)[1]

    content = json.loads(cli(predict, "rows.png", "--json")[1])
    assert (content["picture"], content["digits"]) == ("rows.png", text)
    assert content["lines"] == [1, 1, 1, 2, 2, 2]
    assert content["uncertain"] == content["warnings"] == []
    boxes, shares = np.array(content["boxes"]), np.array(content["probabilities"])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    expected = [[51 + 72 * column, 63 + 96 * row] for row in range(2) for column in range(3)]
    assert np.abs(centres - expected).max() < 15
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-4)
    assert shares.argmax(axis=1).tolist() == labels[1:7].tolist()
    worst = shares.max(axis=1).argmin()
    assert least.startswith(f"{text[worst]} at line {content['lines'][worst]}, ")


def test_classes_may_be_words(place, digits, cli, monkeypatch):
    words = ["none", *"123456789"]
    for module in (predict, reading_classifier):
        monkeypatch.setattr(module, "CLASSES", words)
    images, labels = digits
    write_sheet("rows.png", images[1:7], columns=3)
    text = " ".join(words[label] for label in labels[1:7])
    assert f"rows.png: 6 digits, {text} (least" in cli(predict, "rows.png")[1]
    assert json.loads(cli(predict, "rows.png", "--json")[1])["digits"] == text


@pytest.mark.parametrize("probability, shown", [
    (0.4996, "? at line 2, 49 %"), (0.5, "8 at line 2, 50 %"), (0.9996, "8 at line 2, 99 %"),
])  # fmt: skip
def test_only_certainty_is_100_percent_and_only_a_question_mark_below_50(probability, shown):
    shares = np.zeros((2, 10))
    shares[0, 7], shares[1, 8] = 1, probability
    reading = SimpleNamespace(shares=shares, digits=[Digit((), None, row, 2) for row in shares])
    assert predict.describe_picture(Path("a.png"), reading).endswith(f"(least certain: {shown})")


def test_a_turned_picture_is_shown_upright(place, digits):
    write_sheet("rows.png", digits[0][1:7], columns=3)
    with Image.open("rows.png") as upright:
        upright.rotate(-90, expand=True).save("side.png")
        picture, reading = predict.read_picture(
            reading_classifier.load_classifier(WEIGHTS["LeNet5"]), Path("side.png")
        )
        assert np.array_equal(picture.convert("L"), upright)
    assert json.loads(predict.to_json(Path("side.png"), reading))["turned"] == 90


def test_images_as_totensor_makes_them_are_refused():
    classifier = reading_classifier.load_classifier(WEIGHTS["LeNet5"])
    with pytest.raises(TypeError, match="uint8"):
        classifier(torch.rand(1, 1, 28, 28))


def test_uncertain_digits_are_question_marks_whose_guess_is_in_the_json(
    place, digits, cli, empty_plots
):
    settings, weights = load_weights(WEIGHTS["LeNet5"])
    Path("vague.pt").write_bytes(pack_weights("LeNet5", settings["deskew"], weights, 10.0))
    write_sheet("one.png", digits[0][:1])
    line = cli(predict, "one.png", "--run", "vague.pt")[1].splitlines()[0]
    assert line.startswith("one.png: ? (")
    content = json.loads(cli(predict, "one.png", "--run", "vague.pt", "--json")[1])
    assert (content["uncertain"], content["digits"]) == ([0], str(digits[1][0]))


def test_errors_and_warnings_name_their_picture_and_any_name_is_drawn(place, digits, cli):
    names = ["Ba$$in.png", "照片.png", os.fsdecode(b"b\xffd.png")]
    write_sheet(names[0], digits[0][:2])
    shutil.copy(names[0], names[1])
    with Image.open(names[0]) as picture:
        picture.crop((0, 0, 122, picture.height)).save(names[2])  # through the second digit
    with Image.open(names[0]) as picture:
        picture = picture.convert("RGB")
        picture.save("scan.tif", save_all=True, append_images=[picture])
    empty = Image.new("L", (300, 200), 250)
    empty.save("empty.png")
    empty.save("blank.tif", save_all=True, append_images=[picture])
    Path("text.txt").write_text("seven")
    code, out, err = cli(predict, "none.jpg", "empty.png", "text.txt", *names, "scan.tif")
    assert "the first of 2 pages" in cli(predict, "blank.tif")[2]
    *errors, warning, pages = err.splitlines()
    assert pages.startswith("warning: scan.tif: this is the first of 2 pages")
    assert [line.partition(": ")[0] for line in errors[:3]] == ["none.jpg", "empty.png", "text.txt"]
    assert re.match(r"warning: b.+d\.png: .* \(\d+, \d+\) to ", warning)
    assert code == 2 and [line.partition(": ")[0] for line in out.splitlines()] == [
        "Ba$$in.png", "照片.png", r"b\udcffd.png", "scan.tif", "plots/predictions.png",
    ]  # fmt: skip


@pytest.mark.parametrize("flags, tells", [
    ((), "pictures --test --page --export is required"),
    (("a.png", "--test", "b"), "--test: not allowed with argument pictures"),
    (("--test", "b", "--crops", "c"), "--crops and --json are for pictures"),
    (("a.png", "--model_type", "VGG"), "--model_type: invalid choice: 'VGG'"),
    (("a.png", "--model_type", "LeNet5", "--run", "x"), "--run: not allowed with"),
    (("a.png", "--run", "none"), "none: neither a file of weights nor a run"),
    (("a.png", "--run", "other.pt"), "other.pt: does not fit LeNet5"),
    (("a.png", "--run", "unknown.pt"), "unknown.pt: its network VGG is not in model.py"),
    (("a.png", "--crops", "README.md"), "README.md: cannot be written"),
    (("--test", "none"), "none: no such folder or archive"),
    (("--test", "none.tar.xz"), "none.tar.xz: no such folder or archive"),
    (("--page", "a.html", "--model_type", "LeNet5"), "leave --model_type out"),
    (("a.png", "--run", ""), "--run: it or what follows is empty"),
    (("a.png", "--run="), "--run=: it or what follows is empty"),
    (("--test", "README.md"), "README.md: not a readable archive"),
])  # fmt: skip
def test_wrong_flags_are_one_line(place, refused, flags, tells):
    Path("README.md").write_text("text")
    _, weights = load_weights(WEIGHTS["CustomMLP"])
    Path("other.pt").write_bytes(pack_weights("LeNet5", False, weights))
    Path("unknown.pt").write_bytes(pack_weights("VGG", False, weights))
    assert tells in refused(predict, *flags)
    assert {path.name for path in place.iterdir()} == {"README.md", "other.pt", "unknown.pt"}


# --- Labelled images --------------------------------------------------------------------------


def test_labelled_images_of_an_archive_are_counted_listed_and_drawn(place, real, cli):
    """An archive may be named otherwise than its folder, and unlike a regular expression."""
    images = [("test/" + name, content) for name, content in real["test"][:100]]
    for index in range(30):
        name, content = images[index]
        images[index] = f"{name[:11]}{(int(name[11]) + 1) % 10}.png", content
    Path("class").mkdir()
    Path("class/dig(1.tar").write_bytes(tar_bytes(images))
    code, out, err = cli(predict, "--test", "class/dig(1.tar", "--model_type", "CustomMLP")
    assert (code, err) == (0, "")
    line, *wrong, confusion, misclassified = out.splitlines()
    assert re.fullmatch(
        r"CustomMLP on class/dig\(1\.tar: 100 images, loss \d\.\d{4}, accuracy 70\.00 % "
        r"\[60\.42, 78\.11\]", line,
    )  # fmt: skip
    form = r"misclassified: (\d{5})_(\d)\.png as (\d) \((\d+\.\d) %\)"
    found = [re.fullmatch(form, line).groups() for line in wrong[:-1]]
    assert all((int(label) - int(guess)) % 10 == 1 for _, label, guess, _ in found)
    certain = [float(percent) for *_, percent in found]
    assert len(certain) == 20 and certain == sorted(certain, reverse=True)
    assert wrong[-1].startswith("misclassified: 10 more")
    assert confusion == "plots/confusion_matrix_CustomMLP_class-dig(1.tar.png"
    assert misclassified == "plots/misclassified_CustomMLP_class-dig(1.tar.png"
    assert all(Image.open(picture).size[0] > 1000 for picture in (confusion, misclassified))
    assert len(list(Path("class").iterdir())) == 1  # it is read without being extracted


# --- One's own --------------------------------------------------------------------------------


def test_crops_start_where_the_folder_ends_and_are_like_mnists(place, digits, cli, empty_plots):
    images, labels = digits
    write_sheet("one.png", images[:20])
    write_sheet("two.png", images[20:30])
    Path("my_digits/test").mkdir(parents=True)
    Image.fromarray(images[30]).save(f"my_digits/test/00041_{labels[30]}.png")
    code, out, err = cli(predict, "one.png", "two.png", "--json", "--crops", "my_digits/test")
    assert code == 0 and len(out.splitlines()) == 2 and len(err.splitlines()) == 2
    paths = sorted(Path("my_digits/test").glob("*.png"))
    assert [path.name[:5] for path in paths] == [f"{number:05d}" for number in range(41, 72)]
    assert f"my_digits/test: {paths[1].name} to {paths[20].name}, least certain 000" in err
    for path, label in zip(paths[1:], labels, strict=False):  # as a person corrects the names
        path.rename(path.with_name(f"{path.name[:5]}_{label}.png"))
    code, out, err = cli(predict, "--test", "my_digits/test")
    assert (code, err) == (0, "") and "LeNet5 on my_digits/test: 31 images" in out
    assert float(re.search(r"accuracy (\d+\.\d+) %", out)[1]) >= 96


def test_of_a_picture_all_crops_are_written_or_none(place, digits, cli, monkeypatch):
    write_sheet("one.png", digits[0][:5])
    write, written = files.atomic_write, []

    def write_three(path, content):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(files, "atomic_write", write_three)
    code, _, _ = cli(predict, "one.png", "--crops", "crops")
    assert (code, len(written), list(Path("crops").glob("*.png"))) == (130, 3, [])


# --- ONNX -------------------------------------------------------------------------------------


def test_onnx_file_that_computes_something_else_is_not_written(place, refused, monkeypatch):
    session = SimpleNamespace(run=lambda *_: [np.zeros((1000, 10), np.float32)])
    monkeypatch.setattr(reading_onnx, "build_onnx", lambda _: b"")
    monkeypatch.setattr(reading_onnx, "load_session", lambda _: session)
    assert "a.onnx: not written" in refused(predict, "--export", "a.onnx")
    assert not list(place.iterdir())


def test_onnx_file_of_a_run_computes_what_pytorch_does(place, cli, digits, monkeypatch):
    Path("runs/mine").mkdir(parents=True)
    shutil.copy(WEIGHTS["LeNet5_regularization"], "runs/mine/checkpoint.pt")
    # Nothing connects; onnxruntime's telemetry would leave a device ID in the home folder.
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    (line,) = [line for line in commands((ROOT / "README.md").read_text()) if "--export" in line]
    code, out, _ = cli(predict, *line.split()[2:], "--run", "mine")
    assert code == 0 and out.startswith("lenet5.onnx: 1,000 images")
    assert {path.name for path in place.iterdir()} == {"lenet5.onnx", "runs"}

    model = onnx.load("lenet5.onnx")
    onnx.checker.check_model(model)
    classifier = predict.load_classifier("mine")
    assert {entry.key: entry.value for entry in model.metadata_props}.items() >= {
        "network": "LeNet5_regularization", "deskew": "True", "source": "mine",
        "temperature": str(classifier.temperature),
    }.items()  # fmt: skip
    content = Path("lenet5.onnx").read_bytes()
    session = reading_onnx.load_session(content)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [1, 28, 28])
    assert answer.name == "logits"
    images = digits[0]
    expected = predict.classify(classifier, torch.from_numpy(images)).numpy()
    for count in (1, 500):
        (logits,) = session.run(None, {"images": images[:count, None]})
        assert logits.dtype == np.float32 and np.abs(logits - expected[:count]).max() < 1e-4
