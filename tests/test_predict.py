"""predict.py: what it prints and writes, the way to one's own digits, the ONNX file."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, decode, write_archives
from photographs import is_read, photograph
from PIL import Image

import main
import predict
from dataset import normalise
from main import Args
from model import MODELS
from reading import plots
from utils.archives import parse_name
from utils.augment import deskew
from utils.checkpoint import RUNS, load_weights, pack_weights
from utils.files import UserError

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def test_split(real):
    """The first 500 test images uint8 [500, 28, 28], and their labels."""
    images = np.stack([decode(content) for _, content in real["test"]])
    return torch.from_numpy(images), torch.tensor([parse_name(name)[1] for name, _ in real["test"]])


def take_picture(path, test_split, indices, seed=0):
    """Photograph test images in a row, not very large, and return their labels."""
    images, labels = test_split
    generator = np.random.default_rng(seed)
    path.write_bytes(photograph(images[indices].numpy(), generator, largest=4.5))
    return labels[indices].tolist()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- Weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", MODELS)
def test_shipped_weights_are_small_and_good(test_split, model_type):
    path = ROOT / f"data/weights/{model_type}.pt"
    assert path.stat().st_size < 200_000
    content = torch.load(path, weights_only=True)
    assert content["settings"] == {"model_type": model_type, "deskew": True}
    images, labels = test_split
    logits = predict.classify(predict.load_classifier(path), images)
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.985


def test_readme_lines_classify_a_tensor(place):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 6
    (place / "data").symlink_to(ROOT / "data")
    found = {}
    exec(code, found)
    assert found["digits"].shape == (1,)


def test_classifier_prepares_images_as_training_does(test_split):
    images = test_split[0][:50]
    for deskewed in (False, True):
        network = MODELS["LeNet5"]()
        classifier = predict.Classifier("LeNet5", deskewed, network.state_dict(), "here")
        prepared = normalise(images)
        with torch.inference_mode():
            expected = network.eval()(deskew(prepared) if deskewed else prepared)
        assert torch.equal(predict.classify(classifier, images), expected)


def test_weights_that_do_not_fit_are_refused(place):
    other = pack_weights("LeNet5", False, MODELS["CustomMLP"]().state_dict())
    Path("other.pt").write_bytes(other)
    Path("unknown.pt").write_bytes(pack_weights("VGG", False, MODELS["LeNet5"]().state_dict()))
    for source, tells in (
        ("other.pt", "do not fit LeNet5"),
        ("unknown.pt", "VGG"),
        ("x", "neither"),
    ):
        with pytest.raises(UserError, match=tells) as error:
            predict.load_classifier(source)
        assert source in str(error.value)


# --- Pictures ---------------------------------------------------------------------------------


def test_a_line_for_each_picture_and_a_plot(place, test_split, cli):
    labels = take_picture(place / "one.jpg", test_split, [0]) + take_picture(
        place / "row.jpg", test_split, [1, 2, 3, 4]
    )
    code, out, err = cli(predict, "one.jpg", "row.jpg")
    digits = "".join(map(str, labels))
    one, row, plot = out.splitlines()
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"one\.jpg: {digits[0]} \(\d+\.\d %\)", one)
    assert re.fullmatch(rf"row\.jpg: {digits[1:]} \(\d+\.\d %\)", row)
    assert plot == "plots/predictions.png"
    assert Image.open(plot).size[0] > 1000


def test_only_so_many_pictures_are_drawn_and_it_says_so(place, test_split, cli):
    take_picture(place / "one.jpg", test_split, [0])
    code, out, err = cli(predict, *["one.jpg"] * (plots.MAX_PICTURES + 1))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "plots/predictions.png (the first 8 of 9)"


def test_json_holds_boxes_and_probabilities(place, test_split, cli):
    labels = take_picture(place / "row.jpg", test_split, [1, 2, 3, 4])
    code, out, _ = cli(predict, "row.jpg", "--json")
    (line,) = out.splitlines()
    found = json.loads(line)
    assert code == 0 and found["picture"] == "row.jpg"
    assert found["digits"] == "".join(map(str, labels))
    shares, boxes = np.array(found["probabilities"]), np.array(found["boxes"])
    assert shares.shape == (4, 10) and np.allclose(shares.sum(axis=1), 1, atol=1e-4)
    assert shares.argmax(axis=1).tolist() == labels
    width, height = Image.open("row.jpg").size
    assert boxes.shape == (4, 4) and (boxes >= 0).all() and (boxes[:, [0, 2]] <= width).all()
    assert (boxes[:, [1, 3]] <= height).all() and (boxes[:, :2] < boxes[:, 2:]).all()


def test_bad_pictures_are_named_and_the_others_are_read(place, test_split, cli):
    take_picture(place / "good.jpg", test_split, [0])
    Image.new("L", (300, 200), 250).save("empty.png")
    Path("text.txt").write_text("seven")
    code, out, err = cli(predict, "none.jpg", "empty.png", "text.txt", "good.jpg")
    assert code == 2
    assert out.startswith("good.jpg: ") and len(out.splitlines()) == 2
    assert [line.partition(": ")[0] for line in err.splitlines()] == [
        "none.jpg", "empty.png", "text.txt",
    ]  # fmt: skip
    assert "no such file" in err and "no ink found" in err and "not a picture" in err


def test_a_run_of_ones_own_reads_with_its_own_deskewing(small, test_split, cli):
    for name, deskewed in (("plain", False), ("upright", True)):
        main.run(Args("CustomMLP", 1, deskew=deskewed), RUNS / name, verbose=False)
        classifier = predict.load_classifier(name)
        assert classifier.deskewed == deskewed
        assert predict.load_classifier(f"runs/{name}").model_type == "CustomMLP"
    take_picture(small / "row.jpg", test_split, [0, 1])
    code, out, err = cli(predict, "row.jpg", "--run", "upright")
    assert (code, err) == (0, "") and out.startswith("row.jpg: ")


@pytest.mark.parametrize("flags, tells", [
    ((), "give pictures, or one of"),
    (("a.png", "--test", "b"), "give pictures, or one of"),
    (("--test", "b", "--crops", "c"), "--crops and --json are for pictures"),
    (("a.png", "--model_type", "VGG"), "--model_type VGG"),
    (("a.png", "--model_type", "LeNet5", "--run", "x"), "--model_type is for"),
    (("a.png", "--run", ""), "neither a file of weights nor a run"),
    (("a.png", "--crops", "README.md"), "README.md: cannot be written"),
    (("--page", "."), ".: cannot be written"),
    (("a.png", "--run", "none"), "none: neither a file of weights nor a run"),
    (("--test", "none"), "none"),
    (("--test", "README.md"), "README.md: neither a folder nor an archive"),
    (("--export", "a/b.onnx", "--run", "README.md"), "README.md: damaged"),
])  # fmt: skip
def test_wrong_flags_are_one_line(place, cli, flags, tells):
    Path("README.md").write_text("text")
    code, out, err = cli(predict, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and tells in err
    assert [path.name for path in place.iterdir()] == ["README.md"]


def test_weights_that_are_not_finite_or_of_another_kind_are_refused(place):
    _, weights = load_weights(str(predict.WEIGHTS / "CustomMLP.pt"))
    weights["fc3.bias"][0] = float("nan")
    Path("nan.pt").write_bytes(pack_weights("CustomMLP", True, weights))
    torch.save({"model": weights, "settings": ["CustomMLP"]}, "list.pt")
    torch.save({"model": weights, "settings": {"model_type": [], "deskew": True}}, "type.pt")
    for name in ("nan.pt", "list.pt", "type.pt"):
        with pytest.raises(UserError, match=f"{name}: damaged"):
            predict.load_classifier(name)


def test_picture_of_a_test_is_named_after_the_weights(place, test_split, cli, real):
    write_archives(place / "data", real, 1, 50)
    (place / "elsewhere").mkdir()
    shutil.copy(predict.WEIGHTS / "CustomMLP.pt", "elsewhere/own.pt")
    code, _, err = cli(predict, "--test", "data/test.tar", "--run", "elsewhere/../elsewhere/own.pt")
    assert (code, err) == (0, "")
    assert [path.name for path in Path("plots").rglob("*")] == ["confusion_matrix_own.png"]


# --- From photographs to one's own network ----------------------------------------------------


def test_crops_go_on_where_the_folder_ends(place, test_split, cli):
    take_picture(place / "one.jpg", test_split, [1, 2])
    take_picture(place / "two.jpg", test_split, [3])
    Path("my_digits").mkdir()
    Image.new("L", (28, 28)).save("my_digits/00041_3.png")
    code, out, err = cli(predict, "one.jpg", "two.jpg", "--crops", "my_digits")
    assert (code, err) == (0, "")
    names = sorted(path.name for path in Path("my_digits").glob("*.png"))
    assert f"my_digits: {names[1]} to {names[2]}, least certain {names[1][:4]}" in out
    assert [name[:5] for name in names] == ["00041", "00042", "00043", "00044"]
    images, labels = predict.load_images(Path("my_digits"))
    assert images[1:].amax() > 200 and labels.tolist() == [3, *test_split[1][1:4].tolist()]


def test_the_walk_from_photographs_to_a_network_of_ones_own(place, real, test_split, cli):
    """300 digits in photographs, cropped, their names corrected, trained on, tested on others."""
    images = np.stack([decode(content) for _, content in real["train"][:300]])
    labels = [parse_name(name)[1] for name, _ in real["train"][:300]]
    own = torch.from_numpy(images), torch.tensor(labels)
    sheets = {"train": (own, 30), "test": (test_split, 15)}
    for split, (source, count) in sheets.items():
        truth, paths = [], []
        for number in range(count):
            paths.append(Path(f"{split}{number}.jpg"))
            indices = list(range(10 * number, 10 * number + 10))
            truth.append(take_picture(place / paths[-1], source, indices, seed=number))
        code, out, err = cli(predict, *paths, "--crops", f"my_digits/{split}")
        assert (code, err) == (0, "")
        crops = sorted(Path(f"my_digits/{split}").glob("*.png"))
        whole = 0
        lines = [line for line in out.splitlines() if line.startswith(split)]
        for line, right in zip(lines, truth, strict=True):
            read = line.split(": ")[1].split()[0]
            mine, crops = crops[: len(read)], crops[len(read) :]
            whole += len(read) == 10
            for path, label in zip(mine, right, strict=False):
                if len(read) == 10:  # correct what was misread
                    path.rename(path.with_name(f"{path.name[:5]}_{label}.png"))
                else:  # two digits in one, or one in two: not worth the trouble
                    path.unlink()
            for path in mine[10:]:
                path.unlink()
        assert whole >= 0.9 * count
    flags = ("--init", ROOT / "data/weights/LeNet5.pt", "--deskew", "--name", "mine")
    code, out, err = cli(main, "--data_dir", "my_digits", *flags)
    assert (code, err) == (0, "")
    code, out, err = cli(predict, "--run", "mine", "--test", "my_digits/test")
    assert (code, err) == (0, "")
    assert float(re.search(r"accuracy (\d+\.\d+) %", out)[1]) > 97


@pytest.mark.parametrize("length, count, least", [(1, 25, 24), (4, 6, 5)])
def test_simulated_photographs_are_read(length, count, least):
    assert sum(is_read(number, length) for number in range(count)) >= least


def test_labelled_images_are_tested_in_folders_and_archives(place, real, cli):
    write_archives(place / "data", real, 1, 500)
    code, out, err = cli(predict, "--test", "data/test.tar", "--model_type", "CustomMLP")
    assert (code, err) == (0, "")
    line, plot = out.splitlines()
    found = re.fullmatch(
        r"CustomMLP on data/test.tar: 500 images, loss (\d\.\d{4}), accuracy (\d+\.\d\d) % "
        r"\[(\d+\.\d\d), (\d+\.\d\d)\]", line
    )  # fmt: skip
    accuracy, low, high = map(float, found.groups()[1:])
    assert low < accuracy < high and accuracy > 97
    assert plot == "plots/confusion_matrix_CustomMLP.png" and Path(plot).exists()
    assert not Path("data/test").exists()  # nothing was extracted
    code, folder, err = cli(predict, "--test", "data/test", "--model_type", "CustomMLP")
    assert (code, err) == (0, "") and Path("data/test").is_dir()
    assert folder.replace("data/test:", "data/test.tar:") == out


# --- ONNX -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["LeNet5", "LeNet5_regularization"])
def test_onnx_file_reads_as_pytorch_does(place, test_split, cli, model_type):
    code, out, err = cli(predict, "--export", "out/net.onnx", "--model_type", model_type)
    assert (code, err) == (0, ""), err
    assert out.startswith("out/net.onnx: 1,000 test images, largest difference")
    assert [path.name for path in Path("out").iterdir()] == ["net.onnx"]  # no external data
    model = onnx.load("out/net.onnx")
    onnx.checker.check_model(model)
    metadata = {one.key: one.value for one in model.metadata_props}
    assert metadata["network"] == model_type and metadata["deskew"] == "True"
    assert metadata["source"] == f"{model_type}.pt"
    session = onnxruntime.InferenceSession("out/net.onnx")
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [1, 28, 28])
    assert isinstance(given.shape[0], str) and answer.name == "logits"
    classifier = predict.load_classifier(predict.WEIGHTS / f"{model_type}.pt")
    images = test_split[0]
    expected = predict.classify(classifier, images).numpy()
    for count in (1, 3, 500):
        (logits,) = session.run(None, {"images": images[:count].unsqueeze(1).numpy()})
        assert logits.dtype == np.float32 and np.abs(logits - expected[:count]).max() < 1e-4


def test_onnx_file_that_differs_is_not_written(place, cli, monkeypatch):
    real = predict.build_onnx

    def other(classifier, source):
        changed = predict.load_classifier(predict.WEIGHTS / "LeNet5.pt")
        with torch.no_grad():
            changed.network.fc3.bias[0] += 0.01
        return real(changed, source)

    monkeypatch.setattr(predict, "build_onnx", other)
    code, out, err = cli(predict, "--export", "net.onnx")
    assert (code, out) == (2, "") and "net.onnx: not written" in err
    assert not Path("net.onnx").exists()


# --- Page -------------------------------------------------------------------------------------


def test_shipped_page_is_what_the_command_writes(place, cli):
    code, out, err = cli(predict, "--page", "page.html")
    assert (code, out, err) == (0, "page.html\n", "")
    assert Path("page.html").read_bytes() == (ROOT / "docs/index.html").read_bytes()


def test_page_with_a_run_of_ones_own(small, cli):
    main.run(Args("CustomMLP", 1), RUNS / "mine", verbose=False)
    assert cli(predict, "--page", "page.html", "--run", "mine")[0] == 0
    page, shipped = Path("page.html").read_text(), (ROOT / "docs/index.html").read_text()
    _, weights = load_weights("mine")
    text = base64.b64encode(weights["fc1.bias"].numpy().tobytes()).decode()
    assert text in page and text not in shipped
