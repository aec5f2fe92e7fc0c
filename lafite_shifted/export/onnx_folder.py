"""`export onnx`: the parts as ONNX graphs, tried in onnxruntime against PyTorch before they are
written.

Shape letters: N images, R resolution.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lafite_shifted.export.folder import check_free, describe, tokenizer_file, write_folder
from lafite_shifted.export.onnx_model import content_of, to_onnx
from lafite_shifted.export.parts import parts_of, reference_operators
from lafite_shifted.export.runner import Model
from lafite_shifted.export.storage import OPSET, Storage, store
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.samplers import SamplerConfig

KIND = "onnx-export"
SENTENCES = ("a red heart", "a smiling cat", "a yellow star", "a house with a blue door")
SEEDS = (0, 1)  # of each sentence, when an export is tried
LEAST_PSNR = 35.0  # dB to the images of PyTorch in float32, below which int8 is refused


@dataclass(frozen=True)
class Tried:
    """Images in onnxruntime beside those of PyTorch."""

    psnr: float  # dB, of the worst image; infinite where all are equal
    difference: float  # largest, of images about [-1, 1]

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.psnr:.1f} dB PSNR, largest difference {self.difference:.1e}"


@dataclass(frozen=True)
class OnnxExport:
    """What is to be written, and what was found."""

    manifest: dict[str, Any]
    files: dict[str, bytes]
    tokenizer: bytes
    tried: Tried
    refused: dict[str, float]  # parts that are not int8, and the PSNR that they would have

    def write(self, out: Path) -> None:
        """As a folder; InputError where it exists."""
        check_free(out)
        runner = (resources.files("lafite_shifted.export") / "runner.py").read_bytes()
        extra = {"tokenizer.json": self.tokenizer, "generate.py": runner}
        write_folder(out, self.manifest, self.files, extra)


def export_onnx(
    model: TextToImage, *, storage: Storage = "float32", sampling: SamplerConfig | None = None
) -> OnnxExport:
    """A model on the CPU, in float32. int8 is left out of every part with which an image falls
    below 35 dB, and then of the worst ones until all together stay above. InputError for what
    cannot be exported.
    """
    tokenizer = tokenizer_file(model)
    parts = parts_of(model, sampling)
    manifest = describe(model, parts, kind=KIND)
    manifest["opset"] = OPSET
    graphs = {name: to_onnx(name, part) for name, part in parts.items()}
    trial = Trial(manifest, graphs, tokenizer, list(reference_images(model)))
    stored: dict[str, Storage] = dict.fromkeys(parts, storage)
    alone: dict[str, float] = {}
    if storage == "int8":
        exact: dict[str, Storage] = dict.fromkeys(parts, "float32")
        alone = {name: trial.run({**exact, name: "int8"}).psnr for name in parts}
        stored |= {name: "float16" for name, psnr in alone.items() if psnr < LEAST_PSNR}
    tried = trial.run(stored)
    while tried.psnr < LEAST_PSNR and "int8" in stored.values():
        worst = min((n for n, kind in stored.items() if kind == "int8"), key=alone.__getitem__)
        stored[worst] = "float16"
        tried = trial.run(stored)
    for name, kind in stored.items():
        manifest["parts"][name] |= {"file": f"{name}.onnx", "stored": kind}
    manifest["psnr_db"] = None if math.isinf(tried.psnr) else round(tried.psnr, 2)
    refused = {n: alone[n] for n, kind in stored.items() if alone and kind != "int8"}
    files = {f"{name}.onnx": content for name, content in trial.contents(stored).items()}
    return OnnxExport(manifest, files, tokenizer, tried, refused)


def reference_images(model: TextToImage) -> Iterator[np.ndarray]:
    """Images [N, 3, R, R] of each sentence by PyTorch."""
    with reference_operators():
        for sentence in SENTENCES:
            embedding = model.embed([sentence], seeds=SEEDS)
            yield model.render(embedding, seeds=SEEDS).numpy()


class Trial:
    """Runs the parts, however they are stored, against PyTorch's images."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        graphs: Mapping[str, onnx.ModelProto],
        tokenizer: bytes,
        expected: list[np.ndarray],
    ):
        self.manifest, self.graphs, self.tokenizer = manifest, graphs, tokenizer
        self.expected = expected

    def contents(self, stored: Mapping[str, Storage]) -> dict[str, bytes]:
        """The file of each part."""
        return {
            name: content_of(name, store(self.graphs[name], kind)) for name, kind in stored.items()
        }

    def run(self, stored: Mapping[str, Storage]) -> Tried:
        """How close the images are."""
        found = {name: part | {"file": name} for name, part in self.manifest["parts"].items()}
        files = self.contents(stored)
        files["manifest.json"] = json.dumps({**self.manifest, "parts": found}).encode()
        files["tokenizer.json"] = self.tokenizer
        runner, psnr, difference = Model(files.__getitem__, threads=1), math.inf, 0.0
        for sentence, expected in zip(SENTENCES, self.expected, strict=True):
            made = runner.render(runner.embed(sentence, SEEDS), SEEDS)
            difference = max(difference, float(np.abs(made - expected).max()))
            for image, wanted in zip(made, expected, strict=True):
                psnr = min(psnr, image_psnr(image, wanted))
        return Tried(psnr, difference)


def image_psnr(image: np.ndarray, expected: np.ndarray) -> float:
    """dB between images in [-1, 1], what lies outside cut off; infinite for equal ones."""
    error = np.square(np.clip(image, -1, 1) - np.clip(expected, -1, 1), dtype=np.float64).mean()
    return math.inf if error == 0 else 10 * math.log10(4 / error)
