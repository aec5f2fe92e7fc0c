"""Packages without a network."""

import pytest

from tests.training.data.packages import emoji_package
from training.data import datasets


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_npm_package", emoji_package)
