"""A folder of images to embed."""

import shutil
from pathlib import Path

import pytest

from tests.training.data.embeddings.five_images import CAPTIONS, write_captions


@pytest.fixture
def images(tmp_path: Path, shipped_images: Path) -> Path:
    """Five images; three with captions, one of them with two."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, file in zip("abcde", sorted(shipped_images.glob("*.png"))[::40], strict=False):
        shutil.copy(file, folder / f"{name}.png")
    write_captions(folder, CAPTIONS)
    return folder
