"""Images for tests of the augmentation, and what it makes of them."""

import dataclasses

import torch
from torch import Tensor

from training.gan.augment.augment import augment
from training.gan.augment.config import AUGMENTATIONS, AugmentConfig
from training.gan.augment.plan import AugmentPlan
from training.gan.augment.random_numbers import NUM_COLUMNS

SIZE = 32
EVERYTHING = AugmentConfig(filter=1.0, noise=0.1, cutout=0.5)


def only(**strengths: float) -> AugmentConfig:
    return dataclasses.replace(AUGMENTATIONS["off"], probability=1.0, **strengths)


def images(num: int = 6, *, size: int = SIZE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num, 3, size, size, dtype=torch.float64, generator=generator) * 2 - 1


def uniform(num: int = 6, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num, NUM_COLUMNS, dtype=torch.float64, generator=generator)


def applied(
    x: Tensor, config: AugmentConfig, *, probability: float = 1.0, numbers: Tensor | None = None
) -> Tensor:
    numbers = uniform(len(x)) if numbers is None else numbers
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    plan = AugmentPlan.of(numbers, probability=probability, config=config, image_size=x.shape[-1])
    return augment(x, plan, noise)


def blobs(num: int, *, across: float = 0.0, down: float = 0.0) -> Tensor:
    """A round hill on a level plane, its place in sides of the image off the middle."""
    places = (torch.arange(SIZE, dtype=torch.float64) + 0.5) / SIZE - 0.5
    rows, columns = ((places - at).square() for at in (down, across))
    hill = torch.exp(-(rows[:, None] + columns[None, :]) / (2 * 0.08**2))
    return hill.expand(num, 3, SIZE, SIZE).contiguous()
