"""Fixtures: the shipped images and CLIP are the real input; nothing here needs the network."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on busy cores wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # who reaches for the network must fail, not wait

import tempfile

# the operators are built anew for every run, as on a fresh machine
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share that of the process that started them
    os.environ["LAFITE_SHIFTED_CACHE"] = tempfile.mkdtemp(prefix="lafite-shifted-tests-")

import pytest
import torch

ASSETS = Path(__file__).parent.parent / "lafite_shifted" / "assets"


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` writes, for every worker: the first to ask makes it."""
    place = Path(os.environ["LAFITE_SHIFTED_CACHE"]) / "tests"
    place.mkdir(exist_ok=True)
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / name).exists():
            make(place / f"{name}.half")
            (place / f"{name}.half").rename(place / name)
    return place / name


@pytest.fixture(scope="session")
def clip():
    from lafite_shifted.encoders.clip import ClipEncoder

    return ClipEncoder.load("starter")


@pytest.fixture(scope="session")
def small_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights and the layout of a published one, as `--clip` takes it."""
    from tests.small_clip import save_small_clip

    return save_small_clip(tmp_path_factory.mktemp("clip") / "small")


@pytest.fixture(scope="session")
def shipped_images() -> Path:
    return ASSETS / "images"


@pytest.fixture(scope="session")
def some_images(tmp_path_factory: pytest.TempPathFactory, shipped_images: Path) -> Path:
    """A folder of 48 shipped images with captions; read only."""
    from tests.real_images import some_of

    return some_of(shipped_images, tmp_path_factory.mktemp("images"), count=48)


@pytest.fixture(scope="session")
def some_embeddings(tmp_path_factory: pytest.TempPathFactory, some_images: Path) -> Path:
    """What `embed` makes of `some_images`; read only."""
    from tests.commands import succeed

    folder = tmp_path_factory.mktemp("embeddings") / "out"
    succeed("embed", some_images, "--out", folder)
    return folder


@pytest.fixture(scope="session")
def gan_run(
    tmp_path_factory: pytest.TempPathFactory, some_images: Path, some_embeddings: Path
) -> Path:
    """The run folder of a GAN that trained for four steps on `some_images`; read only."""
    from tests.commands import TINY_GAN, succeed

    folder = tmp_path_factory.mktemp("gan") / "run"
    shutil.copytree(some_embeddings, folder / "embeddings")
    succeed("train-gan", some_images, "--out", folder, *TINY_GAN)
    return folder


@pytest.fixture(scope="session")
def prior_run(tmp_path_factory: pytest.TempPathFactory, some_embeddings: Path) -> Path:
    """The run folder of a prior that trained for four steps on `some_embeddings`; read only."""
    from tests.commands import TINY_PRIOR, succeed

    folder = tmp_path_factory.mktemp("prior") / "run"
    succeed("train-prior", some_embeddings, "--out", folder, *TINY_PRIOR)
    return folder


@pytest.fixture(scope="session")
def model_folder(request: pytest.FixtureRequest) -> Path:
    """A packed model of both; read only."""
    from tests.commands import succeed

    def pack(folder: Path) -> None:
        gan, prior = (request.getfixturevalue(name) for name in ("gan_run", "prior_run"))
        succeed("pack", "--gan", gan, "--prior", prior, "--out", folder)

    return made_once("packed", pack)


@pytest.fixture(scope="session")
def starter_run(
    tmp_path_factory: pytest.TempPathFactory, some_images: Path, some_embeddings: Path
) -> Path:
    """As `gan_run`, with heads on features and sizes that no preset has; read only."""
    from tests.commands import TINY_GAN, succeed

    folder = tmp_path_factory.mktemp("starter-gan") / "run"
    shutil.copytree(some_embeddings, folder / "embeddings")
    flags = ("--features", "clip", "--set", "features.resolution=32")
    flags += ("--set", "features.channels=8", "--set", "generator.mapping_layers=3")
    succeed("train-gan", some_images, "--out", folder, *TINY_GAN, *flags)
    return folder


@pytest.fixture(scope="session")
def starter_files(
    tmp_path_factory: pytest.TempPathFactory, starter_run: Path, prior_run: Path
) -> Path:
    """A tiny model packed as the one that ships is, beside the shipped CLIP; read only."""
    from lafite_shifted.io.starter import starter_clip
    from tests.commands import succeed

    folder = tmp_path_factory.mktemp("starter") / "starter"
    flags = ("--with-discriminator", "--half", "--clip", "starter")
    succeed("pack", "--gan", starter_run, "--prior", prior_run, "--out", folder, *flags)
    (folder / "clip").symlink_to(starter_clip())
    return folder


@pytest.fixture
def starter(starter_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`starter` names the tiny model while a test runs."""
    monkeypatch.setattr("lafite_shifted.io.starter.starter_folder", lambda: starter_files)
    return starter_files


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_sessionfinish() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # another worker may need it still
        shutil.rmtree(os.environ["LAFITE_SHIFTED_CACHE"], ignore_errors=True)
