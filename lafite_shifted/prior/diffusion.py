"""Shifted diffusion (arXiv:2211.15388): schedule and forward process, the same for every Gaussian.

The forward step is q(z_t | z_{t-1}) = N(sqrt(alpha_t) z_{t-1} + (1 - sqrt(alpha_t)) mu, beta_t
Sigma) (eq. 3 with the shift s_t of section 3.2). In x = z - mu it is DDPM (arXiv:2006.11239) with
noise coloured by Sigma^{1/2}; `samplers` run it backwards. The baseline of DALL-E 2
(arXiv:2204.06125) is the same code with mu = 0 and Sigma = I / D.

Shape letters: N batch, D embedding, T steps. Time t counts from 1 (least noise) to T.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from lafite_shifted.prior.choices import check_choices


class NoiseGaussian(Protocol):
    """The Gaussian of a process: a `Gaussian`, or for each row its own."""

    @property
    def mean(self) -> Tensor:
        """[D] or [N, D]."""
        ...

    def color(self, noise: Tensor) -> Tensor:
        """Sigma^{1/2} n, [N, D]."""
        ...

    def whiten(self, z: Tensor) -> Tensor:
        """Sigma^{-1/2} (z - mean), [N, D]."""
        ...

    def unwhiten(self, y: Tensor) -> Tensor:
        """mean + Sigma^{1/2} y, [N, D]."""
        ...


Spacing = Literal["time", "log_snr"]


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise levels of the forward process."""

    name: Literal["linear", "cosine"] = "linear"
    num_steps: int = 1000  # T
    beta_first: float = 1e-4  # linear only
    beta_last: float = 0.02  # linear only

    def __post_init__(self) -> None:
        check_choices(self)
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {self.num_steps}")
        if not 0 < self.beta_first <= self.beta_last < 1:
            raise ValueError("0 < beta_first <= beta_last < 1 is needed")


class Schedule:
    """abar[t] for t = 0..T in float64, abar[0] = 1."""

    def __init__(self, config: ScheduleConfig):
        self.config = config
        steps = config.num_steps
        if config.name == "linear":
            beta = torch.linspace(config.beta_first, config.beta_last, steps, dtype=torch.float64)
        else:  # arXiv:2102.09672, eq. 17, betas clipped at 0.999
            time = torch.arange(steps + 1, dtype=torch.float64) / steps
            level = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - level[1:] / level[:-1]).clamp(max=0.999)
        self.beta = torch.cat([torch.zeros(1, dtype=torch.float64), beta])  # [T + 1]
        self.abar = torch.cumprod(1 - self.beta, dim=0)  # [T + 1]

    @property
    def num_steps(self) -> int:
        """T."""
        return self.config.num_steps

    def at(self, t: Tensor) -> Tensor:
        """abar at times `t`, float64 of its shape and on its device, which is not waited for."""
        return self.abar.to(t.device, non_blocking=t.is_cuda)[t]

    @cached_property
    def half_log_snr(self) -> Tensor:
        """log(sqrt(abar) / sqrt(1 - abar)), [T + 1] float64; infinite at t = 0."""
        return 0.5 * (self.abar.log() - (1 - self.abar).log())

    def subset(self, num_steps: int, *, spacing: Spacing = "time") -> list[int]:
        """`num_steps` falling times from T on: in time evenly spaced down to 0, where nothing is
        left to predict ("trailing", arXiv:2305.08891, table 2), or evenly in log-SNR (as far as
        whole times allow).

        Half the log-SNR runs up to 0.5 + n / 4, and from -1.5 - n / 8 after the first, both as far
        as T and 1 allow: few network evaluations matter most in the middle, where z_0 is
        decided (`training/prior/exact_denoiser.py`).
        """
        if not 1 <= num_steps <= self.num_steps:
            raise ValueError(f"the number of steps must be in 1..{self.num_steps}, not {num_steps}")
        if spacing == "time":
            times = torch.linspace(self.num_steps, 0, num_steps + 1, dtype=torch.float64)
            return [int(t) for t in times[:-1].round()]
        levels = self.half_log_snr[1:]  # rises as t falls
        lowest, highest = (float(levels[t - 1]) for t in (self.num_steps, 1))
        lowest, highest = max(lowest, -1.5 - num_steps / 8), min(highest, 0.5 + num_steps / 4)
        wanted = torch.linspace(lowest, highest, num_steps, dtype=torch.float64)
        found = [self.num_steps]
        for number, level in enumerate(wanted[1:], start=1):
            nearest = 1 + int((levels - level).abs().argmin())
            found.append(max(min(nearest, found[-1] - 1), num_steps - number))  # always falling
        return found


def diffuse(
    z0: Tensor, t: Tensor, noise: Tensor, gaussian: NoiseGaussian, schedule: Schedule
) -> Tensor:
    """z_t [N, D] from z_0 in one jump: mean sqrt(abar) z_0 + (1 - sqrt(abar)) mu, covariance (1 -
    abar) Sigma.
    """
    abar = schedule.at(t)[:, None]  # [N, 1], float64: 1 - abar starts at 1e-4
    signal, spread = abar.sqrt().to(z0.dtype), (1 - abar).sqrt().to(z0.dtype)
    return gaussian.mean + signal * (z0 - gaussian.mean) + spread * gaussian.color(noise)
