"""Fixtures: the shipped pictures and CLIP are the real input; nothing here needs the network."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network must fail, not wait

import pytest
import torch

ASSETS = Path(__file__).parent.parent / "lafite_shifted" / "assets"


@pytest.fixture(scope="session")
def clip():
    from lafite_shifted.clip import ClipEncoder

    return ClipEncoder.load("starter")


@pytest.fixture(scope="session")
def shipped_pictures() -> Path:
    return ASSETS / "pictures"


@pytest.fixture(scope="session")
def some_pictures(tmp_path_factory: pytest.TempPathFactory, shipped_pictures: Path) -> Path:
    """A folder of 48 shipped pictures with captions; read only."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = (shipped_pictures / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:48]
    import json

    for row in rows:
        shutil.copy(shipped_pictures / json.loads(row)["file_name"], folder)
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
