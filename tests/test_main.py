"""main.py: real training on real images, what it writes, recipes, validation images."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, load_run, same_run, tree, write_archives
from PIL import Image
from torch import nn

import main
from dataset import Batches, Split, load_splits, normalise
from main import RECIPES, Args
from model import MODELS, CustomMLP, LeNet5
from utils.augment import deskew
from utils.checkpoint import RUNS

MLP = ("--model_type", "CustomMLP")


@pytest.fixture
def digits(small):
    """300 training images, prepared."""
    images, labels = load_splits("data", 0)[0]
    return Split(normalise(images), labels)


# --- Training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type, least", [
    ("LeNet5", 85), ("LeNet5_regularization", 88), ("CustomMLP", 80)])  # fmt: skip
def test_training_reaches_an_accuracy_that_the_saved_weights_have(
    tmp_path, monkeypatch, real, cli, model_type, least
):
    monkeypatch.chdir(tmp_path)
    write_archives(Path("data"), real, 2000, 300)
    code, out, err = cli(main, "--model_type", model_type, "--epochs", 3, "--lr", 0.03)
    assert (code, err) == (0, "")
    rows, checkpoint = load_run(model_type)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for line, row in zip(out.splitlines()[1:], rows, strict=False):
        assert line.startswith(
            f"Epoch: {row['epoch']:.0f}, Train Loss: {row['train_loss']:.4f}, "
            f"Train Accuracy: {row['train_accuracy']:.2f}, Test Loss: {row['test_loss']:.4f}, "
            f"Test Accuracy: {row['test_accuracy']:.2f}"
        )
    assert rows[-1]["test_accuracy"] > least
    assert {row["lr"] for row in rows} == {0.03}
    assert_figures(model_type, load_splits("data", 0)[1], rows[-1], checkpoint, "test")


def assert_figures(model_type, split, row, checkpoint, kind):
    """Assert that loss and accuracy of a run's last epoch are those of its saved weights."""
    network = MODELS[model_type]().eval()
    network.load_state_dict(checkpoint["model"])
    logits = network(normalise(split.images))
    assert row[f"{kind}_loss"] == pytest.approx(
        F.cross_entropy(logits, split.labels).item(), rel=1e-4
    )
    accuracy = 100 * (logits.argmax(1) == split.labels).double().mean().item()
    assert row[f"{kind}_accuracy"] == pytest.approx(accuracy, abs=0.34)  # one image in 300


def test_a_run_says_what_it_trains_and_where_its_files_are(small, cli, capfd):
    code, out, err = cli(main, *MLP, "--epochs", 1, "--device", "cpu")
    assert (code, err) == (0, "")
    first, epoch, *paths = out.splitlines()
    assert first == (
        "CustomMLP (45,846 parameters) on cpu, 1 CPU thread: 300 training and 100 test images "
        "of data, run runs/CustomMLP"
    )
    assert epoch.startswith("Epoch: 1, ")
    assert paths == [
        *("plots/loss_plot_CustomMLP.png", "plots/accuracy_plot_CustomMLP.png"),
        *("runs/CustomMLP/metrics.csv", "runs/CustomMLP/checkpoint.pt"),
    ]
    for path in paths[:2]:  # one epoch is enough for a plot
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width >= 800
            assert len(image.convert("RGB").getcolors(2**24)) > 50  # drawn, not blank
    history = main.run(Args("CustomMLP", epochs=2), "runs/quiet", verbose=False)
    assert history == load_run("quiet")[0] == load_run("quiet")[1]["history"]
    assert capfd.readouterr() == ("", "")


def test_same_settings_same_bits_in_another_process_too_and_another_seed_another_run(small, cli):
    flags = (*MLP, "--epochs", "1", "--device", "cpu", "--name")
    code = "import sys, main; main.main(); print('torchvision' in sys.modules)"
    # A launcher's variables mean nothing without a launcher.
    launcher = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "there"], capture_output=True, text=True, timeout=110,
        env=os.environ | launcher | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == ""  # no progress bar in a pipe
    assert done.stdout.endswith("\nFalse\n")
    assert cli(main, *flags, "here")[0] == cli(main, *flags, "other", "--seed", 4)[0] == 0
    same_run("there", "here")
    with pytest.raises(AssertionError):
        same_run("there", "other")


