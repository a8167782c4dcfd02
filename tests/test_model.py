"""model.py: the printed tables, the parameter sums, and regularization that acts."""

import io
import re
from contextlib import redirect_stdout

import pytest
import torch
from torch import nn

import model
from model import MODELS, LeNet5_regularization, count_parameters

TABLES = {
    "LeNet-5": [
        ("Conv2d-1", "[-1, 6, 24, 24]", 156),
        ("MaxPool2d-2", "[-1, 6, 12, 12]", 0),
        ("Conv2d-3", "[-1, 16, 8, 8]", 2416),
        ("MaxPool2d-4", "[-1, 16, 4, 4]", 0),
        ("Linear-5", "[-1, 120]", 30840),
        ("Linear-6", "[-1, 84]", 10164),
        ("Linear-7", "[-1, 10]", 850),
    ],
    "LeNet-5 with regularization": [
        ("Conv2d-1", "[-1, 6, 24, 24]", 156),
        ("BatchNorm2d-2", "[-1, 6, 24, 24]", 12),
        ("MaxPool2d-3", "[-1, 6, 12, 12]", 0),
        ("Conv2d-4", "[-1, 16, 8, 8]", 2416),
        ("BatchNorm2d-5", "[-1, 16, 8, 8]", 32),
        ("MaxPool2d-6", "[-1, 16, 4, 4]", 0),
        ("Linear-7", "[-1, 120]", 30840),
        ("BatchNorm1d-8", "[-1, 120]", 240),
        ("Linear-9", "[-1, 84]", 10164),
        ("Dropout-10", "[-1, 84]", 0),
        ("Linear-11", "[-1, 10]", 850),
    ],
    "CustomMLP": [
        ("Linear-1", "[-1, 56]", 43960),
        ("Linear-2", "[-1, 28]", 1596),
        ("Linear-3", "[-1, 10]", 290),
    ],
}
TOTALS = {"LeNet-5": 44426, "LeNet-5 with regularization": 44710, "CustomMLP": 45846}


@pytest.fixture(scope="module")
def printed():
    """What python model.py prints: title -> text."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as output:
        patch.setattr("sys.argv", ["model.py"])
        model.main()
    parts = re.split(rf"(?m)^({'|'.join(TABLES)})$", output.getvalue())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("title, name", [*zip(TABLES, MODELS, strict=True)])
def test_printed_table_and_parameter_sums_are_right_and_complete(printed, title, name):
    rows = re.findall(r"(?m)^ +(\w+-\d+) +(\[.*?\]) +([\d,]+)", printed[title])
    assert [(name, shape, int(n.replace(",", ""))) for name, shape, n in rows] == TABLES[title]
    assert f"Total params: {TOTALS[title]:,}" in printed[title]
    assert f": {TOTALS[title]:,} parameters." in MODELS[name].__doc__
    assert count_parameters(name) == TOTALS[title]
    sums = re.findall(r"(?m)^(\S+?)(?: \(\w+\))?: ([\d,*+ ]+) = ([\d,]+)$", printed[title])
    counts = {name: n for name, _, n in TABLES[title] if n} | {"total": TOTALS[title]}
    assert {name: int(result.replace(",", "")) for name, _, result in sums} == counts
    for _, terms, result in sums:
        assert eval(terms.replace(",", "")) == int(result.replace(",", ""))


def test_regularization_acts():
    torch.manual_seed(0)
    network, images = LeNet5_regularization(), torch.randn(64, 1, 28, 28) * 3 + 1
    dropped = []
    network.dropout.register_forward_hook(
        lambda _, inputs, output: dropped.append((*inputs, output))
    )

    once, again = network(images), network(images)
    assert not torch.equal(once, again)
    for layer in (network.bn1, network.bn2, network.bn3):
        assert layer.running_mean.abs().max() > 1e-3 and (layer.running_var - 1).abs().max() > 1e-3
    inputs, output = dropped[0]
    alive = inputs != 0
    assert 0.4 < (output[alive] == 0).float().mean() < 0.6
    kept = alive & (output != 0)
    assert torch.allclose(output[kept], 2 * inputs[kept])

    network.eval()
    assert torch.equal(network(images), network(images))
    assert not torch.allclose(network(images), once, atol=1e-2)
    assert torch.equal(*dropped[-1])


def test_networks_with_one_title_are_told_apart():
    class Wider(model.LeNet5):
        pass

    networks = {"Wider": Wider, "LeNet5": model.LeNet5, "Copy": model.LeNet5}
    assert list(model.titles(networks).values()) == ["Wider", "LeNet-5", "Copy"]


def test_parameters_that_layers_share_or_that_are_in_none_are_counted_once(monkeypatch, capsys):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.out = nn.LSTM(28, 28, batch_first=True), nn.Linear(28, 10)
            self.scale, self.again = nn.Parameter(torch.ones(28)), nn.Linear(28, 10)
            self.again.weight = self.out.weight
            self.share = nn.Parameter(torch.tensor(0.5))

        def forward(self, images):
            rows, _ = self.rows(images.squeeze(1))
            x = rows[:, -1] * self.scale
            return self.share * self.out(x) + (1 - self.share) * self.again(x)

    monkeypatch.setattr(model, "MODELS", {"Tied": Tied, "CustomMLP": model.CustomMLP})
    monkeypatch.setattr("sys.argv", ["model.py"])
    monkeypatch.setitem(model.TITLES, "Tied", "Tied")
    model.main()
    tied, mlp = capsys.readouterr().out.split("CustomMLP\n")
    assert "torchsummary cannot show it" in tied and "Linear-1" in mlp
    assert f"= {count_parameters('Tied'):,}\n" in tied[tied.index("total: ") :]
