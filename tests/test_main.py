"""main.py: real training on real images, what it writes, recipes, validation images."""

import math
import random
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, full_disk, load_run, posix_only, tree, write_archives
from PIL import Image
from torch import nn

import main
from dataset import Batches, Split, load_splits, normalise
from main import RECIPES, Args
from model import MODELS, CustomMLP, LeNet5
from utils.augment import deskew, make_augmentation
from utils.checkpoint import RUNS

MLP = ("--model_type", "CustomMLP")


@pytest.fixture(scope="module")
def large(tmp_path_factory, real):
    """A data folder of 1,500 and 300 images, which three networks are trained on."""
    return write_archives(tmp_path_factory.mktemp("large"), real, 1500, 300)


def test_a_run_leaves_the_random_numbers_of_its_caller(small):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1)

    main.seed_all(5)
    expected = draw()
    main.seed_all(5)
    main.run(Args("CustomMLP", epochs=1), RUNS / "one", verbose=False)
    assert draw() == expected


# --- Training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", MODELS)
def test_every_network_learns(tmp_path, monkeypatch, large, model_type):
    monkeypatch.chdir(tmp_path)
    args = Args(model_type, 2, batch_size=16, lr=0.02, data_dir=str(large))
    assert main.run(args, RUNS / model_type, verbose=False)[-1]["test_accuracy"] > 80


def one_cycle(step, steps, peak):
    """Return the learning rate of a step: up a cosine for 30 % of them, and down another."""
    top = 0.3 * steps - 1
    low, share = peak / 25, step / top
    if step > top:
        low, share = low / 1e4, (steps - 1 - step) / (steps - 1 - top)
    return low + (peak - low) * (1 - math.cos(math.pi * share)) / 2


