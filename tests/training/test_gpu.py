"""Trainings, generation, `embed` and evaluation on a CUDA device: `pytest -m gpu`. The same tests
run on the CPU, where they show that they run; what they compare with is the CPU's.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafite_shifted.encoders.clip import ClipEncoder
from tests.fake_cuda import in_every_module
from tests.small_model import small_model
from tests.training.clip.test_device import SMALL as SMALL_CLIP
from tests.training.clip.test_device import captioned_set
from tests.training.gan.trainers import SMALL, data_of
from tests.training.test_waiting import EVERY_TERM
from torch_utils import host_reads
from torch_utils.device import pick_device
from torch_utils.host_reads import HostRead
from torch_utils.ops.philox import philox
from training.clip.trainer import ClipTrainer
from training.data.embeddings.embed import embed_folder
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.images import ImageSource
from training.data.synthetic_cone import write_cone
from training.gan.augment.config import AugmentConfig
from training.gan.trainer import GanTrainer
from training.prior.presets import PRIOR_PRESETS
from training.prior.trainer import PriorTrainer

CPU = torch.device("cpu")
ALWAYS = AugmentConfig("fixed", filter=1.0, noise=0.1, cutout=0.5)
PRIORS = [("mse", "shifted"), ("mse", "clusters"), ("energy", "shifted")]
CONTINUOUS = ("fd_clip", "kid_clip", "clip_i_sim", "intra_set_cosine", "energy")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return pick_device(request.param)


@pytest.fixture(scope="module")
def cone(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    folder = tmp_path_factory.mktemp("cone")
    write_cone(folder, num_names=120)
    return EmbeddingSet(folder)


def gan_on(device: torch.device) -> GanTrainer:
    clip = ClipEncoder.load("starter", device=device)
    config = dataclasses.replace(SMALL, **EVERY_TERM | {"augment": ALWAYS})
    return GanTrainer(config, data_of(clip), clip, device=device)


def prior_on(
    device: torch.device, data: EmbeddingSet, objective: Any, process: Any
) -> PriorTrainer:
    tiny = PRIOR_PRESETS["tiny"]
    prior = dataclasses.replace(
        tiny.prior,
        objective=objective,
        process=process,
        num_clusters=4,
        embed_dim=data.encoder_id.dim,
        token_width=data.token_width,
        context_length=data.context_length,
        width=32,
        depth=1,
        heads=2,
    )
    config = dataclasses.replace(tiny, prior=prior, batch=16, dtype="float32")
    return PriorTrainer(config, data, device=device)


def clip_on(device: torch.device) -> ClipTrainer:
    return ClipTrainer(SMALL_CLIP, captioned_set(), device=device)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[list[HostRead]]:
    """What would make the host wait for the GPU is an error, but for reads that have a reason:
    those reasons.
    """
    reasons: list[HostRead] = []
    if device.type == "cpu":
        yield reasons
        return
    read = host_reads.on_host

    def on_host(tensor: Tensor, why: HostRead) -> Tensor:
        reasons.append(why)
        torch.cuda.set_sync_debug_mode("default")
        try:
            return read(tensor, why)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    before = torch.cuda.get_sync_debug_mode()
    with in_every_module(on_host=on_host):
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield reasons
        finally:
            torch.cuda.set_sync_debug_mode(before)


def steps_of(trainer: Any, numbers: range) -> dict[str, Tensor]:
    for step in numbers:
        logged = trainer.step(step * trainer.batch)
    return logged


def assert_a_step_waits_for_nothing(trainer: Any) -> None:
    steps_of(trainer, range(3))  # sets up what is set up once, as cuDNN's choices
    with no_waiting(trainer.device) as reads:
        logged = steps_of(trainer, range(3, 6))
    assert reads == []  # a number of two steps before has arrived, and is no read any more
    assert all(value.isfinite() for value in logged.values())
    losses = {value.device for name, value in logged.items() if "loss" in name}
    assert losses == {trainer.device}


def assert_two_steps_are_the_cpus(
    make: Callable[[torch.device], Any], device: torch.device
) -> None:
    """Logged scalars, and the direction in which the weights have moved: Adam takes a step of one
    length up or down, so that a gradient of almost nothing may go either way.
    """
    trainers = make(device), make(CPU)
    before = [weights_of(trainer) for trainer in trainers]
    torch.testing.assert_close(*before)
    found, expected = (steps_of(trainer, range(2)) for trainer in trainers)
    assert found.keys() == expected.keys()
    for name in expected:
        close = pytest.approx(float(expected[name]), rel=2e-2, abs=2e-2)
        assert float(found[name]) == close, name
    moved = [weights_of(t) - start for t, start in zip(trainers, before, strict=True)]
    assert moved[1].norm() > 0
    assert F.cosine_similarity(*moved, dim=0) > 0.95


def weights_of(trainer: Any) -> Tensor:
    """[P] float64 on the CPU: of all that is trained."""
    networks = [part for part in trainer.parts().values() if isinstance(part, nn.Module)]
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    return torch.cat([p.detach().cpu().double().flatten() for p in parameters])


def test_a_step_of_a_gan_waits_for_nothing(device: torch.device):
    assert_a_step_waits_for_nothing(gan_on(device))


@pytest.mark.parametrize(("objective", "process"), PRIORS)
def test_a_step_of_a_prior_waits_for_nothing(
    device: torch.device, cone: EmbeddingSet, objective: str, process: str
):
    assert_a_step_waits_for_nothing(prior_on(device, cone, objective, process))


def test_a_step_of_a_clip_waits_for_nothing(device: torch.device):
    assert_a_step_waits_for_nothing(clip_on(device))


def test_two_steps_of_a_gan_are_the_cpus(device: torch.device):
    assert_two_steps_are_the_cpus(gan_on, device)


@pytest.mark.parametrize(("objective", "process"), PRIORS)
def test_two_steps_of_a_prior_are_the_cpus(
    device: torch.device, cone: EmbeddingSet, objective: str, process: str
):
    assert_two_steps_are_the_cpus(lambda on: prior_on(on, cone, objective, process), device)


def test_two_steps_of_a_clip_are_the_cpus(device: torch.device):
    assert_two_steps_are_the_cpus(clip_on, device)


def test_random_numbers_are_the_cpus(device: torch.device):
    indices = torch.tensor([0, -1, 2**40])
    for distribution in ("bits", "uniform", "normal"):
        here = philox(indices, 1001, key=7, distribution=distribution)
        there = philox(indices.to(device), 1001, key=7, distribution=distribution).cpu()
        tolerance = {"rtol": 0.0, "atol": 2e-6 if distribution == "normal" else 0.0}
        torch.testing.assert_close(there, here, **tolerance)


def test_generated_images_are_the_cpus(device: torch.device):
    prompts = ["a cat", {"a cat": 0.7, "a dog": 0.3}]
    there, here = small_model(device), small_model(CPU)
    there(prompts, num_images=2)
    with no_waiting(device) as reads:
        found = there(prompts, num_images=2, seed=3)
    assert set(reads) <= {HostRead.IMAGES, HostRead.EDIT}
    expected = here(prompts, num_images=2, seed=3)
    apart = np.stack(found).astype(int) - np.stack(expected)
    assert np.stack(expected).std() > 5
    assert np.abs(apart).max() <= 2


def test_embeddings_of_a_folder_are_the_cpus(
    device: torch.device, some_images: Path, tmp_path: Path
):
    found = []
    for place in (device, CPU):
        clip, out = ClipEncoder.load("starter", device=place), tmp_path / f"{len(found)}"
        with no_waiting(place) as reads:
            report = embed_folder(ImageSource(some_images), out, clip, batch=16)
        assert set(reads) <= {HostRead.EMBEDDINGS}
        assert report.num_embedded == 48
        found.append(EmbeddingSet(out))
    for kind in ("image", "text"):
        there, here = (getattr(data, kind)[:] for data in found)
        assert F.cosine_similarity(there, here).min() > 0.999
    assert found[0].encoder_id == found[1].encoder_id


def test_evaluations_are_the_cpus(device: torch.device, cone: EmbeddingSet, tmp_path: Path):
    """Metrics that no rounding makes jump."""
    makers: list[Callable[[torch.device], Any]] = [
        gan_on,
        lambda on: prior_on(on, cone, "mse", "shifted"),
    ]
    for number, make in enumerate(makers):
        there, here = (make(place) for place in (device, CPU))
        with no_waiting(device) as reads:
            found = there.evaluate(1000, tmp_path / f"there-{number}").metrics
        assert set(reads) <= {HostRead.FILE, HostRead.IMAGES, HostRead.EVALUATION}
        expected = here.evaluate(1000, tmp_path / f"here-{number}").metrics
        assert found.keys() == expected.keys()
        compared = [name for name in expected if name.endswith(CONTINUOUS)]
        assert len(compared) >= 4
        for name in compared:
            assert found[name] == pytest.approx(expected[name], rel=5e-2, abs=5e-3), name
