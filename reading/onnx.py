"""A classifier as an ONNX file, checked with onnxruntime before it is written."""

from pathlib import Path

import numpy as np
import torch

from reading.classifier import Classifier, classify
from utils.files import UserError, atomic_write


def build_onnx(classifier: Classifier, source: Path) -> bytes:
    """Return a classifier as an ONNX file: images uint8 [N, 1, 28, 28] to logits float32 [N, 10].

    Normalisation and deskewing are inside, and so is where it comes from, as metadata.
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
        "source": source.name,
    }
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    return model.SerializeToString()


def export_onnx(classifier: Classifier, source: Path, path: Path, images: torch.Tensor) -> None:
    """Write an ONNX file, after onnxruntime has read 1,000 test images with it as PyTorch does.

    Raises:
        UserError: if it does not, or the file can't be written.
    """
    import onnxruntime

    content = build_onnx(classifier, source)
    expected = classify(classifier, images).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.unsqueeze(1).numpy()})
    difference = np.abs(logits - expected).max()
    if difference > 1e-4 or (logits.argmax(axis=1) != expected.argmax(axis=1)).any():
        raise UserError(f"{path}: not written, as onnxruntime's logits differ by {difference:.2g}")
    atomic_write(path, content)
    print(f"{path}: 1,000 test images, largest difference to PyTorch's logits {difference:.1g}")
