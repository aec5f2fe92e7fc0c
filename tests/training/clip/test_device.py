"""Training a CLIP on a GPU, as far as a machine without one can tell: nothing mixes devices."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.fake_cuda import CUDA, fake_cuda, in_a_process_of_its_own
from training.clip.config import ClipModelConfig, ClipTrainConfig
from training.clip.data import CaptionedImage, CaptionedSet, augment
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


def augmentation() -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    here = augment(images, strength=1.0, generator=torch.Generator().manual_seed(0))
    assert here.shape == images.shape
    with fake_cuda():
        there = torch.empty(3, 3, 16, 16, device=CUDA)
        found = augment(there, strength=1.0, generator=torch.Generator().manual_seed(0))
    assert (found.device, found.shape) == (CUDA, images.shape)
    with fake_cuda(), pytest.raises(RuntimeError, match="same device"):  # the test's own power
        torch.empty(3, device=CUDA) * torch.ones(3)


def step_and_evaluation() -> None:
    images = [CaptionedImage(f"thing {n}", ("a", "b"), "flat", f"k{n}", n) for n in range(10)]
    data = CaptionedSet(np.zeros((10, 32, 32, 3), np.uint8), images[:6], images[6:])
    with fake_cuda():
        trainer = ClipTrainer(SMALL, data, device=CUDA)
        logged = trainer.step(0)
        images, texts = trainer.embed(images[6:])
        assert logged["loss"].device == CUDA
        assert images.device == texts.device == CUDA
        assert all(parameter.grad is not None for parameter in trainer.model.parameters())


@pytest.mark.parametrize("part", [augmentation, step_and_evaluation])
def test_training_runs_on_a_gpu(part: Callable[[], None]):
    in_a_process_of_its_own(part)