def test_an_epoch_is_plain_sgd_on_the_mean_loss_of_each_batch(digits):
    images, labels = digits.images[:200], digits.labels[:200]  # a last batch of 8
    torch.manual_seed(0)
    ours, plain = CustomMLP(), CustomMLP()
    plain.load_state_dict(ours.state_dict())
    order = torch.randperm(200, generator=torch.Generator().manual_seed(5))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    losses, correct = 0.0, 0
    for batch in order.split(64):
        logits = plain(images[batch])
        loss = F.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(batch)
        correct += (logits.argmax(1) == labels[batch]).sum().item()

    batches = Batches(Split(images, labels), 64, torch.Generator().manual_seed(5))
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    train_loss, accuracy = main.train(ours, batches, optimizer, Args())
    assert train_loss == pytest.approx(losses / 200, rel=1e-5)
    assert accuracy == pytest.approx(correct / 2)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_testing_is_the_mean_over_all_images_and_changes_nothing(digits):
    network = LeNet5()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss, accuracy = main.test(network, Batches(digits, 170))
    logits = network(digits.images)
    assert loss == pytest.approx(F.cross_entropy(logits, digits.labels).item(), rel=1e-5)
    hits = (logits.argmax(1) == digits.labels).double()
    assert accuracy == pytest.approx(100 * hits.mean().item())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


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


def test_a_network_with_other_logits_than_classes_is_refused(small, refused, monkeypatch):
    class Other(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(784, 11))

    monkeypatch.setitem(MODELS, "CustomMLP", Other)
    err = refused(main, *MLP)
    assert "Other in model.py" in err and "(2, 11)" in err and "(2, 10)" in err


@pytest.mark.parametrize("problem", ["full disk", "diverged"])
def test_what_ends_a_resumed_run_leaves_the_last_good_checkpoint(
    small, refused, full_disk, monkeypatch, problem
):
    main.run(Args("CustomMLP", 1), RUNS / "good", verbose=False)
    before = tree(small)
    if problem == "diverged":
        monkeypatch.setattr(main, "train", lambda *_: (math.nan, 10.0))
    with full_disk(5000 if problem == "full disk" else 10**9):
        err = refused(main, "--resume", "--name", "good", "--epochs", 2)
    assert {"full disk": "checkpoint.pt: cannot be written", "diverged": "epoch 2"}[problem] in err
    assert tree(small) == before


