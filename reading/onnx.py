"""A classifier as an ONNX file, checked with onnxruntime before it is written."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from reading.classifier import Classifier, classify
from utils.files import UserError, atomic_write


def load_session(content: bytes) -> Any:
    """Return onnxruntime's session of an ONNX file's content, on the CPU."""
    # Else the import looks up a host of its vendor and writes a device ID into the home folder.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def build_onnx(classifier: Classifier) -> bytes:
    """Return a classifier as an ONNX file: images uint8 [N, 1, 28, 28] to logits [N, classes].

    Normalisation, deskewing and temperature are inside; the metadata holds the classifier's name.
    """
    example = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    program = torch.onnx.export(
        classifier, (example,), dynamo=True, verbose=False, input_names=["images"],
        output_names=["logits"], dynamic_shapes={"images": {0: torch.export.Dim("N")}},
    )  # fmt: skip
    assert program is not None  # None is for exports to a file
    model = program.model_proto
    metadata = {
        "network": classifier.model_type,
        "deskew": classifier.deskewed,
        "temperature": classifier.temperature,
        "source": classifier.name,
    }
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    return model.SerializeToString()


def export_onnx(classifier: Classifier, path: Path) -> None:
    """Write an ONNX file once onnxruntime computes PyTorch's logits of 1,000 images with it.

    Raises:
        UserError: if the logits differ, or the file can't be written.
    """
    content = build_onnx(classifier)
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand((1000, 1, 7, 7), generator=generator).mul(4).sub(3).clamp(0)  # a few pixels
    images = interpolate(blobs, size=(28, 28), mode="bilinear").mul(255).byte().squeeze(1)
    expected = classify(classifier, images).numpy()
    inputs = {"images": images.unsqueeze(1).numpy()}
    (logits,) = load_session(content).run(["logits"], inputs)
    difference = np.abs(logits - expected).max()
    if difference > 1e-4:
        raise UserError(f"{path}: not written, as onnxruntime's logits differ by {difference:.2g}")
    atomic_write(path, content)
    print(f"{path}: {len(images):,} images, logits at most {difference:.1g} from PyTorch's")