@pytest.mark.parametrize("args", [
    Args("LeNet5", 2, 30, seed=3),
    Args(**RECIPES["best"] | {"model_type": "LeNet5_regularization", "epochs": 2, "batch_size": 30,
                              "lr": 0.02, "label_smoothing": 0.2, "weight_decay": 0.02}),
], ids=["baseline", "best"])  # fmt: skip
def test_a_run_is_a_plain_loop_of_pytorch(small, args):
    history = main.run(args, RUNS / "ours", verbose=False)

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    network = MODELS[args.model_type]()
    training, test = (
        Split(deskew(normalise(images)) if args.deskew else normalise(images), labels)
        for images, labels in load_splits("data", 0)
    )
    optimizer = torch.optim.SGD(network.parameters(), args.lr, 0.9, weight_decay=args.weight_decay)
    batches = Batches(training, 30, generator, make_augmentation(args, torch.device("cpu")))
    for epoch, row in enumerate(history):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        network.train()
        losses, hits, first_step = 0.0, 0, epoch * 10
        for step, (images, labels, _) in enumerate(batches, first_step):
            if args.schedule == "onecycle":
                optimizer.param_groups[0]["lr"] = one_cycle(step, 20, args.lr)
            if step == first_step:
                assert row["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-4)
            logits = network(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=args.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(labels)
            hits += (logits.argmax(1) == labels).sum().item()
        assert row["train_loss"] == pytest.approx(losses / 300, rel=1e-3)
        assert row["train_accuracy"] == pytest.approx(hits / 3, abs=1)
        assert_figures(network, test, row, "test")
    for name, value in load_run("ours")[1]["model"].items():
        assert torch.allclose(value, network.state_dict()[name], atol=1e-3), name


def assert_figures(network, split, row, kind):
    """Assert that loss and accuracy of an epoch are those of the network on prepared images."""
    network.eval()
    logits = network(split.images)
    loss = F.cross_entropy(logits, split.labels).item()
    assert row[f"{kind}_loss"] == pytest.approx(loss, rel=1e-3)
    accuracy = 100 * (logits.argmax(1) == split.labels).double().mean().item()
    assert row[f"{kind}_accuracy"] == pytest.approx(accuracy, abs=1.3)  # an image


def test_a_run_says_what_it_trains_and_where_its_files_are(small, cli, capfd):
    code, out, err = cli(main, *MLP, "--epochs", 1, "--device", "cpu")
    assert (code, err) == (0, "")
    first, epoch, *paths = out.splitlines()
    assert first == (
        "CustomMLP (45,846 parameters) on cpu, 1 CPU thread: 300 training and 100 test images "
        "of data, run runs/CustomMLP"
    )
    (row,) = load_run("CustomMLP")[0]
    assert epoch.startswith(
        f"Epoch: 1, Train Loss: {row['train_loss']:.4f}, "
        f"Train Accuracy: {row['train_accuracy']:.2f}, Test Loss: {row['test_loss']:.4f}, "
        f"Test Accuracy: {row['test_accuracy']:.2f}"
    )
    assert paths == [
        *("plots/loss_plot_CustomMLP.png", "plots/accuracy_plot_CustomMLP.png"),
        *("runs/CustomMLP/metrics.csv", "runs/CustomMLP/checkpoint.pt"),
    ]
    for path in paths[:2]:  # one epoch is enough for a plot
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width >= 800
            assert len(image.convert("RGB").getcolors(2**24)) > 50  # drawn, not blank
    started = time.perf_counter()
    history = main.run(Args("CustomMLP", epochs=5), "runs/quiet", verbose=False)
    assert sum(row["seconds"] for row in history) <= time.perf_counter() - started
    assert history == load_run("quiet")[0] == load_run("quiet")[1]["history"]
    assert capfd.readouterr() == ("", "")


# --- Runs that end early ----------------------------------------------------------------------


@pytest.mark.parametrize("flags, words", [
    (("--data_dir", "nowhere"), "nowhere"),
    (("--data_dir", "broken"), "train.tar: not a readable archive"),
    (("--val_size", 300), "--val_size 300: leaves none of 300"),
    (("--batch_size", 299, "--model_type", "LeNet5_regularization"), "--batch_size 299"),
    (("--lr", 1e30), "epoch 1: the loss is not finite; try a smaller --lr"),
    (("--init", "none.pt"), "none.pt: neither a file of weights nor a run"),
    (("--init", "data/train.tar"), "data/train.tar: damaged, or no file of weights"),
    (("--init", "plain.pt"), "plain.pt: not a file of this program, as it has no 'model'"),
    (("--init", ROOT / "data/weights/LeNet5.pt"), "with model_type LeNet5, not CustomMLP"),
    (("--init", ROOT / "data/weights/CustomMLP.pt"), "with deskew True, not False"),
    (("--init", "cut.pt", "--deskew"), "does not fit CustomMLP as it is in model.py now"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_and_leaves_no_run(small, refused, flags, words):
    Path("broken").mkdir()
    Path("broken/train.tar").write_bytes(b"no archive")
    content = torch.load(ROOT / "data/weights/CustomMLP.pt", weights_only=True)
    torch.save(content["model"], "plain.pt")
    content["model"]["fc3.bias"] = torch.zeros(11)
    torch.save(content, "cut.pt")
    assert words in refused(main, *MLP, *flags)
    assert not RUNS.exists() and not Path("plots").exists()


def test_a_crash_in_the_first_epoch_leaves_the_name_free(small, cli, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(MODELS["CustomMLP"], "forward", lambda self, images: self.typo(images))
        with pytest.raises(AttributeError):
            cli(main, *MLP, "--name", "mine")
    assert not RUNS.exists()


class Noise(nn.Module):
    def forward(self, x):
        return F.dropout(x)


@pytest.mark.parametrize("make, words", [
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 11)), "to logits (2, 11), not to (2, 10)"),
    (lambda: nn.Sequential(nn.Flatten(), nn.LSTM(784, 10)), "to logits tuple, not to (2, 10)"),
    (lambda: nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten()), "has no parameters"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10), Noise()), "random in eval mode"),
])  # fmt: skip
def test_a_network_that_cannot_be_trained_is_refused(small, refused, monkeypatch, make, words):
    monkeypatch.setitem(MODELS, "CustomMLP", make)
    err = refused(main, *MLP)
    assert "Sequential in model.py" in err and words in err