@pytest.mark.parametrize("place", ["plots", "runs"])
def test_place_that_is_no_folder_is_one_line(small, cli, place):
    Path(place).write_text("a file")
    code, _, err = cli(main, *MLP, "--epochs", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert place in err and Path(place).read_text() == "a file"


# --- Initial weights --------------------------------------------------------------------------


def test_training_starts_from_the_weights_of_a_file_or_a_run(small, cli):
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


# --- Label smoothing, weight decay, schedule, deskewing ---------------------------------------


@pytest.fixture
def epochs(monkeypatch):
    """What each epoch of the runs to come trains: (weights before, model, training batches)."""
    seen = []

    def spy(model, batches, *others, train=main.train):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append((weights, model, batches))
        return train(model, batches, *others)

    monkeypatch.setattr(main, "train", spy)
    return seen


def test_label_smoothing_is_the_loss_computed_by_hand(digits):
    torch.manual_seed(0)
    network = CustomMLP()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for _ in range(5):  # until it is sure enough for smoothing to matter
        main.train(network, Batches(digits, 10, torch.Generator()), optimizer, Args())
    targets = torch.full((300, 10), 0.2 / 10)
    targets[torch.arange(300), digits.labels] += 1 - 0.2
    by_hand = -(targets * network(digits.images).log_softmax(dim=1)).sum(dim=1).mean()
    plain = F.cross_entropy(network(digits.images), digits.labels)
    (gradient,) = torch.autograd.grad(by_hand, network.fc3.weight, retain_graph=True)
    batches = Batches(digits, 300)
    loss, _ = main.train(network, batches, optimizer, Args(label_smoothing=0.2))
    assert loss == pytest.approx(by_hand.item(), rel=1e-5)
    assert abs(loss - plain.item()) > 0.3
    assert torch.allclose(network.fc3.weight.grad, gradient, atol=1e-6)
    unsmoothed = F.cross_entropy(network(digits.images), digits.labels).item()
    assert main.test(network, batches)[0] == pytest.approx(unsmoothed, rel=1e-5)


def test_weight_decay_is_in_the_step(small, epochs):
    args = Args("CustomMLP", epochs=1, batch_size=300, lr=0.1, weight_decay=0.02)
    main.run(args, RUNS / "decay", verbose=False)  # one step
    [(before, model, _)] = epochs
    for name, after in model.named_parameters():
        expected = before[name] - 0.1 * (after.grad + 0.02 * before[name])
        assert torch.allclose(after, expected, atol=1e-7), name


def rates(args, steps):
    """Return the learning rate of every step of a run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], args.lr)
    scheduler = main.make_scheduler(args, optimizer, steps, 0)
    seen = []
    for _ in range(steps * args.epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_one_cycle_goes_from_a_25th_up_to_lr_and_down_to_nothing():
    seen = rates(Args(epochs=4, lr=0.2, schedule="onecycle"), steps=50)
    assert seen[0] == pytest.approx(0.2 / 25)
    assert max(seen) == pytest.approx(0.2, rel=1e-3)
    assert seen.index(max(seen)) == pytest.approx(0.3 * 200, abs=1)
    assert seen[-1] < 0.2 / 25 / 1000
    top = seen.index(max(seen))
    assert seen[: top + 1] == sorted(seen[: top + 1])
    assert seen[top:] == sorted(seen[top:], reverse=True)


def test_schedule_acts_on_the_learning_rate_alone(small):
    for schedule, last_lr in (("constant", 0.01), ("onecycle", 0.0)):
        args = Args("CustomMLP", 1, batch_size=3, lr=0.01, momentum=0.8, schedule=schedule)
        main.run(args, RUNS / schedule, verbose=False)
        group = load_run(schedule)[1]["optimizer"]["param_groups"][0]
        assert group["lr"] == pytest.approx(last_lr, abs=1e-4)
        assert group["momentum"] == 0.8


def test_deskewing_is_for_both_splits_and_augmentation_for_training_alone(
    small, epochs, monkeypatch
):
    tested = []
    monkeypatch.setattr(main, "test", lambda _, batches: (tested.append(batches), (0.0, 0.0))[1])
    args = Args("CustomMLP", epochs=1, deskew=True, shift=1.0, device="cpu")
    main.run(args, RUNS / "upright", verbose=False)
    [(_, _, training)], [evaluation] = epochs, tested
    for batches, split in zip((training, evaluation), load_splits("data", 0), strict=True):
        plain = normalise(split.images)
        assert torch.equal(batches.images, deskew(plain))
        assert not torch.equal(batches.images, plain)
        assert torch.equal(batches.labels, split.labels)
    assert training.augmentation.shift == 1.0 and evaluation.augmentation is None


# --- Validation images ------------------------------------------------------------------------


def test_with_val_size_the_test_set_is_not_touched(fresh, cli):
    Path("data/test.tar").unlink()
    code, out, err = cli(main, *MLP, "--epochs", 2, "--lr", 0.03, "--val_size", 80)
    assert (code, err) == (0, "") and "220 training and 80 validation images" in out
    rows, checkpoint = load_run("CustomMLP")
    val_loss, val_accuracy = rows[-1]["val_loss"], rows[-1]["val_accuracy"]
    assert f", Val Loss: {val_loss:.4f}, Val Accuracy: {val_accuracy:.2f}, " in out
    assert "Test" not in out and not [column for column in rows[0] if "test" in column]
    assert not list(Path("data").glob("test*"))
    assert_figures("CustomMLP", load_splits("data", 80)[1], rows[-1], checkpoint, "val")


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
