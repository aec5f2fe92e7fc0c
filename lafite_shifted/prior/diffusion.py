"""Shifted diffusion (arXiv:2211.15388), one process and one set of samplers for every Gaussian.

The forward step is q(z_t | z_{t-1}) = N(sqrt(alpha_t) z_{t-1} + (1 - sqrt(alpha_t)) mu, beta_t
Sigma) (eq. 3 with the shift s_t of section 3.2). In x = z - mu it is DDPM (arXiv:2006.11239) with
noise coloured by Sigma^{1/2}, so every linear sampler of DDPM runs here unchanged; no inverse of
Sigma is needed. The baseline of DALL-E 2 (arXiv:2204.06125) is the same code with mu = 0 and Sigma
= I / D.

Shape letters: N batch, D embedding, T steps. Time t counts from 1 (least noise) to T.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, int], Tensor]  # (z_t [N, D], t) -> z_0 [N, D]
NoiseSource = Callable[[int], Tensor]  # step number (0 = start) -> standard normal [N, D]


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
Sampler = Literal["ancestral", "ddim", "dpm++"]


@dataclass(frozen=True)
class SamplerConfig:
    """Sampler of z_0: few steps and no guidance, because more of either raises the Frechet
    distance or lowers the cosine to the true embedding (docs/prior.md).
    """

    # network evaluations, with guidance two each; None: 4, or the prior's step budget
    steps: int | None = None
    sampler: Sampler | None = None  # None: what suits the prior, "dpm++" or "ancestral"
    eta: float = 0.0  # noise of "ddim": 0 is deterministic, 1 is "ancestral"
    guidance: float = 1.0
    dynamic_threshold: bool = False  # dynamic thresholding of every prediction
    best_of: int = 1  # samples for each text; the closest to the text embedding is returned

    def __post_init__(self) -> None:
        if (self.steps is not None and self.steps < 1) or self.best_of < 1:
            raise ValueError(f"steps {self.steps} and best_of {self.best_of} must be at least 1")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], not {self.eta}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be finite, not {self.guidance}")


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

    def at(self, t: Tensor) -> Tensor:
        """abar at times `t`, float64 of its shape and on its device, which is not waited for."""
        return self.abar.to(t.device, non_blocking=t.is_cuda)[t]

    @property
    def half_log_snr(self) -> Tensor:
        """log(sqrt(abar) / sqrt(1 - abar)), [T + 1] float64; infinite at t = 0."""
        return 0.5 * (self.abar.log() - (1 - self.abar).log())

    def subset(self, num_steps: int, *, spacing: Spacing = "time") -> list[int]:
        """`num_steps` falling times from T on: in time evenly spaced down to 0, where nothing is
        left to predict ("trailing", arXiv:2305.08891, table 2), or evenly in log-SNR (as far as
        whole times allow).

        Half the log-SNR runs up to 0.5 + n / 4, and from -1.5 - n / 8 after the first, both as far
        as T and 1 allow: few network evaluations matter most in the middle, where z_0 is
        decided (`training/prior/exact.py`).
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


@dataclass(frozen=True)
class LinearStep:
    """One reverse step x_s = on_x0 x_0 + on_xt x_t + on_previous x_0' + sigma Sigma^{1/2} n, in x =
    z - mu; x_0' is the prediction of the step before.
    """

    on_x0: float
    on_xt: float
    sigma: float
    on_previous: float = 0.0


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


def dpm_step(schedule: Schedule, t: int, s: int, *, before: int | None) -> LinearStep:
    """Step of DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2) from time t to s < t, after one from
    `before` to t. The first and the last step are of first order: DDIM without noise.
    """
    step = ddim_step(schedule, t, s, eta=0.0)
    if before is None or s == 0:
        return step
    levels = schedule.half_log_snr
    last, now = float(levels[t] - levels[before]), float(levels[s] - levels[t])
    share = step.on_x0 * now / (2 * last)  # of x_0 - x_0', on top of x_0
    return LinearStep(step.on_x0 + share, step.on_xt, 0.0, on_previous=-share)


def plan(
    schedule: Schedule, *, num_steps: int, sampler: Sampler = "ancestral", eta: float = 0.0
) -> list[tuple[int, LinearStep]]:
    """The timesteps of the network evaluations, and the step that follows each; `eta` is DDIM's."""
    if sampler == "dpm++":
        times = schedule.subset(num_steps, spacing="log_snr")
        behind: list[int | None] = [None, *times[:-1]]
        return [
            (t, dpm_step(schedule, t, s, before=before))
            for t, s, before in zip(times, [*times[1:], 0], behind, strict=True)
        ]
    eta = 1.0 if sampler == "ancestral" else eta
    times = schedule.subset(num_steps)
    return [(t, ddim_step(schedule, t, s, eta=eta)) for t, s in pairwise([*times, 0])]


def sample(
    denoise: Denoiser,
    noise: NoiseSource,
    gaussian: NoiseGaussian,
    steps: Sequence[tuple[int, LinearStep]],
) -> Tensor:
    """z_0 [N, D] from z_T ~ N(mu, Sigma), by the steps of a `plan`.

    `noise(i)` gives the i-th standard normal [N, D]: 0 is the start, i > 0 the i-th step's.
    """
    x = gaussian.color(noise(0))
    previous: Tensor | None = None
    for number, (t, step) in enumerate(steps, start=1):
        x0 = denoise(gaussian.mean + x, t) - gaussian.mean
        x = step.on_x0 * x0 + step.on_xt * x
        if step.on_previous != 0 and previous is not None:
            x = x + step.on_previous * previous
        if step.sigma > 0:
            x = x + step.sigma * gaussian.color(noise(number))
        previous = x0
    return gaussian.mean + x


def clamp_dynamically(y0: Tensor, quantile: float, *, percentile: float) -> Tensor:
    """Dynamic thresholding (arXiv:2205.11487, section 2.3) of predictions y_0 [N, D] in whitened
    coordinates: clamped to the percentile of |y_0| of the row, or to `quantile` if that is more,
    and scaled back to `quantile`, which is the data's own percentile there.
    """
    largest = torch.quantile(y0.abs(), percentile / 100, dim=1, keepdim=True).clamp(min=quantile)
    return y0.clamp(-largest, largest) * (quantile / largest)


def guide(with_text: Tensor, without_text: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of a z_0 prediction, rescaled to the norm of the conditional one
    (arXiv:2207.12598).

    Predictions early in the chain rightly have norms below 1, so the norm kept is the conditional
    one's, not 1.
    """
    guided = without_text + scale * (with_text - without_text)
    norm = with_text.norm(dim=1, keepdim=True)
    return guided * (norm / guided.norm(dim=1, keepdim=True).clamp(min=1e-12))
