"""The sampler on a toy that is Gaussian throughout: every moment has a closed form.

Shape letters: N batch, D embedding.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from lafite_shifted.diffusion import Schedule, ScheduleConfig, ddim_step, sample
from lafite_shifted.stats import Gaussian, frechet_distance
from tests.references.gaussians import Array, exact_gaussian, random_covariance, stats_with

LINEAR = Schedule(ScheduleConfig())
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

    def affine(self, t: int) -> tuple[Array, Array]:
        """A, b with E[z_0 | z_t] = A z_t + b, by conditioning the joint Gaussian of z_0 and z_t."""
        abar = float(LINEAR.abar[t])
        marginal = abar * self.data_covariance + (1 - abar) * self.covariance
        matrix = abar**0.5 * self.data_covariance @ np.linalg.inv(marginal)
        expected_zt = abar**0.5 * self.data_mean + (1 - abar**0.5) * self.mean
        return matrix, self.data_mean - matrix @ expected_zt

    def denoise(self, z: Tensor, t: int) -> Tensor:
        matrix, offset = self.affine(t)
        return z @ torch.from_numpy(matrix).T + torch.from_numpy(offset)

    def moments(self, num_steps: int, *, eta: float) -> tuple[Array, Array]:
        """Mean and covariance of what the sampler returns, through its own linear steps."""
        mean, covariance = np.zeros(DIM), self.covariance  # of x = z - mu
        for t, s in pairwise([*LINEAR.subset(num_steps), 0]):
            step = ddim_step(LINEAR, t, s, eta=eta)
            matrix, offset = self.affine(t)
            on_x = step.on_x0 * matrix + step.on_xt * np.eye(DIM)
            shift = matrix @ self.mean + offset - self.mean
            mean = on_x @ mean + step.on_x0 * shift
            covariance = on_x @ covariance @ on_x.T + step.sigma**2 * self.covariance
        return self.mean + mean, covariance

    def distance_to_data(self, num_steps: int, *, eta: float) -> float:
        made = stats_with(*self.moments(num_steps, eta=eta))
        return frechet_distance(made, stats_with(self.data_mean, self.data_covariance))


@pytest.fixture(params=["shifted", "baseline"])
def toy(request: pytest.FixtureRequest) -> GaussianToy:
    if request.param == "baseline":
        return GaussianToy(Gaussian.standard(DIM))
    return GaussianToy(exact_gaussian(MEAN, 0.5 * random_covariance(DIM, condition=30)))


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_sampled_moments_match_their_closed_form(toy: GaussianToy, num_steps: int, eta: float):
    """Monte Carlo within five standard errors of every entry."""
    count, rng = 40_000, np.random.default_rng(0)
    mean, covariance = toy.moments(num_steps, eta=eta)
    made = sample(
        toy.denoise,
        lambda _: torch.from_numpy(rng.normal(size=(count, DIM))),
        toy.gaussian,
        LINEAR,
        num_steps=num_steps,
        eta=eta,
    ).numpy()
    variances = np.diag(covariance)
    error_of_mean = np.sqrt(variances / count)
    error_of_covariance = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    assert (np.abs(made.mean(axis=0) - mean) <= 5 * error_of_mean).all()
    assert (np.abs(np.cov(made, rowvar=False) - covariance) <= 5 * error_of_covariance).all()


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_the_sampler_is_the_affine_map_of_its_closed_form(
    toy: GaussianToy, num_steps: int, eta: float
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
        LINEAR,
        num_steps=num_steps,
        eta=eta,
    ).numpy()
    mean, covariance = toy.moments(num_steps, eta=eta)
    matrix = made[1:] - made[0]
    np.testing.assert_allclose(made[0], mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix.T @ matrix, covariance, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_more_steps_come_closer_to_the_data(toy: GaussianToy, eta: float):
    distances = [toy.distance_to_data(steps, eta=eta) for steps in (1, 4, 16, 64, 256, 1000)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4
    assert distances[0] > 100 * distances[-1]


def test_one_step_gives_the_mean_of_the_data(toy: GaussianToy):
    """From pure noise the best guess is the mean: hardly any spread."""
    mean, covariance = toy.moments(1, eta=1.0)
    np.testing.assert_allclose(mean, toy.data_mean, rtol=0, atol=0.01)
    assert np.trace(covariance) < 0.001 * np.trace(toy.data_covariance)
