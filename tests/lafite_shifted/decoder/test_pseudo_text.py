"""Pseudo text features: the cosine is exact, the direction is what was asked for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.pseudo_text import pseudo_text
from lafite_shifted.gaussian.gaussian import Gaussian
from tests.references.gaussians import random_covariance, stats_with

DIM = 24


def images_and_noise(rng: torch.Generator, *, count: int = 50) -> tuple[Tensor, Tensor]:
    h = F.normalize(torch.randn(count, DIM, generator=rng, dtype=torch.float64), dim=1)
    return h, torch.randn(count, DIM, generator=rng, dtype=torch.float64)


def narrow_gaussian() -> Gaussian:
    stats = stats_with(np.full(DIM, 0.1), random_covariance(DIM, condition=1000))
    return Gaussian.from_stats(stats, shrinkage=0.0)


@pytest.mark.parametrize("shape", [None, narrow_gaussian()], ids=["isotropic", "gaussian"])
@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9, 1.0])
def test_the_cosine_is_exact(rng: torch.Generator, cosine: float, shape: Gaussian | None):
    h, noise = images_and_noise(rng)
    made = pseudo_text(h, noise, cosine=cosine, gaussian=shape)
    np.testing.assert_allclose((made * h).sum(dim=1), np.full(50, cosine), rtol=0, atol=1e-14)
    np.testing.assert_allclose(made.norm(dim=1), np.ones(50), rtol=0, atol=1e-14)


def test_float32_is_exact_to_rounding(rng: torch.Generator):
    h, noise = (tensor.float() for tensor in images_and_noise(rng))
    made = pseudo_text(h, noise, cosine=0.9, gaussian=narrow_gaussian().to("cpu"))
    assert made.dtype == torch.float32
    torch.testing.assert_close((made * h).sum(dim=1), torch.full((50,), 0.9), rtol=0, atol=1e-6)


def test_the_direction_matches_its_formula(rng: torch.Generator):
    """h' = c h + sqrt(1 - c^2) u, u the part of Sigma^{1/2} n across h, of unit length."""
    h, noise = images_and_noise(rng, count=5)
    gaussian = narrow_gaussian()
    made = pseudo_text(h, noise, cosine=0.8, gaussian=gaussian).numpy()
    for row, image, colored in zip(made, h.numpy(), gaussian.color(noise).numpy(), strict=True):
        across = colored - (colored @ image) * image
        expected = 0.8 * image + 0.6 * across / np.linalg.norm(across)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-14)


def test_shaped_noise_follows_the_covariance(rng: torch.Generator):
    """Most of what is added lies along the largest axis; isotropic noise has none to prefer."""
    h, noise = images_and_noise(rng, count=2000)
    gaussian = narrow_gaussian()
    largest = gaussian.basis[:, gaussian.eigenvalues.argmax()]
    h = F.normalize(h - (h @ largest)[:, None] * largest, dim=1)  # nothing along it to begin with
    shaped = ((pseudo_text(h, noise, cosine=0.5, gaussian=gaussian) @ largest) ** 2).mean()
    isotropic = ((pseudo_text(h, noise, cosine=0.5) @ largest) ** 2).mean()
    share = float(gaussian.eigenvalues.max() / gaussian.eigenvalues.sum())
    assert float(isotropic) == pytest.approx(0.75 / (DIM - 1), rel=0.1)
    assert float(shaped) == pytest.approx(0.75 * share, rel=0.15)


def test_a_cosine_of_one_is_the_embedding_itself(rng: torch.Generator):
    h, noise = images_and_noise(rng)
    assert pseudo_text(h, noise, cosine=1.0).equal(h)


@pytest.mark.parametrize("cosine", [-0.1, 1.01])
def test_impossible_cosines_are_refused(rng: torch.Generator, cosine: float):
    with pytest.raises(ValueError, match="cosine must be in"):
        pseudo_text(*images_and_noise(rng), cosine=cosine)
