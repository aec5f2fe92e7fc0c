"""What a perfect prior would reach on the narrow cone (training/data/cone.py), in closed form: the
error that is left is the sampler's, so that a network's error can be told from it.

Before it is normalised, an embedding of the cone is normal given its text and its name's width,
N(mu + c, V), all covariances sharing their axes; here each name has the mean width. The exact
denoiser is then linear along each axis, and so is every step of a sampler: moments can be followed
instead of samples. `python -m training.prior.exact` prints the table of docs/prior.md.

Shape letters: D axes.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lafite_shifted.prior.diffusion import Sampler, Schedule, ScheduleConfig, plan
from training.data.cone import BETWEEN, DIM, NORM_OF_MEAN, TEXT_NOISE

STEPS = (1, 2, 4, 8, 16, 64)


@dataclass(frozen=True)
class ExactResult:
    """Of the embeddings that a perfect prior samples."""

    fd_clip: float  # to the true ones
    spread: float  # variance within a text, over the true one


class _Linear(NamedTuple):
    """A sample, as a linear function of the text and of the first noise, along each axis."""

    told: Tensor  # [D]
    started: Tensor  # [D]


def spectrum() -> Tensor:
    """Eigenvalues [D] of the cone's covariance, float64."""
    falling = 1 / torch.arange(1, DIM + 1, dtype=torch.float64)
    return falling * (1 - NORM_OF_MEAN**2) / falling.sum()


def exact_prior(
    noise: Tensor, *, schedule: Schedule, steps: int, sampler: Sampler = "ancestral"
) -> ExactResult:
    """Sampling with the exact denoiser, from a Gaussian of variances `noise` [D]; where its mean
    lies does not matter to a denoiser that knows it.
    """
    variance = spectrum()
    unknown = TEXT_NOISE**2 / (1 + TEXT_NOISE**2)  # share of a name's deviation the text hides
    within = variance * (BETWEEN * unknown + 1 - BETWEEN)  # V
    told = variance * BETWEEN * (1 - unknown)  # variance of c
    # z_t = told_part c + started n_0 + what later noise adds, independent of both
    found = _Linear(torch.zeros_like(noise), noise.sqrt())
    previous, later = found, torch.zeros_like(noise)
    for time, step in plan(schedule, num_steps=steps, sampler=sampler):
        signal = float(schedule.abar[time]) ** 0.5
        # E[z_0 | z_t] = c + gain (z_t - signal c)
        gain = signal * within / (signal**2 * within + (1 - signal**2) * noise)
        prediction = _Linear(1 - gain * signal + gain * found.told, gain * found.started)
        found = _Linear(
            *(
                step.on_x0 * new + step.on_xt * old + step.on_previous * last
                for new, old, last in zip(prediction, found, previous, strict=True)
            )
        )
        later = (step.on_xt + step.on_x0 * gain).square() * later + step.sigma**2 * noise
        previous = prediction
    spread = found.started.square() + later
    sampled, true = found.told.square() * told + spread, told + within
    distance = (sampled.sqrt() - true.sqrt()).square().sum()
    return ExactResult(float(distance), float(spread.sum() / within.sum()))


def table() -> str:
    """Markdown: Frechet distance, and in brackets the share of the variance within a text."""
    total = float(spectrum().sum())
    gaussians = {
        "full": spectrum(),
        "isotropic, the data's size": torch.full((DIM,), total / DIM, dtype=torch.float64),
        "baseline, I / D": torch.full((DIM,), 1 / DIM, dtype=torch.float64),
    }
    lines = ["| exact denoiser | " + " | ".join(map(str, STEPS)) + " |"]
    lines.append("|" + "---|" * (len(STEPS) + 1))
    ways: list[tuple[Literal["linear", "cosine"], Sampler]] = [
        ("linear", "ancestral"),
        ("cosine", "ancestral"),
        ("linear", "ddim"),
        ("linear", "dpm++"),
    ]
    for name, sampler in ways:
        schedule = Schedule(ScheduleConfig(name=name))
        for label, noise in gaussians.items():
            cells = [
                exact_prior(noise, schedule=schedule, steps=count, sampler=sampler)
                for count in STEPS
            ]
            shown = " | ".join(f"{cell.fd_clip:.4f} ({cell.spread:.2f})" for cell in cells)
            lines.append(f"| {label}, {name}, {sampler} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
