"""Shifted diffusion against the formulas of its paper, and against DDPM.

`tests/references/ddpm.py` and `shifted_diffusion.py` are the sources of truth. Shape letters: N
batch, D embedding, T steps.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.prior.diffusion import Schedule, ScheduleConfig, diffuse
from lafite_shifted.prior.samplers import (
    SamplerConfig,
    clamp_dynamically,
    ddim_step,
    guide,
    plan,
    sample,
)
from tests.references import ddpm, shifted_diffusion
from tests.references.gaussians import Array, exact_gaussian, random_covariance

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


# --- schedules


def test_linear_schedule_matches_its_product():
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(LINEAR.abar, [1.0, *np.cumprod(1 - betas)], rtol=1e-12)
    np.testing.assert_allclose(LINEAR.beta, [0.0, *betas], rtol=1e-13)


def test_cosine_schedule_matches_its_formula():
    """arXiv:2102.09672, eq. 17: f(t) / f(0), except where beta is clipped at the very end."""
    time = np.arange(1001) / 1000
    level = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(COSINE.abar[:1000], level[:1000] / level[0], rtol=1e-9)
    assert float(COSINE.beta[1000]) == 0.999
    assert float(COSINE.abar[1000]) > 0


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
def test_noise_levels_fall_from_one_to_almost_nothing(schedule: Schedule):
    assert float(schedule.abar[0]) == 1.0
    assert (schedule.abar.diff() < 0).all()
    assert 0 < float(schedule.abar[-1]) < 1e-4


@given(total=st.integers(1, 300), data=st.data())
def test_subset_runs_down_evenly(total: int, data: st.DataObject):
    num_steps = data.draw(st.integers(1, total))
    times = Schedule(ScheduleConfig(num_steps=total)).subset(num_steps)
    assert len(times) == num_steps
    assert times[0] == total
    gaps = [t - s for t, s in pairwise([*times, 0])]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_subsets_beyond_the_schedule_are_refused(num_steps: int):
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        LINEAR.subset(num_steps)


@pytest.mark.parametrize(
    "changes",
    [{"num_steps": 0}, {"beta_first": 0.0}, {"beta_last": 1.0}, {"beta_first": 0.03}],
)
def test_impossible_schedules_are_refused(changes: dict):
    with pytest.raises(ValueError, match=r"num_steps|beta_first"):
        ScheduleConfig(**changes)


# --- the forward process


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("t", [1, 2, 37, 500, 1000])
def test_forward_jump_equals_iterated_steps(schedule: Schedule, t: int):
    covariance = random_covariance(DIM, condition=100)
    gaussian = exact_gaussian(MEAN, covariance)
    z0 = normal(1, DIM)
    mean, spread = shifted_diffusion.forward_moments(
        z0[0].numpy(), t, MEAN, covariance, betas_of(schedule)
    )
    times = torch.full((DIM,), t)
    start = z0.expand(DIM, -1)
    still = diffuse(start, times, torch.zeros(DIM, DIM).double(), gaussian, schedule)
    root = diffuse(start, times, torch.eye(DIM).double(), gaussian, schedule) - still
    np.testing.assert_allclose(still[0], mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(root.T @ root, spread, rtol=0, atol=1e-12)


def test_every_row_is_diffused_to_its_own_time():
    gaussian = exact_gaussian(MEAN, random_covariance(DIM, condition=10))
    z0, noise, times = normal(3, DIM), normal(3, DIM, seed=1), torch.tensor([1, 400, 1000])
    together = diffuse(z0, times, noise, gaussian, LINEAR)
    for row, t in enumerate(times):
        alone = diffuse(z0[row : row + 1], t[None], noise[row : row + 1], gaussian, LINEAR)
        torch.testing.assert_close(together[row], alone[0], rtol=1e-13, atol=1e-13)


def test_float32_keeps_the_precision_of_the_least_noise():
    """1 - abar is 1e-4 at the first time: taken in float32 it would lose three digits."""
    gaussian = exact_gaussian(MEAN, random_covariance(DIM, condition=10))
    z0, noise, times = normal(4, DIM), normal(4, DIM, seed=1), torch.ones(4, dtype=torch.long)
    exact = diffuse(z0, times, noise, gaussian, LINEAR) - diffuse(
        z0, times, 0 * noise, gaussian, LINEAR
    )
    origin = gaussian.mean.float().expand(4, -1)
    rounded = diffuse(origin, times, noise.float(), gaussian.to("cpu"), LINEAR) - origin
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=2e-7)


# --- one reverse step


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
@pytest.mark.parametrize("condition", [1, 1e4, 1e8])
@pytest.mark.parametrize("t", [2, 3, 50, 999, 1000])
def test_posterior_matches_the_papers_nu_and_lambda(schedule: Schedule, condition: float, t: int):
    covariance = random_covariance(DIM, condition=condition)
    gaussian = exact_gaussian(MEAN, covariance)
    z0, zt = normal(3, DIM), normal(3, DIM, seed=1)
    step = ddim_step(schedule, t, t - 1, eta=1.0)
    mean = gaussian.mean + step.on_x0 * (z0 - gaussian.mean) + step.on_xt * (zt - gaussian.mean)
    root = step.sigma * gaussian.color(torch.eye(DIM, dtype=torch.float64))
    nu, spread = shifted_diffusion.posterior(
        z0.numpy(), zt.numpy(), t, MEAN, covariance, betas_of(schedule)
    )
    np.testing.assert_allclose(mean, nu, rtol=0, atol=1e-12 * np.abs(nu).max())
    np.testing.assert_allclose(root.T @ root, spread, rtol=0, atol=1e-12 * spread.max())


@pytest.mark.parametrize("condition", [1, 1e4, 1e8])
@pytest.mark.parametrize("t", [2, 50, 1000])
def test_the_papers_posterior_reduces_to_ddpm_in_whitened_coordinates(condition: float, t: int):
    """The identity behind everything here; rounding grows with the root of the condition number."""
    covariance = random_covariance(DIM, condition=condition)
    gaussian = exact_gaussian(MEAN, covariance)
    z0, zt = normal(3, DIM), normal(3, DIM, seed=1)
    y0, yt = gaussian.whiten(z0).numpy(), gaussian.whiten(zt).numpy()
    mean, variance = ddpm.posterior(y0, yt, t, betas_of(LINEAR))
    nu, spread = shifted_diffusion.posterior(
        z0.numpy(), zt.numpy(), t, MEAN, covariance, betas_of(LINEAR)
    )
    tolerance = 1e-12 + 1e-15 * condition**0.5
    found = gaussian.unwhiten(torch.from_numpy(mean))
    np.testing.assert_allclose(found, nu, rtol=0, atol=tolerance * np.abs(nu).max())
    np.testing.assert_allclose(variance * covariance, spread, rtol=0, atol=1e-12 * spread.max())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_last_step_is_the_prediction_itself(eta: float):
    for t in (1, 10, 1000):
        step = ddim_step(LINEAR, t, 0, eta=eta)
        assert (step.on_x0, step.on_xt, step.sigma) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(1000, 875), (500, 499), (2, 1)])
def test_reverse_steps_keep_the_marginal(t: int, s: int, eta: float):
    """From q(z_t | z_0), with the true z_0, every eta lands on q(z_s | z_0) (arXiv:2010.02502,
    lemma 1).
    """
    step = ddim_step(LINEAR, t, s, eta=eta)
    abar_t, abar_s = float(LINEAR.abar[t]), float(LINEAR.abar[s])
    assert step.on_x0 + step.on_xt * abar_t**0.5 == pytest.approx(abar_s**0.5, rel=1e-12)
    variance = step.on_xt**2 * (1 - abar_t) + step.sigma**2
    assert variance == pytest.approx(1 - abar_s, rel=1e-10)
    assert (step.sigma == 0) == (eta == 0)


# --- whole chains


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
