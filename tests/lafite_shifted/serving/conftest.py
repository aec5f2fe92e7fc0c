"""A small model behind the JSON endpoints, with small limits."""

from pathlib import Path

import pytest

from lafite_shifted.pipeline import TextToImage
from lafite_shifted.serving.limits import Limits


@pytest.fixture(scope="session")
def limits() -> Limits:
    return Limits(upload_bytes=20_000, upload_megapixels=0.1, queue=8, batch=8, images=8)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(model_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def client(model: TextToImage, limits: Limits):
    from fastapi.testclient import TestClient  # an extra, which not everybody has

    from lafite_shifted.cli.serve import _decode
    from lafite_shifted.serving.app import create_app
    from lafite_shifted.serving.hosts import Hosts

    app = create_app(model, _decode(limits.upload_megapixels), limits, Hosts())
    with TestClient(app) as client:
        yield client
