"""The weights of a small network, for every test."""

from pathlib import Path

import pytest

from tests.training.gan.features.networks import save_timm


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(tmp_path_factory.mktemp("weights") / "w.safetensors")
