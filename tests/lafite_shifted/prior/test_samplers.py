"""Whole chains against DDPM, DDIM and DPM-Solver++; thresholding and guidance.

Shape letters: N batch, D embedding, T steps.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.prior.diffusion import Schedule, diffuse
from lafite_shifted.prior.samplers import (
    SamplerConfig,
    clamp_dynamically,
    guide,
    plan,
    sample,
)
from tests.lafite_shifted.prior.schedules import (
    COSINE,
    DIM,
    LINEAR,
    MEAN,
    betas_of,
    noise_list,
    normal,
)
from tests.references import ddpm
from tests.references.gaussians import Array, exact_gaussian, random_covariance


def curved_denoiser(seed: int) -> Callable[[Array, int], Array]:
    """Some z_0 that depends on z_t and t, not linearly, within bounds."""
    matrix = np.random.default_rng(seed).normal(size=(DIM, DIM)) / DIM**0.5
    return lambda z, t: np.tanh(z @ matrix + t / 1000) * 0.5


def on_tensors(denoise: Callable[[Array, int], Array]) -> Callable[[Tensor, int], Tensor]:
    return lambda z, t: torch.from_numpy(denoise(z.numpy(), t))


def whitened(
    denoise: Callable[[Array, int], Array], mean: Array, covariance: Array
) -> Callable[[Array, int], Array]:
    """The same denoiser of y = Sigma^{-1/2} (z - mu), by scipy."""
    root = scipy.linalg.sqrtm(covariance).real
    inverse = np.linalg.inv(root)
    return lambda y, t: (denoise(mean + y @ root, t) - mean) @ inverse


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
def test_the_whole_chain_reduces_to_ddpm_in_whitened_coordinates(schedule: Schedule):
    covariance = random_covariance(DIM, condition=100)
    denoise = curved_denoiser(0)
    noises = noise_list(1001, 4)
    found = sample(
        on_tensors(denoise),
        noises.__getitem__,
        exact_gaussian(MEAN, covariance),
        plan(schedule, num_steps=1000),
    )
    y0 = ddpm.ancestral_chain(
        whitened(denoise, MEAN, covariance), [n.numpy() for n in noises], betas_of(schedule)
    )
    expected = MEAN + y0 @ scipy.linalg.sqrtm(covariance).real
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_strided_chains_reduce_to_ddim_in_whitened_coordinates(num_steps: int, eta: float):
    covariance = random_covariance(DIM, condition=100)
    denoise = curved_denoiser(1)
    noises = noise_list(num_steps + 1, 4)
    found = sample(
        on_tensors(denoise),
        noises.__getitem__,
        exact_gaussian(MEAN, covariance),
        plan(LINEAR, num_steps=num_steps, sampler="ddim", eta=eta),
    )
    y0 = ddpm.strided_chain(
        whitened(denoise, MEAN, covariance),
        [n.numpy() for n in noises],
        betas_of(LINEAR),
        LINEAR.subset(num_steps),
        eta=eta,
    )
    expected = MEAN + y0 @ scipy.linalg.sqrtm(covariance).real
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_the_baseline_is_ddpm_on_scaled_embeddings():
    """DALL-E 2 diffuses sqrt(D) z with unit noise."""
    denoise = curved_denoiser(2)
    noises = noise_list(9, 4)
    gaussian = Gaussian.standard(DIM)
    found = sample(on_tensors(denoise), noises.__getitem__, gaussian, plan(LINEAR, num_steps=8))
    expected = ddpm.strided_chain(
        lambda y, t: DIM**0.5 * denoise(y / DIM**0.5, t),
        [n.numpy() for n in noises],
        betas_of(LINEAR),
        LINEAR.subset(8),
        eta=1.0,
    )
    np.testing.assert_allclose(found, expected / DIM**0.5, rtol=0, atol=1e-12)
    z0, t = normal(4, DIM), 300
    jumped = diffuse(z0, torch.full((4,), t), noises[0], gaussian, LINEAR)
    scaled = ddpm.forward_jump(DIM**0.5 * z0.numpy(), t, noises[0].numpy(), betas_of(LINEAR))
    np.testing.assert_allclose(jumped * DIM**0.5, scaled, rtol=0, atol=1e-12)


def test_one_step_returns_the_prediction_from_the_start_distribution():
    gaussian = exact_gaussian(MEAN, random_covariance(DIM, condition=10))
    seen = []

    def denoise(z: Tensor, t: int) -> Tensor:
        seen.append((z, t))
        return 2 * z

    start = normal(4, DIM)
    found = sample(denoise, lambda _: start, gaussian, plan(LINEAR, num_steps=1))
    assert [t for _, t in seen] == [1000]
    torch.testing.assert_close(seen[0][0], gaussian.unwhiten(start), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found, 2 * gaussian.unwhiten(start), rtol=1e-13, atol=1e-13)


# --- DPM-Solver++(2M)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
def test_dpm_steps_match_the_papers_algorithm(schedule: Schedule, num_steps: int):
    """arXiv:2211.01095, algorithm 2, written out in whitened coordinates."""
    covariance = random_covariance(DIM, condition=100)
    denoise = curved_denoiser(1)
    start = normal(4, DIM)
    found = sample(
        on_tensors(denoise),
        lambda _: start,
        exact_gaussian(MEAN, covariance),
        plan(schedule, num_steps=num_steps, sampler="dpm++"),
    )
    times = schedule.subset(num_steps, spacing="log_snr")
    y0 = ddpm.dpm_solver_chain(
        whitened(denoise, MEAN, covariance), start.numpy(), betas_of(schedule), times
    )
    expected = MEAN + y0 @ scipy.linalg.sqrtm(covariance).real
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 64, 999, 1000])
def test_log_snr_spacing_falls_evenly(schedule: Schedule, num_steps: int):
    times = schedule.subset(num_steps, spacing="log_snr")
    assert times[0] == 1000
    assert len(times) == len(set(times)) == num_steps
    assert times == sorted(times, reverse=True)
    if num_steps >= 64:
        assert times[-1] == 1
    if num_steps == 8:
        levels = schedule.half_log_snr[times]
        gaps = levels.diff()[1:]  # the first is from all noise to where it becomes interesting
        assert float(gaps.std() / gaps.mean()) < 0.05
        assert float(levels[-1]) == pytest.approx(2.5, abs=0.05)


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"best_of": 0}, {"eta": 1.5}, {"eta": -0.1}, {"guidance": math.nan}]
)
def test_impossible_ways_of_sampling_are_refused(changes: dict):
    with pytest.raises(ValueError, match=next(iter(changes))):
        SamplerConfig(**changes)


# --- thresholding


def test_thresholding_matches_its_formula():
    """Row by row: a row within the limit is kept, a wider one is clamped and scaled to it."""
    y0 = normal(6, 40) * torch.tensor([0.1, 0.5, 1, 2, 4, 8])[:, None].double()
    found = clamp_dynamically(y0, 2.0, percentile=90)
    for row, made in zip(y0.numpy(), found.numpy(), strict=True):
        largest = max(2.0, np.percentile(np.abs(row), 90))
        np.testing.assert_allclose(made, np.clip(row, -largest, largest) * 2.0 / largest)
    assert found[:2].equal(y0[:2])
    assert float(found.abs().max()) <= 2.0


# --- guidance


def test_guidance_of_one_is_the_conditional_prediction():
    with_text, without = normal(4, DIM), normal(4, DIM, seed=1)
    torch.testing.assert_close(guide(with_text, without, 1.0), with_text)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_guidance_matches_its_formula_and_keeps_the_conditional_norm(scale: float):
    with_text, without = 0.7 * normal(4, DIM), normal(4, DIM, seed=1)
    guided = guide(with_text, without, scale)
    for row, a, b in zip(guided, with_text, without, strict=True):
        direction = b + scale * (a - b)
        expected = direction / direction.norm() * a.norm()
        torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-12)


def test_guidance_between_equal_predictions_changes_nothing():
    prediction = normal(4, DIM)
    torch.testing.assert_close(guide(prediction, prediction, 3.0), prediction)


def test_guidance_to_zero_stays_finite():
    assert guide(normal(1, DIM), torch.zeros(1, DIM).double(), 0.0).isfinite().all()
