"""main.py: real training on real images, what it writes, and every setting it refuses."""

import dataclasses
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, load_run
from PIL import Image

import main
from dataset import MNIST, Batches, normalise
from main import Args
from model import MODELS, CustomMLP, LeNet5

QUICK = ("--epochs", 2, "--lr", 0.03)


# --- Training ---------------------------------------------------------------------------------


def test_defaults_are_the_agreed_ones():
    assert Args() == Args("LeNet5", 20, 64, 0.001, 0.9, 0, "data", "auto")


@pytest.mark.parametrize("model_type, least", [
    ("LeNet5", 85), ("LeNet5_regularization", 88), ("CustomMLP", 80)])  # fmt: skip
def test_training_reaches_an_accuracy_and_writes_everything(workplace, cli, model_type, least):
    code, out, err = cli(main, "--model_type", model_type, "--epochs", 3, "--lr", 0.03)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    rows, checkpoint = load_run(model_type)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for line, row in zip(lines, rows, strict=False):
        assert line.startswith(
            f"Epoch: {row['epoch']:.0f}, Train Loss: {row['train_loss']:.4f}, "
            f"Train Accuracy: {row['train_accuracy']:.2f}, Test Loss: {row['test_loss']:.4f}, "
            f"Test Accuracy: {row['test_accuracy']:.2f}"
        )
    assert rows[-1]["test_accuracy"] > least
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]

    network = MODELS[model_type]().eval()
    network.load_state_dict(checkpoint["model"])
    split = MNIST("data/test")
    logits = network(normalise(split.images))
    accuracy = 100 * (logits.argmax(1) == split.labels).double().mean().item()
    assert accuracy == pytest.approx(rows[-1]["test_accuracy"], abs=0.21)  # one image in 500
    loss = F.cross_entropy(logits, split.labels).item()
    assert loss == pytest.approx(rows[-1]["test_loss"], rel=1e-4)

    for metric in ("loss", "accuracy"):
        with Image.open(f"plots/{metric}_plot_{model_type}.png") as image:
            assert image.format == "PNG" and image.width >= 800
            assert len(image.convert("RGB").getcolors(2**24)) > 50  # drawn, not blank