def test_a_network_with_view_is_trained_as_one_with_flatten(small, monkeypatch):
    class Viewed(LeNet5):
        def forward(self, images):
            x = self.pool2(F.relu(self.conv2(self.pool1(F.relu(self.conv1(images))))))
            return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.view(-1, 256))))))

    flattened = main.run(Args("LeNet5", 1), RUNS / "flattened", verbose=False)
    monkeypatch.setitem(MODELS, "LeNet5", Viewed)
    viewed = main.run(Args("LeNet5", 1), RUNS / "viewed", verbose=False)
    assert viewed[0]["test_loss"] == pytest.approx(flattened[0]["test_loss"], abs=1e-5)


@pytest.mark.parametrize("problem", [pytest.param("full disk", marks=posix_only), "diverged"])
def test_what_ends_a_resumed_run_keeps_its_last_checkpoint(small, refused, monkeypatch, problem):
    main.run(Args("CustomMLP", 1), RUNS / "good", verbose=False)
    before = tree(small)
    if problem == "diverged":
        monkeypatch.setattr(main, "train", lambda *_: (math.nan, 10.0))
    with full_disk(5000) if problem == "full disk" else nullcontext():
        err = refused(main, "--resume", "--name", "good", "--epochs", 2)
    assert {"full disk": "checkpoint.pt: cannot be written", "diverged": "epoch 2"}[problem] in err
    assert tree(small) == before


# --- Initial weights --------------------------------------------------------------------------


def test_training_starts_from_the_weights_of_a_file_or_a_run(small, cli, empty_plots):
    shipped = ROOT / "data/weights/CustomMLP.pt"
    flags = (*MLP, "--epochs", 1, "--lr", 1e-12, "--deskew")  # so that nothing moves
    for source, name in ((shipped, "one"), ("one", "two"), (RUNS / "two", "three")):
        code, _, err = cli(main, *flags, "--init", source, "--name", name)
        assert (code, err) == (0, "")
    expected = torch.load(shipped, weights_only=True)["model"]
    for name in ("one", "two", "three"):
        for key, value in load_run(name)[1]["model"].items():
            assert torch.allclose(value, expected[key], atol=1e-6), key
    assert load_run("three")[0][-1]["test_accuracy"] > 97


# --- Validation images ------------------------------------------------------------------------


def test_with_val_size_the_test_set_is_not_touched(fresh, cli, empty_plots):
    Path("data/test.tar").unlink()
    code, out, err = cli(main, *MLP, "--epochs", 2, "--lr", 0.03, "--val_size", 80)
    assert (code, err) == (0, "") and "220 training and 80 validation images" in out
    rows, checkpoint = load_run("CustomMLP")
    val_loss, val_accuracy = rows[-1]["val_loss"], rows[-1]["val_accuracy"]
    assert f", Val Loss: {val_loss:.4f}, Val Accuracy: {val_accuracy:.2f}, " in out
    assert "Test" not in out and not [column for column in rows[0] if "test" in column]
    assert not list(Path("data").glob("test*"))
    network = CustomMLP()
    network.load_state_dict(checkpoint["model"])
    images, labels = load_splits("data", 80)[1]
    assert_figures(network, Split(normalise(images), labels), rows[-1], "val")


def test_validation_images_leave_no_trace_in_the_weights(small):
    settings = {"model_type": "CustomMLP", "epochs": 1, "val_size": 80}
    args = Args(**(RECIPES["best"] | settings))
    training, (images, labels) = load_splits("data", 80)
    main.run(args, RUNS / "as_is", False, (training, Split(images, labels)))
    main.run(args, RUNS / "changed", False, (training, Split(255 - images, (labels + 1) % 10)))
    (rows, checkpoint), (changed_rows, changed) = load_run("as_is"), load_run("changed")
    assert rows[0]["val_loss"] != changed_rows[0]["val_loss"]
    for name, value in checkpoint["model"].items():
        assert torch.equal(value, changed["model"][name]), name
