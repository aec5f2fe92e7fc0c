"""A model and two of the shipped images."""

from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.pipeline import TextToImage


@pytest.fixture(scope="session")
def model(model_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(model_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def image(shipped_images: Path) -> Image.Image:
    return Image.open(sorted(shipped_images.glob("*.png"))[0]).convert("RGB")


@pytest.fixture(scope="session")
def other(shipped_images: Path) -> Image.Image:
    return Image.open(sorted(shipped_images.glob("*.png"))[40]).convert("RGB")