def test_an_epoch_is_plain_sgd_on_the_mean_loss_of_each_batch(workplace):
    split = MNIST("data/train")
    images, labels = normalise(split.images[:200]), split.labels[:200]  # a last batch of 8
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

    batches = Batches(images, labels, 64, torch.Generator().manual_seed(5))
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    train_loss, accuracy = main.train(ours, batches, optimizer)
    assert train_loss == pytest.approx(losses / 200, rel=1e-5)
    assert accuracy == pytest.approx(correct / 2)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_testing_is_the_mean_over_all_images_and_changes_nothing(workplace):
    split = MNIST("data/test")
    images, labels = normalise(split.images), split.labels
    network = LeNet5()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss, accuracy = main.test(network, Batches(images, labels, 300))
    logits = network(images)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert accuracy == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_training_needs_no_torchvision(workplace, script, tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys; import main\n"
        "sys.argv[1:] = ['--model_type', 'CustomMLP', '--epochs', '1']\n"
        "main.main(); print('torchvision' in sys.modules)\n"
    )
    done = script(probe, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert done.stdout.endswith("\nFalse\n"), done.stderr
    assert done.stderr == ""  # no progress bar in a pipe


# --- Run folders ------------------------------------------------------------------------------


def test_a_run_never_destroys_an_older_one(workplace, cli):
    flags = ("--model_type", "CustomMLP", "--epochs", 1)
    for seed in range(3):
        assert cli(main, *flags, "--seed", seed)[0] == 0
    runs = {path.name: (path / "checkpoint.pt").read_bytes() for path in RUNS.iterdir()}
    assert set(runs) == {"CustomMLP", "CustomMLP-2", "CustomMLP-3"}
    assert [load_run(name)[1]["settings"]["seed"] for name in sorted(runs)] == [0, 1, 2]

    (RUNS / "mine").mkdir()  # no checkpoint in it: not taken
    assert cli(main, *flags, "--name", "mine")[0] == 0
    code, _, err = cli(main, *flags, "--name", "CustomMLP")
    assert code == 2 and err.count("\n") == 1 and "taken" in err
    for name, content in runs.items():
        assert (RUNS / name / "checkpoint.pt").read_bytes() == content


# --- Refused settings -------------------------------------------------------------------------


@pytest.mark.parametrize("flags, tells", [
    (("--model_type", "VGG"), "LeNet5, LeNet5_regularization, CustomMLP"),
    (("--epochs", 0), "--epochs 0"),
    (("--epochs", -3), "--epochs -3"),
    (("--epochs", 1.5), "--epochs"),
    (("--lr", 0), "--lr 0"),
    (("--lr", -1), "--lr -1"),
    (("--lr", "nan"), "--lr nan"),
    (("--lr", "inf"), "--lr inf"),
    (("--lr", "fast"), "--lr"),
    (("--batch_size", 0), "--batch_size 0"),
    (("--momentum", 1), "--momentum 1"),
    (("--momentum", "nan"), "--momentum nan"),
    (("--seed", -1), "--seed -1"),
    (("--device", "tpu"), "--device tpu"),
    (("--device", "cuda:99"), "--device cuda:99"),
    (("--data_dir", "nowhere"), "nowhere"),
    (("--name", "../up"), "--name"),
    (("--name", ""), "--name"),
    (("--colour", "red"), "--colour"),
    (("--model_type", "LeNet5_regularization", "--batch_size", 1), "--batch_size 1"),
    (("--model_type", "LeNet5_regularization", "--batch_size", 1999), "--batch_size 1999"),
])  # fmt: skip
def test_wrong_settings_are_refused_at_once(workplace, cli, flags, tells):
    code, out, err = cli(main, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert tells in err and "Traceback" not in err
    assert not RUNS.exists() and not (workplace / "plots").exists()


def test_bad_data_is_refused_and_leaves_no_run(workplace, cli):
    (workplace / "data/test.tar").write_bytes(b"no archive")
    code, _, err = cli(main, *QUICK)
    assert code == 2 and err.count("\n") == 1 and "test.tar" in err
    assert not RUNS.exists()


def test_every_setting_is_a_flag_with_its_default_and_help(cli):
    code, out, _ = cli(main, "--help")
    assert code == 0
    text = " ".join(out.split())
    for field in dataclasses.fields(Args):
        assert f"--{field.name} " in text
        assert " ".join(f"{field.metadata['help']} (default: {field.default})".split()) in text


def test_diverged_run_stops_and_keeps_the_last_good_checkpoint(workplace, cli):
    flags = ("--model_type", "CustomMLP", "--lr", 1e30)
    code, out, err = cli(main, *flags)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "epoch 1" in err and "--lr" in err and "--batch_size" in err
    rows, checkpoint = load_run("CustomMLP")
    assert rows == [] and checkpoint["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())


# --- Places that can't be written -------------------------------------------------------------


def limited(size):
    """Return a function that lets a process write files of at most so many bytes: a full disk."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_full_disk_is_one_line_and_older_files_stay_whole(workplace, script, cli):
    flags = ("--model_type", "CustomMLP", "--name", "a")
    assert cli(main, *flags, "--epochs", 1)[0] == 0
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    done = script("main.py", "--resume", "--name", "a", "--epochs", 3, preexec_fn=limited(1000))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "checkpoint.pt" in done.stderr and "cannot be written" in done.stderr
    assert before == {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["plots", "runs"])
def test_place_that_is_no_folder_is_one_line(workplace, cli, place):
    (workplace / place).write_text("a file")
    code, _, err = cli(main, "--model_type", "CustomMLP", "--epochs", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert place in err and (workplace / place).read_text() == "a file"
