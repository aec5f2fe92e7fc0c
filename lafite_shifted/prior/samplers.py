"""Samplers of shifted diffusion: ancestral, DDIM and DPM-Solver++(2M) as linear steps, guidance and
dynamic thresholding.

In x = z - mu the process is DDPM (arXiv:2006.11239) with noise coloured by Sigma^{1/2}, so every
linear sampler of DDPM runs here unchanged; no inverse of Sigma is needed. Shape letters: N batch,
D embedding, T steps. Time t counts from 1 (least noise) to T.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lafite_shifted.prior.diffusion import NoiseGaussian, Schedule

Denoiser = Callable[[Tensor, int], Tensor]  # (z_t [N, D], t) -> z_0 [N, D]


NoiseSource = Callable[[int], Tensor]  # step number (0 = start) -> standard normal [N, D]


# (step number from 0, its time t, z [N, D] after the step) -> another z to continue with, or None
StepCallback = Callable[[int, int, Tensor], Tensor | None]


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
    on_step: StepCallback | None = None,
) -> Tensor:
    """z_0 [N, D] from z_T ~ N(mu, Sigma), by the steps of a `plan`.

    `noise(i)` gives the i-th standard normal [N, D]: 0 is the start, i > 0 the i-th step's.
    `on_step` is called after each step.
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
        if on_step is not None:
            other = on_step(number - 1, t, gaussian.mean + x)
            x = x if other is None else other - gaussian.mean
    return gaussian.mean + x


def clamp_dynamically(y0: Tensor, quantile: float, *, percentile: float) -> Tensor:
    """Dynamic thresholding (arXiv:2205.11487, section 2.3) of predictions y_0 [N, D] in whitened
    coordinates: clamped to the percentile of |y_0| of the row, or to `quantile` if that is more,
    and scaled back to `quantile`, which is the data's own percentile there.
    """
    largest = torch.quantile(y0.abs(), percentile / 100, dim=1, keepdim=True).clamp(min=quantile)
    return y0.clamp(-largest, largest) * (quantile / largest)


def guide(with_text: Tensor, without_text: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance of a z_0 prediction by `scale`, a number or [N, 1], rescaled to the
    norm of the conditional one (arXiv:2207.12598).

    Predictions early in the chain rightly have norms below 1, so the norm kept is the conditional
    one's, not 1.
    """
    guided = without_text + scale * (with_text - without_text)
    norm = with_text.norm(dim=1, keepdim=True)
    return guided * (norm / guided.norm(dim=1, keepdim=True).clamp(min=1e-12))
