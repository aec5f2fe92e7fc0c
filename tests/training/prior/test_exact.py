"""A perfect prior on the cone: closed forms against samples, and what they say of samplers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lafite_shifted.gaussian.frechet import frechet_distance
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.diffusion import Sampler, Schedule, ScheduleConfig, plan, sample
from training.data.cone import BETWEEN, DIM, TEXT_NOISE
from training.prior.exact import exact_prior, spectrum

LINEAR = Schedule(ScheduleConfig())
BASELINE = torch.full((DIM,), 1 / DIM, dtype=torch.float64)


def drawn(noise: Tensor, *, steps: int, sampler: Sampler, count: int) -> tuple[Tensor, Tensor]:
    """True embeddings and those of the library's own samplers with the exact denoiser."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(count, DIM, dtype=torch.float64, generator=generator)

    variance = spectrum()
    unknown = TEXT_NOISE**2 / (1 + TEXT_NOISE**2)
    within = variance * (BETWEEN * unknown + 1 - BETWEEN)
    told = (variance * BETWEEN * (1 - unknown)).sqrt() * normal()
    gaussian = Gaussian(torch.zeros(DIM).double(), noise, None)

    def denoise(z_t: Tensor, t: int) -> Tensor:
        signal = LINEAR.abar[t] ** 0.5
        precision = 1 / within + signal**2 / ((1 - signal**2) * noise)
        return (told / within + signal * z_t / ((1 - signal**2) * noise)) / precision

    steps_ = plan(LINEAR, num_steps=steps, sampler=sampler)
    found = sample(denoise, lambda _: normal(), gaussian, steps_)
    return told + within.sqrt() * normal(), found


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++"])
@pytest.mark.parametrize("noise", [spectrum(), BASELINE], ids=["full", "baseline"])
def test_it_matches_samples(noise: Tensor, sampler: Sampler):
    true, found = drawn(noise, steps=4, sampler=sampler, count=50_000)
    of = [EmbeddingStats.of(x) for x in (true, found)]
    expected = exact_prior(noise, schedule=LINEAR, steps=4, sampler=sampler)
    assert frechet_distance(*of) == pytest.approx(expected.fd_clip, rel=0.1, abs=5e-4)


def test_one_step_is_regression_whatever_the_gaussian():
    one = [exact_prior(noise, schedule=LINEAR, steps=1) for noise in (spectrum(), BASELINE)]
    for result in one:
        assert result.spread < 0.02
    assert one[0].fd_clip == pytest.approx(one[1].fd_clip, rel=0.02)


def test_more_steps_end_at_the_truth():
    found = [exact_prior(spectrum(), schedule=LINEAR, steps=n).fd_clip for n in (4, 16, 64, 256)]
    assert np.all(np.diff(found) < 0)
    assert found[-1] < 1e-4


def test_four_evaluations_of_the_solver_are_worth_sixteen_ancestral_steps():
    """Why it is the default."""
    four = exact_prior(spectrum(), schedule=LINEAR, steps=4, sampler="dpm++")
    sixteen = exact_prior(spectrum(), schedule=LINEAR, steps=16)
    assert four.fd_clip < sixteen.fd_clip
    assert four.spread > sixteen.spread
    assert (
        four.fd_clip
        < 0.7 * exact_prior(BASELINE, schedule=LINEAR, steps=4, sampler="dpm++").fd_clip
    )
