"""The Frechet distance of Inception features: with random weights, which no network gives."""

import sys
from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json
from tests.commands import run_command, succeed
from training.metrics import inception
from training.metrics.distances import set_distance
from training.metrics.inception import Inception

CPU = torch.device("cpu")


class Untrained(FeatureExtractorInceptionV3):
    """The network as its layers are born."""

    def load_state_dict(self, *_: object) -> None:  # type: ignore[override]
        pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    torch.manual_seed(0)
    network = Untrained(inception.NAME, ["64"], str(folder / "empty.pth"))
    torch.save(network.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture(autouse=True)
def early_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first layers: the last ones' 2048 x 2048 matrices take half a minute."""
    monkeypatch.setattr(inception, "LAYER", "64")


def some(num: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, 16, 16), generator=generator, dtype=torch.uint8)


def test_distance_is_zero_for_the_same_images_and_grows_with_their_difference(weights: Path):
    network = Inception.load(weights, device=CPU)
    real = some(10, seed=0)
    assert network.distance(real.flip(0), real) == pytest.approx(0, abs=1e-4)
    near = network.distance(some(10, seed=1), real)
    far = network.distance(some(10, seed=1) // 4, real)
    assert 0 < near < far


def test_it_judges_images_by_the_features_of_its_distance(weights: Path):
    network = Inception.load(weights, device=CPU)
    images = [some(80, seed=0), some(80, seed=1) // 2]
    made, real = (network.features(found.permute(0, 2, 3, 1)) for found in images)
    assert made.shape == (80, 64)
    expected = network.distance(*images)
    assert set_distance(made, real) == pytest.approx(expected, rel=1e-3)


def test_the_reference_names_images_filter_and_network(weights: Path):
    network = Inception.load(weights, device=CPU)
    reference = network.reference(some(4, seed=0))
    assert (reference["images"], reference["encoder"]) == (4, network.digest)
    assert "16 pixels, bilinear to 299" in str(reference["filter"])
    assert reference["hash"] != network.reference(some(4, seed=1))["hash"]


def test_evaluate_gan_tells_it_and_compares_only_the_same(
    weights: Path, gan_run: Path, some_images: Path, tmp_path: Path
):
    ready = ("--embeddings", gan_run / "embeddings", "--count", "12", "--judge", "none")
    command = ("evaluate", "gan", gan_run, some_images, *ready)
    succeed(*command, "--out", tmp_path / "plain")
    judge = ("--judge", "inception", "--inception", weights)
    outcome = succeed(*command, "--out", tmp_path / "a", *judge)
    header, row = outcome.out.splitlines()[-6], outcome.out.splitlines()[-4]
    found = read_json(tmp_path / "a" / "report.json")
    distance = found["rows"]["generator"]["fid"]
    assert distance > found["rows"]["other training images"]["fid"] > 0
    assert header.endswith("| FID |")
    assert row.endswith(f"| {distance:.2f} |")
    assert found["references"]["inception"]["images"] == 12
    assert found["references"]["judge"]["name"] == inception.NAME
    kernel = {row: metrics["kid_judge"] for row, metrics in found["rows"].items()}
    assert kernel["generator"] > kernel["other training images"]
    old = tmp_path / "plain" / "report.json"
    refused = run_command(
        *command, "--out", tmp_path / "b", "--inception", weights, "--compare", old
    )
    assert (refused.code, "it lacks 'inception'" in refused.err) == (2, True)


def test_what_is_missing_or_another_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"there is no such file.*Give the file weights-inception"):
        Inception.load(tmp_path / "none.pth", device=CPU)
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(InputError, match="no weights of Inception"):
        Inception.load(other, device=CPU)
    other.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="no weights of Inception"):
        Inception.load(other, device=CPU)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch_fidelity", None)
        patch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
        with pytest.raises(InputError, match=r"pip install 'lafite-shifted\[fid\]'"):
            Inception.load(other, device=CPU)


class Harm:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_file_that_runs_code_is_refused(tmp_path: Path):
    torch.save({"fc.weight": Harm(tmp_path / "harmed")}, tmp_path / "harm.pth")
    with pytest.raises(InputError, match="no weights of Inception"):
        Inception.load(tmp_path / "harm.pth", device=CPU)
    assert not (tmp_path / "harmed").exists()
