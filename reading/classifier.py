"""A trained network with what it takes to use it: from uint8 images to calibrated logits."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dataset import normalise
from model import MODELS
from utils.augment import deskew
from utils.checkpoint import find_weights, load_weights, put_weights
from utils.classes import CLASSES
from utils.files import UserError

BATCH = 1000  # images; without gradients larger batches are faster
UNCERTAIN = 0.5  # digits of a lower probability are shown as ?


class Classifier(nn.Module):
    """A trained network, and how images are prepared for it.

    Args:
        settings: of its run: its network; whether that was trained on deskewed images; the
            temperature that divides the logits, so that the softmax of what forward() returns is
            calibrated (Guo et al., "On calibration of modern neural networks", 2017).
        weights: its state dict.
        source: their file, for errors; its run gives the classifier its name, or else it does.

    Raises:
        UserError: if there is no such network in model.py, or the weights do not fit it.
    """

    def __init__(
        self, settings: dict[str, Any], weights: dict[str, torch.Tensor], source: str
    ) -> None:
        super().__init__()
        self.settings, self.model_type = settings, settings["model_type"]
        self.deskewed, self.temperature = settings["deskew"], settings["temperature"]
        if self.model_type not in MODELS:
            raise UserError(f"{source}: its network {self.model_type} is not in model.py")
        path = Path(source).resolve()
        self.name = path.parent.name if path.name == "checkpoint.pt" else path.stem
        self.network = MODELS[self.model_type]()
        put_weights(self.network, weights, source)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images uint8 [N, 1, 28, 28], ink 255 on black 0, to logits float32 [N, classes].

        Raises:
            TypeError: for other images, such as ToTensor() makes, which would be all but black.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images are {images.dtype}, not uint8 from 0 to 255")
        prepared = normalise(images.squeeze(1))
        prepared = deskew(prepared) if self.deskewed else prepared
        return self.network(prepared).float() / self.temperature


def load_classifier(source: str | Path) -> Classifier:
    """Return the classifier of a file of weights, of a run's name or of its folder.

    Raises:
        UserError: if it is missing, damaged, or of another network than model.py has.
    """
    path = str(find_weights(str(source)))
    return Classifier(*load_weights(path), path)


@torch.inference_mode()
def classify(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    """Return logits float32 [N, classes] of images uint8 [N, 28, 28]."""
    return torch.cat([classifier(batch) for batch in images.unsqueeze(1).split(BATCH)])


def probabilities(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Return the probabilities float32 [N, classes] of images uint8 [N, 28, 28]."""
    return classify(classifier, torch.from_numpy(images)).softmax(dim=1).numpy()


def name_digit(shares: np.ndarray) -> str:
    """Return the class of the largest of the probabilities [classes], ? if that is below 50 %."""
    return CLASSES[shares.argmax()] if shares.max() >= UNCERTAIN else "?"


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature, between 0.1 and 10, that minimises the loss (Guo et al., 2017).

    Args:
        logits: float [N, classes], undivided, of images that the network was not trained on.
        labels: int64 [N].
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits.double() / math.exp(log_temperature), labels).item()

    limit = math.log(10)
    return math.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x)
