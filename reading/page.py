"""The web page on which people draw digits, see what three networks predict, and collect images.

reading/page.html is the template. It computes what model.py, utils/augment.py, reading/crops.py
and comparison/stats.py compute, in JavaScript; here the weights and the test images are put in.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import COLOURS, TITLES
from reading.classifier import Classifier, classify
from utils.classes import CLASSES
from utils.files import UserError

TEMPLATE = Path(__file__).with_name("page.html")
SAMPLES = 50  # test images in the page
CHECKED = 3  # of these the page computes the logits anew when it is opened
TELLING = 20  # of these at most so many that CustomMLP misclassifies and LeNet5 does not
NETWORKS = ("LeNet5", "LeNet5_regularization", "CustomMLP")  # that page.html can compute


def pick_samples(labels: np.ndarray, lenet: np.ndarray, mlp: np.ndarray) -> np.ndarray:
    """Return the sorted indices of 50 random test images, about as many of each class.

    Up to 20 of them are images that CustomMLP misclassifies and LeNet5 does not. The same labels
    and predictions, int [N], give the same images.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    telling = (mlp != labels) & (lenet == labels)
    chosen = _classes_in_turn(labels, order[telling[order]])[:TELLING]
    rest = _classes_in_turn(labels, np.setdiff1d(order, chosen, assume_unique=True))
    return np.sort(np.concatenate([chosen, rest[: SAMPLES - len(chosen)]]))


def _classes_in_turn(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the indices in another order: the first of each class, then the second ones, ..."""
    turn = np.zeros(len(indices))
    for label in range(len(CLASSES)):
        same = labels[indices] == label
        turn[same] = np.arange(same.sum())
    return indices[np.argsort(turn, kind="stable")]


def render_page(
    classifiers: Mapping[str, Classifier], images: torch.Tensor, labels: torch.Tensor, origin: str
) -> str:
    """Return the page as HTML that needs no other file.

    Args:
        classifiers: network -> its classifier, of the three networks, in the page's order.
        images: test images uint8 [N, 28, 28], of which the page shows some.
        labels: int64 [N].
        origin: whose networks these are, "" if they are all the shipped ones; the page shows it.

    Raises:
        UserError: for another network, which the page can't compute.
    """
    networks = {}
    for name, classifier in classifiers.items():
        if name not in NETWORKS:
            raise UserError(f"{name}: the page can't compute it; it knows {', '.join(NETWORKS)}")
        weights = classifier.network.state_dict()
        networks[name] = {
            "title": TITLES[name],
            "deskew": classifier.deskewed,
            "temperature": classifier.temperature,
            "colour": COLOURS[name],
            "weights": {k: _encode(v.numpy().astype("<f4")) for k, v in weights.items()},
        }
    lenet, mlp = (
        classify(classifiers[name], images).argmax(dim=1).numpy()
        for name in ("LeNet5", "CustomMLP")
    )
    chosen = pick_samples(labels.numpy(), lenet, mlp)
    samples: dict[str, Any] = {
        "images": _encode(images.numpy()[chosen]),
        "labels": labels[chosen].tolist(),
    }
    # So that the page can say whether it computes the same. Rounded, as processors differ in the
    # last bits, and would write pages that differ.
    samples["logits"] = {
        name: classify(classifier, images[chosen[:CHECKED]]).double().round(decimals=2).tolist()
        for name, classifier in classifiers.items()
    }
    content = {"classes": CLASSES, "origin": origin, "networks": networks, "samples": samples}
    # Within a script element "<" could begin its end tag.
    data = json.dumps(content, separators=(",", ":")).replace("<", r"\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", data)


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
