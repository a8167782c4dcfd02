"""main.py's recipes and what they are made of: one-cycle, label smoothing, holding images out."""

import dataclasses
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import load_run

import main
from dataset import MNIST, Batches, normalise
from main import RECIPES, Args
from model import MODELS, CustomMLP

CPU = torch.device("cpu")
MLP = ("--model_type", "CustomMLP")


# --- Recipes ----------------------------------------------------------------------------------


def test_baseline_is_the_args_block():
    assert RECIPES["baseline"] == {}
    assert set(RECIPES) == {"baseline", "best", "fast"}


def test_every_added_setting_is_used_by_a_recipe():
    used = {name for settings in RECIPES.values() for name in settings}
    added = [field.name for field in dataclasses.fields(Args)][8:]
    assert set(added) - used == {"val_size"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_what_it_names_and_flags_override_it(workplace, cli, recipe):
    flags = (*MLP, "--epochs", 1, "--recipe", recipe, "--name")
    assert cli(main, *flags, "as_is")[0] == 0
    expected = dataclasses.asdict(Args()) | RECIPES[recipe]
    expected |= {"model_type": "CustomMLP", "epochs": 1}
    assert load_run("as_is")[1]["settings"] == expected
    assert cli(main, *flags, "changed", "--lr", 0.005, "--shift", 0.5)[0] == 0
    assert load_run("changed")[1]["settings"] == expected | {"lr": 0.005, "shift": 0.5}


def test_fast_recipe_brings_its_network(workplace, cli):
    code, out, _ = cli(main, "--recipe", "fast")
    assert code == 0 and out.count("Epoch: ") == RECIPES["fast"]["epochs"]
    assert load_run(RECIPES["fast"]["model_type"])[1]["epoch"] == RECIPES["fast"]["epochs"]
    code, out, _ = cli(main, "--resume", "--recipe", "fast")  # finds that network's run
    assert code == 0 and "Epoch: " not in out


@pytest.mark.parametrize("flags, tells", [
    (("--recipe", "secret"), "'baseline', 'best', 'fast'"),
    (("--schedule", "wild"), "constant, onecycle"),
    (("--label_smoothing", 1), "--label_smoothing 1"),
    (("--label_smoothing", -0.1), "--label_smoothing -0.1"),
    (("--rotate", "nan"), "--rotate nan"),
    (("--deskew", 2), "--deskew 2"),
    (("--shift", 28), "--shift 28"),
    (("--stretch", 1), "--stretch 1"),
    (("--elastic", -1), "--elastic -1"),
    (("--val_size", -1), "--val_size -1"),
    (("--val_size", 2000), "--val_size 2000"),
])  # fmt: skip
def test_wrong_settings_are_refused_at_once(workplace, cli, flags, tells):
    code, out, err = cli(main, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert tells in err
    assert not RUNS.exists()


# --- Label smoothing, weight decay and schedule -----------------------------------------------


def sgd(network):
    return torch.optim.SGD(network.parameters(), lr=0.1)


def test_label_smoothing_is_the_loss_worked_out_by_hand(workplace):
    split = MNIST("data/train")
    images, labels = normalise(split.images[:100]), split.labels[:100]
    network = CustomMLP()
    for _ in range(20):  # until it is sure enough for smoothing to matter
        main.train(network, Batches(images, labels, 10, torch.Generator()), sgd(network))
    targets = torch.full((100, 10), 0.2 / 10)
    targets[torch.arange(100), labels] += 1 - 0.2
    by_hand = -(targets * network(images).log_softmax(dim=1)).sum(dim=1).mean()
    plain = F.cross_entropy(network(images), labels)
    optimizer = sgd(network)
    batches = Batches(images, labels, 100, torch.Generator())
    (gradient,) = torch.autograd.grad(by_hand, network.fc3.weight, retain_graph=True)
    loss, _ = main.train(network, batches, optimizer, label_smoothing=0.2)
    assert loss == pytest.approx(by_hand.item(), rel=1e-5)
    assert abs(loss - plain.item()) > 0.3
    assert torch.allclose(network.fc3.weight.grad, gradient, atol=1e-6)
    assert main.test(network, batches)[0] == pytest.approx(  # the test's loss is never smoothed
        F.cross_entropy(network(images), labels).item(), rel=1e-5
    )


def test_weight_decay_is_in_the_step(workplace):
    split = MNIST("data/train")
    images, labels = normalise(split.images[:50]), split.labels[:50]
    args = Args(model_type="CustomMLP", lr=0.1, momentum=0.0, weight_decay=0.02)
    network, optimizer, generator = main.build(args, CPU)
    before = network.fc2.weight.detach().clone()
    main.train(network, Batches(images, labels, 50, generator), optimizer)
    expected = before - 0.1 * (network.fc2.weight.grad + 0.02 * before)
    assert torch.allclose(network.fc2.weight, expected, atol=1e-7)


def rates(args, steps):
    """The learning rate of every step of a run."""
    _, optimizer, _ = main.build(args, CPU)
    scheduler = main.make_scheduler(args, optimizer, steps, 0)
    seen = []
    for _ in range(steps * args.epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_one_cycle_goes_from_a_25th_up_to_lr_and_down_to_nothing():
    args = Args(epochs=4, lr=0.2, schedule="onecycle")
    seen = rates(args, steps=50)
    assert seen[0] == pytest.approx(0.2 / 25)
    assert max(seen) == pytest.approx(0.2, rel=1e-3)
    assert seen.index(max(seen)) == pytest.approx(0.3 * 200, abs=1)
    assert seen[-1] < 0.2 / 25 / 1000
    top = seen.index(max(seen))
    assert seen[: top + 1] == sorted(seen[: top + 1])
    assert seen[top:] == sorted(seen[top:], reverse=True)


def test_schedule_takes_effect_in_training_and_constant_is_constant(workplace):
    split = MNIST("data/train")
    images, labels = normalise(split.images), split.labels
    for schedule, ends_at in (("constant", 0.01), ("onecycle", 0.0)):
        args = Args(model_type="CustomMLP", epochs=1, lr=0.01, schedule=schedule)
        network, optimizer, generator = main.build(args, CPU)
        batches = Batches(images, labels, 64, generator)
        scheduler = main.make_scheduler(args, optimizer, len(batches), 0)
        main.train(network, batches, optimizer, scheduler)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ends_at, abs=1e-4)


def test_one_cycle_run_is_not_extended(workplace, cli):
    flags = (*MLP, "--recipe", "best", "--epochs")
    assert cli(main, *flags, 2)[0] == 0
    before = load_run("CustomMLP")[1]
    code, _, err = cli(main, "--resume", *MLP, "--epochs", 3)
    assert (code, err.count("\n")) == (2, 1) and "2 epochs" in err
    assert load_run("CustomMLP")[1]["epoch"] == before["epoch"]
    assert cli(main, "--resume", *MLP, "--epochs", 2)[0] == 0


# --- Holding images out -----------------------------------------------------------------------


def test_held_out_images_are_the_last_and_never_trained_on(workplace):
    split = MNIST("data/train")
    everything = normalise(split.images)
    _, ((images, labels), (held_out, held_labels)) = main.prepare(Args(val_size=300, device="cpu"))
    assert torch.equal(torch.cat([images, held_out]), everything)
    assert torch.equal(torch.cat([labels, held_labels]), split.labels)
    assert len(held_out) == 300


def test_with_val_size_the_test_set_is_not_touched(workplace, cli):
    (workplace / "data/test.tar").unlink()
    flags = (*MLP, "--epochs", 2, "--lr", 0.03, "--val_size", 500)
    code, out, err = cli(main, *flags)
    assert (code, err) == (0, "")
    assert "Held-out Accuracy: " in out and "Test Accuracy" not in out
    assert not list((workplace / "data").glob("test*"))
    rows, checkpoint = load_run("CustomMLP")
    network = MODELS["CustomMLP"]().eval()
    network.load_state_dict(checkpoint["model"])
    split = MNIST("data/train")
    logits = network(normalise(split.images[-500:]))
    accuracy = 100 * (logits.argmax(1) == split.labels[-500:]).double().mean().item()
    assert rows[-1]["test_accuracy"] == pytest.approx(accuracy, abs=0.21)


def test_held_out_images_leave_no_trace_in_the_weights(workplace, cli):
    flags = (*MLP, "--epochs", 1, "--recipe", "best", "--val_size", 500, "--name")
    assert cli(main, *flags, "as_is")[0] == 0
    for path in sorted((workplace / "data/train").iterdir())[-500:]:  # other images, other labels
        image_id, digit = path.stem.split("_")
        shutil.copy(workplace / "data/train/00000_5.png", path)
        path.rename(path.with_name(f"{image_id}_{(int(digit) + 1) % 10}.png"))
    main.load.cache_clear()
    assert cli(main, *flags, "changed")[0] == 0
    (rows, checkpoint), (changed_rows, changed) = load_run("as_is"), load_run("changed")
    assert rows[0]["test_loss"] != changed_rows[0]["test_loss"]
    for name, value in checkpoint["model"].items():
        assert torch.equal(value, changed["model"][name]), name
