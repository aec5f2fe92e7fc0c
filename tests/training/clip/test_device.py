"""Training a CLIP on a GPU, as far as a machine without one can tell: nothing mixes devices, and
nothing waits.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fake_cuda import (
    CUDA,
    fake_cuda,
    in_a_process_of_its_own,
    no_waiting,
    noted_host_reads,
)
from tests.small_text_encoder import save_small_text_encoder
from torch_utils.host_reads import HostRead
from training.clip.config import ClipModelConfig, ClipTrainConfig
from training.clip.data import CaptionedImage, CaptionedSet, augment
from training.clip.start import ClipStart
from training.clip.teacher import SentenceEncoder
from training.clip.trainer import ClipTrainer

SMALL = ClipTrainConfig(
    model=ClipModelConfig(
        embed_dim=8,
        image_size=32,
        resnet_layers=(1, 1, 1, 1),
        resnet_width=8,
        context_length=16,
        text_width=16,
        text_heads=2,
        text_layers=1,
    ),
    batch=4,
    dtype="float32",
)


def captioned_set(seed: int = 0) -> CaptionedSet:
    """Ten images of noise, six of them to train on."""
    images = [CaptionedImage(f"thing {n}", ("a", "b"), "flat", f"k{n}", n) for n in range(10)]
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 32, 32, 3), np.uint8)
    return CaptionedSet(pixels, images[:6], images[6:])


def augmentation() -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    options = {"strength": 1.0, "colour": 1.0}
    here = augment(images, **options, generator=torch.Generator().manual_seed(0))
    assert here.shape == images.shape
    with fake_cuda():
        there = torch.empty(3, 3, 16, 16, device=CUDA)
        with no_waiting():
            found = augment(there, **options, generator=torch.Generator().manual_seed(0))
    assert (found.device, found.shape) == (CUDA, images.shape)
    with fake_cuda(), pytest.raises(RuntimeError, match="same device"):  # the test's own power
        torch.empty(3, device=CUDA) * torch.ones(3)


def step_and_evaluation() -> None:
    with tempfile.TemporaryDirectory() as folder:
        of = save_small_text_encoder(Path(folder) / "teacher", kind="bert", limit=64)
        teacher = SentenceEncoder.load(str(of), device=torch.device("cpu"))
        with fake_cuda(), noted_host_reads() as reads:
            teacher.encoder.to(CUDA)
            start = ClipStart(teacher=teacher, texts=["the boat", "green"])
            trainer = ClipTrainer(SMALL, captioned_set(), device=CUDA, start=start)
            with no_waiting():
                logged = trainer.step(0)
                assert {value.device for value in logged.values()} == {CUDA}
                assert all(parameter.grad is not None for parameter in trainer.model.parameters())
                assert reads == []
                metrics = trainer.evaluate(4, Path(folder) / "run").metrics
            assert set(reads) == {HostRead.EVALUATION, HostRead.FILE}
            assert "retrieval_10" in metrics


@pytest.mark.parametrize("part", [augmentation, step_and_evaluation])
def test_training_runs_on_a_gpu(part: Callable[[], None]):
    in_a_process_of_its_own(part)
