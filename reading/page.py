"""The web page on which people draw a digit and see what the three networks read.

reading/page.html is the template. It computes what model.py, utils/augment.py and reading/photos.py
compute, in JavaScript; here the weights and the test images are put into it.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from utils.files import UserError

TEMPLATE = Path(__file__).with_name("page.html")
SAMPLES = 50  # test images in the page
TELLING = 20  # of these at most so many that CustomMLP misreads and LeNet5 reads

# The shapes of the weights that the page's MODELS compute with: layer -> shape of its weight.
LENET = {
    "conv1": (6, 1, 5, 5),
    "conv2": (16, 6, 5, 5),
    "fc1": (120, 256),
    "fc2": (84, 120),
    "fc3": (10, 84),
}
LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "LeNet5": LENET,
    "LeNet5_regularization": LENET | {"bn1": (6,), "bn2": (16,), "bn3": (120,)},
    "CustomMLP": {"fc1": (56, 784), "fc2": (28, 56), "fc3": (10, 28)},
}


def pick_samples(labels: np.ndarray, predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the sorted indices of 50 random test images, about as many of each digit.

    Up to 20 of them are images that CustomMLP misreads and LeNet5 reads. The same arguments give
    the same images.

    Args:
        labels: int [N].
        predictions: network -> its answers, int [N]; CustomMLP and LeNet5 at least.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    telling = (predictions["CustomMLP"] != labels) & (predictions["LeNet5"] == labels)
    chosen = _digits_in_turn(labels, order[telling[order]])[:TELLING]
    rest = _digits_in_turn(labels, np.setdiff1d(order, chosen, assume_unique=True))
    return np.sort(np.concatenate([chosen, rest[: SAMPLES - len(chosen)]]))


def _digits_in_turn(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the indices in another order: the first of each digit, then the second ones, ..."""
    turn = np.zeros(len(indices))
    for digit in range(10):
        same = labels[indices] == digit
        turn[same] = np.arange(same.sum())
    return indices[np.argsort(turn, kind="stable")]


def render_page(
    networks: Mapping[str, tuple[str, bool, Mapping[str, torch.Tensor]]],
    images: np.ndarray,
    labels: np.ndarray,
) -> str:
    """Return the page as HTML that needs no other file.

    Args:
        networks: the three of them, model_type -> (title, deskew, state dict). Their order is the
            page's; it gives the colours as well.
        images: test images to show, uint8 [N, 28, 28].
        labels: int [N].

    Raises:
        UserError: if the page can't compute a network.
    """
    from utils.plots import PALETTE  # here, as matplotlib takes a while

    content = {
        "networks": {
            name: {
                "title": title,
                "deskew": deskew,
                "colour": colour,
                "weights": _encode_weights(name, weights),
            }
            for (name, (title, deskew, weights)), colour in zip(
                networks.items(), PALETTE, strict=False
            )
        },
        "samples": {
            "images": _encode(np.asarray(images, np.uint8)),
            "labels": [int(label) for label in labels],
        },
    }
    # Within a script element "<" could begin its end tag.
    data = json.dumps(content, separators=(",", ":")).replace("<", r"\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", data)


def _encode_weights(name: str, weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return a state dict as float32 in base64; UserError if the page can't compute with it."""
    if name not in LAYERS:
        raise UserError(f"{name}: the page can't compute it; it knows {', '.join(LAYERS)}")
    kept = {key: value for key, value in weights.items() if "num_batches_tracked" not in key}
    if {key: tuple(value.shape) for key, value in kept.items()} != _shapes(LAYERS[name]):
        raise UserError(
            f"{name}: the page can't compute it, as its layers are not those of reading/page.html; "
            "adapt that file and reading/page.py to model.py"
        )
    return {key: _encode(value.numpy().astype("<f4")) for key, value in kept.items()}


def _shapes(layers: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shape of everything in a state dict of these layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in layers.items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
        if layer.startswith("bn"):
            shapes |= {f"{layer}.running_mean": shape, f"{layer}.running_var": shape}
    return shapes


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
