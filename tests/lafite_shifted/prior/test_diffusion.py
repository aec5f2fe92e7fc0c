"""Shifted diffusion against the formulas of its paper, and against DDPM: schedules and steps.

`tests/references/ddpm.py` and `shifted_diffusion.py` are the sources of truth. Shape letters: N
batch, D embedding, T steps.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lafite_shifted.prior.diffusion import Schedule, ScheduleConfig, diffuse
from lafite_shifted.prior.samplers import (
    ddim_step,
)
from tests.lafite_shifted.prior.schedules import COSINE, DIM, LINEAR, MEAN, betas_of, normal
from tests.references import ddpm, shifted_diffusion
from tests.references.gaussians import exact_gaussian, random_covariance

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
