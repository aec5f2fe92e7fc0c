"""Schedules, and noise by number, of the tests of diffusion."""

import numpy as np
import torch
from torch import Tensor

from lafite_shifted.prior.diffusion import Schedule, ScheduleConfig
from tests.references.gaussians import Array

LINEAR = Schedule(ScheduleConfig())
COSINE = Schedule(ScheduleConfig(name="cosine"))
DIM = 6
MEAN = np.linspace(-0.5, 0.7, DIM)


def betas_of(schedule: Schedule) -> Array:
    return schedule.beta[1:].numpy()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise_list(count: int, num: int) -> list[Tensor]:
    return [normal(num, DIM, seed=100 + i) for i in range(count)]
