"""The three networks, and how their parameters add up.

    python model.py

prints for each network its torchsummary table and the sum behind every layer's parameter count.
Every network takes images [B, 1, 28, 28] (float32) and returns logits [B, classes] (float32).
"""

from utils.command import run_command  # isort: split

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from utils.classes import CLASSES
from utils.files import UserError
from utils.settings import Parser

NUM_CLASSES = len(CLASSES)


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max pooling: 44,426 parameters.

    After LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
    recognition", 1998. As in most of today's versions the 28x28 images are not padded to 32x32,
    ReLU stands in for tanh, max pooling for the trained subsampling, and conv2 sees all six maps.
    """

    title = "LeNet-5"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, 28, 28] to logits [B, classes]."""
        x = self.pool1(F.relu(self.conv1(images)))  # [B, 6, 12, 12]
        x = self.pool2(F.relu(self.conv2(x)))  # [B, 16, 4, 4]
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class LeNet5_regularization(nn.Module):
    """LeNet-5 with batch normalization and dropout: 44,710 parameters.

    Batch normalization (Ioffe and Szegedy, 2015) follows both convolutions and the 120-unit
    layer; dropout (Srivastava et al., 2014) with p = 0.5 follows the 84-unit layer.
    """

    title = "LeNet-5 with regularization"

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5)
        self.bn1 = nn.BatchNorm2d(6)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.bn2 = nn.BatchNorm2d(16)
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.bn3 = nn.BatchNorm1d(120)
        self.fc2 = nn.Linear(120, 84)
        self.dropout = nn.Dropout(0.5)
        self.fc3 = nn.Linear(84, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, 28, 28] to logits [B, classes]; in train mode B must be at least 2."""
        x = self.pool1(F.relu(self.bn1(self.conv1(images))))  # [B, 6, 12, 12]
        x = self.pool2(F.relu(self.bn2(self.conv2(x))))  # [B, 16, 4, 4]
        x = F.relu(self.bn3(self.fc1(x.flatten(1))))
        x = self.dropout(F.relu(self.fc2(x)))
        return self.fc3(x)


class CustomMLP(nn.Module):
    """Three linear layers about as large as LeNet-5: 45,846 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 56)
        self.fc2 = nn.Linear(56, 28)
        self.fc3 = nn.Linear(28, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, 28, 28] to logits [B, classes]."""
        x = F.relu(self.fc1(images.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


MODELS: dict[str, type[nn.Module]] = {
    "LeNet5": LeNet5,
    "LeNet5_regularization": LeNet5_regularization,
    "CustomMLP": CustomMLP,
}


def titles(models: dict[str, type[nn.Module]]) -> dict[str, str]:
    """Return what tables and plots call each network: its title, or its name if that is taken."""
    chosen: dict[str, str] = {}
    for name, network in models.items():
        title = vars(network).get("title", name)  # its own: a derived network inherits another's
        chosen[name] = name if title in chosen.values() else title
    return chosen


TITLES = titles(MODELS)
# The colour-blind safe palette of Okabe and Ito (2008): a network's colour is its place's.
PALETTE = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
COLOURS = dict(zip(MODELS, itertools.cycle(PALETTE), strict=False))


def parameter_sums(model: nn.Module) -> list[str]:
    """Show how each layer's parameter count comes about, from the layers themselves.

    Returns:
        One line per layer that has parameters, numbered as torchsummary numbers them, such as
        "Conv2d-1 (conv1): 5*5*1*6 + 6 = 156" (weights + biases), then the line of the total.
    """
    lines, counts = [], []
    layers: list[nn.Module] = []
    model.apply(layers.append)  # parts before the whole
    layers = [layer for layer in layers if not isinstance(layer, nn.Sequential)]
    # Each parameter once, even if layers share it.
    by_layer = itertools.groupby(model.named_parameters(), lambda item: item[0].rpartition(".")[0])
    for name, parameters in by_layer:
        # Kernel height and width first, then inputs and outputs: the order of the textbooks.
        factors = [[*p.shape[2:], *p.shape[1:2], *p.shape[:1]] or [1] for _, p in parameters]
        counts.append(sum(map(math.prod, factors)))
        terms = " + ".join("*".join(map(str, product)) for product in factors)
        layer = model.get_submodule(name)
        title = f"{type(layer).__name__}-{layers.index(layer) + 1} ({name or 'itself'})"
        lines.append(f"{title}: {terms} = {counts[-1]:,}")
    total = " + ".join(f"{count:,}" for count in counts)
    return [*lines, f"total: {total} = {sum(counts):,}"]


def count_parameters(model_type: str) -> int:
    """Return the number of trained parameters of a network."""
    return sum(parameter.numel() for parameter in MODELS[model_type]().parameters())


def make_model(model_type: str) -> nn.Module:
    """Return a new network, in channels_last if it works in it: convolutions are faster then.

    It does not if forward() has view() in place of flatten(), as many networks have.

    Raises:
        UserError: unless it maps images to one logit per class.
    """
    model = MODELS[model_type]()
    check_logits(model)
    try:
        model.to(memory_format=torch.channels_last)
        check_logits(model)
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
    return model


def check_logits(model: nn.Module) -> None:
    """Raise UserError unless a new network can be trained: images to one logit per class."""
    images = torch.linspace(-1, 1, 2 * 28 * 28).view(2, 1, 28, 28)
    with torch.no_grad():
        logits, again = model.eval()(images), model(images)
    model.train()
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"{type(model).__name__} in model.py: has no parameters to train")
    if shape != (2, NUM_CLASSES):
        raise UserError(
            f"{type(model).__name__} in model.py: maps two images to logits {shape}, not to "
            f"{(2, NUM_CLASSES)}: one for each class of utils/classes.py"
        )
    if not torch.allclose(logits, again, rtol=0, atol=0, equal_nan=True):
        raise UserError(
            f"{type(model).__name__} in model.py: its logits are random in eval mode; pass "
            "training=self.training to F.dropout"
        )


def main() -> None:
    """Print the summary and the parameter sums of every network."""
    Parser(description=__doc__).parse_args()
    from torchsummary import summary  # here, as training does not need it

    for name, network in MODELS.items():
        model = network()
        print(f"\n{TITLES[name]}")
        check_logits(model)
        try:
            summary(model, (1, 28, 28), device="cpu")
        except Exception as error:  # some layers, such as recurrent ones, return more than a tensor
            print(f"torchsummary cannot show it ({error})")
        print("\n".join(parameter_sums(model)))


if __name__ == "__main__":
    run_command(main)
