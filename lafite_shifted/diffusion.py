"""Shifted diffusion (arXiv:2211.15388), one process and one sampler for every Gaussian.

The forward step is q(z_t | z_{t-1}) = N(sqrt(alpha_t) z_{t-1} + (1 - sqrt(alpha_t)) mu, beta_t
Sigma) (eq. 3 with the shift s_t of section 3.2). In x = z - mu it is DDPM (arXiv:2006.11239) with
noise coloured by Sigma^{1/2}, so every linear sampler of DDPM runs here unchanged; no inverse of
Sigma is needed. The baseline of DALL-E 2 (arXiv:2204.06125) is the same code with mu = 0 and Sigma
= I / D.

Shape letters: N batch, D embedding, T steps. Time t counts from 1 (least noise) to T.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lafite_shifted.stats import Gaussian

Denoiser = Callable[[Tensor, int], Tensor]  # (z_t [N, D], t) -> z_0 [N, D]
NoiseSource = Callable[[int], Tensor]  # step number (0 = start) -> standard normal [N, D]


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise levels of the forward process."""

    name: Literal["linear", "cosine"] = "linear"
    num_steps: int = 1000  # T
    beta_first: float = 1e-4  # linear only
    beta_last: float = 0.02  # linear only

    def __post_init__(self) -> None:
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
        return self.config.num_steps

    def subset(self, num_steps: int) -> list[int]:
        """`num_steps` times from T down to 1, evenly spaced, for a strided sampler."""
        if not 1 <= num_steps <= self.num_steps:
            raise ValueError(f"the number of steps must be in 1..{self.num_steps}, not {num_steps}")
        times = torch.linspace(self.num_steps, 1, num_steps, dtype=torch.float64).round().long()
        return [int(t) for t in times]


def diffuse(z0: Tensor, t: Tensor, noise: Tensor, gaussian: Gaussian, schedule: Schedule) -> Tensor:
    """z_t [N, D] from z_0 in one jump: mean sqrt(abar) z_0 + (1 - sqrt(abar)) mu, covariance (1 -
    abar) Sigma.
    """
    abar = schedule.abar.to(z0.device)[t][:, None]  # [N, 1], float64: 1 - abar starts at 1e-4
    signal, spread = abar.sqrt().to(z0.dtype), (1 - abar).sqrt().to(z0.dtype)
    return gaussian.mean + signal * (z0 - gaussian.mean) + spread * gaussian.color(noise)


@dataclass(frozen=True)
class LinearStep:
    """One reverse step x_s = on_x0 x_0 + on_xt x_t + sigma Sigma^{1/2} n, in x = z - mu."""

    on_x0: float
    on_xt: float
    sigma: float


def ddim_step(schedule: Schedule, t: int, s: int, *, eta: float) -> LinearStep:
    """Step from time t to s < t (arXiv:2010.02502, eq. 12 and 16). eta = 0 is deterministic; eta =
    1 is ancestral sampling: over neighbouring times it is the posterior q(z_{t-1} | z_t, z_0) of
    the paper.
    """
    abar_t, abar_s = float(schedule.abar[t]), float(schedule.abar[s])
    variance = eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    on_noise = math.sqrt(max(1 - abar_s - variance, 0.0))
    on_xt = on_noise / math.sqrt(1 - abar_t)
    return LinearStep(math.sqrt(abar_s) - on_xt * math.sqrt(abar_t), on_xt, math.sqrt(variance))


def sample(
    denoise: Denoiser,
    noise: NoiseSource,
    gaussian: Gaussian,
    schedule: Schedule,
    *,
    num_steps: int,
    eta: float = 1.0,
) -> Tensor:
    """z_0 [N, D] from z_T ~ N(mu, Sigma), through `num_steps` evaluations of `denoise`.

    `noise(i)` gives the i-th standard normal [N, D]: 0 is the start, i > 0 the i-th step's.
    """
    x = gaussian.color(noise(0))
    times = [*schedule.subset(num_steps), 0]
    for number, (t, s) in enumerate(pairwise(times), start=1):
        x0 = denoise(gaussian.mean + x, t) - gaussian.mean
        step = ddim_step(schedule, t, s, eta=eta)
        x = step.on_x0 * x0 + step.on_xt * x
        if step.sigma > 0:
            x = x + step.sigma * gaussian.color(noise(number))
    return gaussian.mean + x


def guide(with_text: Tensor, without_text: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of a z_0 prediction, rescaled to the norm of the conditional one
    (arXiv:2207.12598).

    Predictions early in the chain rightly have norms below 1, so the norm kept is the conditional
    one's, not 1.
    """
    guided = without_text + scale * (with_text - without_text)
    norm = with_text.norm(dim=1, keepdim=True)
    return guided * (norm / guided.norm(dim=1, keepdim=True).clamp(min=1e-12))
