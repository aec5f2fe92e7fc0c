"""A CLIP with random weights, loaded once for each file."""

from pathlib import Path

import pytest

from lafite_shifted.encoders.clip import ClipEncoder


@pytest.fixture(scope="module")
def small_clip(small_clip_folder: Path) -> ClipEncoder:
    return ClipEncoder.load(str(small_clip_folder))
