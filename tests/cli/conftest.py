"""What the verbs that make images are given, and where they write."""

from pathlib import Path

import pytest


@pytest.fixture
def flags(model_folder: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    return ("--model", model_folder, "--out", tmp_path / "out", "--dtype", "float32")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
