"""The sampler on a toy that is Gaussian throughout: every moment has a closed form.

Shape letters: N batch, D embedding.
"""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lafite_shifted.gaussian.frechet import frechet_distance
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.prior.diffusion import Schedule, ScheduleConfig
from lafite_shifted.prior.samplers import Sampler, plan, sample
from tests.references.gaussians import Array, exact_gaussian, random_covariance, stats_with

LINEAR = Schedule(ScheduleConfig())
SAMPLERS = pytest.mark.parametrize(
    ("sampler", "eta"), [("ancestral", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("dpm++", 0.0)]
)
DIM = 6
MEAN = np.linspace(-0.5, 0.7, DIM)


class GaussianToy:
    """Data N(m, C), process N(mu, Sigma): the exact denoiser is affine, so is the whole sampler."""

    def __init__(self, gaussian: Gaussian):
        self.gaussian = gaussian
        self.data_mean = np.array([0.6, -0.2, 0.3, 0.1, -0.4, 0.2])
        self.data_covariance = 0.3 * random_covariance(DIM, condition=20, seed=5)
        self.mean = gaussian.mean.numpy()
        self.covariance = gaussian.covariance.numpy()

    def affine(self, t: int, schedule: Schedule = LINEAR) -> tuple[Array, Array]:
        """A, b with E[z_0 | z_t] = A z_t + b, by conditioning the joint Gaussian of z_0 and z_t."""
        abar = float(schedule.abar[t])
        marginal = abar * self.data_covariance + (1 - abar) * self.covariance
        matrix = abar**0.5 * self.data_covariance @ np.linalg.inv(marginal)
        expected_zt = abar**0.5 * self.data_mean + (1 - abar**0.5) * self.mean
        return matrix, self.data_mean - matrix @ expected_zt

    def denoise(self, z: Tensor, t: int, schedule: Schedule = LINEAR) -> Tensor:
        matrix, offset = self.affine(t, schedule)
        return z @ torch.from_numpy(matrix).T + torch.from_numpy(offset)

    def moments(self, num_steps: int, *, sampler: Sampler, eta: float) -> tuple[Array, Array]:
        """Mean and covariance of what the sampler returns: those of (x, the prediction before)
        through its own linear steps.
        """
        zero = np.zeros((DIM, DIM))
        mean = np.zeros(2 * DIM)  # of x = z - mu, and of x_0'
        covariance = np.block([[self.covariance, zero], [zero, zero]])
        for t, step in plan(LINEAR, num_steps=num_steps, sampler=sampler, eta=eta):
            matrix, offset = self.affine(t)
            shift = matrix @ self.mean + offset - self.mean  # x_0 = matrix x + shift
            on_x = step.on_x0 * matrix + step.on_xt * np.eye(DIM)
            on_both = np.block([[on_x, step.on_previous * np.eye(DIM)], [matrix, zero]])
            mean = on_both @ mean + np.concatenate([step.on_x0 * shift, shift])
            covariance = on_both @ covariance @ on_both.T
            covariance[:DIM, :DIM] += step.sigma**2 * self.covariance
        return self.mean + mean[:DIM], covariance[:DIM, :DIM]

    def distance_to_data(self, num_steps: int, *, sampler: Sampler, eta: float) -> float:
        made = stats_with(*self.moments(num_steps, sampler=sampler, eta=eta))
        return frechet_distance(made, stats_with(self.data_mean, self.data_covariance))


@pytest.fixture(params=["shifted", "baseline"])
def toy(request: pytest.FixtureRequest) -> GaussianToy:
    if request.param == "baseline":
        return GaussianToy(Gaussian.standard(DIM))
    return GaussianToy(exact_gaussian(MEAN, 0.5 * random_covariance(DIM, condition=30)))


@SAMPLERS
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_sampled_moments_match_their_closed_form(
    toy: GaussianToy, num_steps: int, sampler: Sampler, eta: float
):
    """Monte Carlo within five standard errors of every entry."""
    count, rng = 40_000, np.random.default_rng(0)
    mean, covariance = toy.moments(num_steps, sampler=sampler, eta=eta)
    made = sample(
        toy.denoise,
        lambda _: torch.from_numpy(rng.normal(size=(count, DIM))),
        toy.gaussian,
        plan(LINEAR, num_steps=num_steps, sampler=sampler, eta=eta),
    ).numpy()
    variances = np.diag(covariance)
    error_of_mean = np.sqrt(variances / count)
    error_of_covariance = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    assert (np.abs(made.mean(axis=0) - mean) <= 5 * error_of_mean).all()
    assert (np.abs(np.cov(made, rowvar=False) - covariance) <= 5 * error_of_covariance).all()


@SAMPLERS
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_the_sampler_is_the_affine_map_of_its_closed_form(
    toy: GaussianToy, num_steps: int, sampler: Sampler, eta: float
):
    """One row a unit vector of noise gives the whole matrix: no Monte Carlo error."""
    num_noises = num_steps + 1
    rows = 1 + num_noises * DIM
    unit = torch.zeros(rows, num_noises, DIM, dtype=torch.float64)
    unit[1:] = torch.eye(rows - 1, dtype=torch.float64).view(rows - 1, num_noises, DIM)
    made = sample(
        toy.denoise,
        lambda step: unit[:, step],
        toy.gaussian,
        plan(LINEAR, num_steps=num_steps, sampler=sampler, eta=eta),
    ).numpy()
    mean, covariance = toy.moments(num_steps, sampler=sampler, eta=eta)
    matrix = made[1:] - made[0]
    np.testing.assert_allclose(made[0], mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix.T @ matrix, covariance, rtol=0, atol=1e-12)


@SAMPLERS
def test_more_steps_come_closer_to_the_data(toy: GaussianToy, sampler: Sampler, eta: float):
    distances = [
        toy.distance_to_data(steps, sampler=sampler, eta=eta) for steps in (1, 4, 16, 64, 256, 1000)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4
    assert distances[0] > 100 * distances[-1]


def test_one_step_gives_the_mean_of_the_data(toy: GaussianToy):
    """From pure noise the best guess is the mean: hardly any spread."""
    mean, covariance = toy.moments(1, sampler="ancestral", eta=0.0)
    np.testing.assert_allclose(mean, toy.data_mean, rtol=0, atol=0.01)
    assert np.trace(covariance) < 0.001 * np.trace(toy.data_covariance)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpm++", 2)])
def test_deterministic_samplers_converge_at_their_order(
    toy: GaussianToy, sampler: Sampler, order: int
):
    """Twice the steps divide the error by 2 (first order) or 4 (second), once the steps are small:
    against the exact flow, on a schedule fine enough for whole times not to matter.
    """
    fine = Schedule(ScheduleConfig(num_steps=100_000, beta_first=1e-6, beta_last=2e-4))
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(20, DIM)))
    exact = exact_flow(toy, fine, toy.gaussian.color(rows))

    def error(num_steps: int) -> float:
        steps = plan(fine, num_steps=num_steps, sampler=sampler)
        made = sample(lambda z, t: toy.denoise(z, t, fine), lambda _: rows, toy.gaussian, steps)
        return float((made - exact).norm())

    errors = [error(num_steps) for num_steps in (40, 80, 160)]
    found = [np.log2(a / b) for a, b in pairwise(errors)]
    assert found == pytest.approx([order, order], abs=0.35), errors


def exact_flow(toy: GaussianToy, schedule: Schedule, start: Tensor) -> Tensor:
    """Where the probability flow takes x_T [N, D]: for Gaussian data it maps the marginal of T onto
    that of 1, each simultaneous eigendirection (generalised eigenvectors of C and Sigma) for
    itself; then the mean of z_0 given z_1, as all samplers end.
    """
    values, vectors = scipy.linalg.eigh(toy.data_covariance, toy.covariance)  # V^T Sigma V = I
    first, last = float(schedule.abar[1]), float(schedule.abar[-1])
    widths = [np.sqrt(abar * values + 1 - abar) for abar in (first, last)]
    offset = toy.data_mean - toy.mean
    coordinates = (start.numpy() - last**0.5 * offset) @ vectors  # around the mean of x_T
    moved = coordinates * (widths[0] / widths[1]) @ np.linalg.inv(vectors) + first**0.5 * offset
    return toy.denoise(torch.from_numpy(toy.mean + moved), 1, schedule)
