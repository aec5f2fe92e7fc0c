"""Exports of the tiny model, through the command."""

from pathlib import Path

import pytest

from lafite_shifted.pipeline import TextToImage
from tests.commands import succeed
from tests.conftest import made_once


@pytest.fixture(scope="package")
def exported(model_folder: Path) -> Path:
    """As ONNX graphs in float32; read only."""

    def export(folder: Path) -> None:
        said = succeed("export", "onnx", model_folder, "--out", folder)
        assert "text.onnx, prior.onnx, generator.onnx" in said.out

    return made_once("onnx", export)


@pytest.fixture(scope="package")
def model(model_folder: Path) -> TextToImage:
    """The same model in PyTorch."""
    return TextToImage.from_pretrained(model_folder, device="cpu", dtype="float32")
