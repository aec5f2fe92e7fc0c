"""A Gaussian of embeddings: spectrum, shrinkage, floor, whitening and casts."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.gaussian import CovarianceType, Gaussian, ledoit_wolf
from lafite_shifted.gaussian.stats import EmbeddingStats
from tests.lafite_shifted.gaussian.rows import embeddings
from tests.references import gaussians as reference

KINDS: list[CovarianceType] = ["full", "diagonal", "isotropic"]


def gaussian_of(
    rows: Tensor,
    kind: CovarianceType = "full",
    *,
    shrinkage: float | None = 0.0,
    floor: float = 0.0,
) -> Gaussian:
    stats = EmbeddingStats.of(rows)
    return Gaussian.from_stats(stats, covariance_type=kind, shrinkage=shrinkage, floor=floor)


def covariance_of_kind(rows: Tensor, kind: CovarianceType) -> np.ndarray:
    covariance = np.cov(rows.numpy().astype(np.float64), rowvar=False)
    if kind == "full":
        return covariance
    diagonal = np.diag(np.diag(covariance))
    return (
        diagonal
        if kind == "diagonal"
        else np.eye(len(covariance)) * np.trace(diagonal) / len(diagonal)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gaussian_covariance_matches_numpy(kind: CovarianceType):
    rows = embeddings(300, 8)
    gaussian = gaussian_of(rows, kind)
    expected = covariance_of_kind(rows, kind)
    np.testing.assert_allclose(gaussian.covariance, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(gaussian.variances, np.diag(expected), rtol=1e-10)
    np.testing.assert_allclose(gaussian.mean, rows.double().mean(dim=0), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_color_matches_scipy_square_root(kind: CovarianceType):
    rows = embeddings(300, 8)
    root = gaussian_of(rows, kind).color(torch.eye(8, dtype=torch.float64))
    expected = scipy.linalg.sqrtm(covariance_of_kind(rows, kind)).real
    np.testing.assert_allclose(root, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_unwhiten_undoes_whiten(kind: CovarianceType):
    rows = embeddings(300, 8).double()
    gaussian = gaussian_of(rows, kind)
    torch.testing.assert_close(gaussian.unwhiten(gaussian.whiten(rows)), rows, rtol=0, atol=1e-11)
    deviation = rows - gaussian.mean
    assert gaussian.whiten_deviation(deviation).equal(gaussian.whiten(rows))


def test_whitened_rows_have_identity_covariance():
    rows = embeddings(300, 8).double()
    whitened = EmbeddingStats.of(gaussian_of(rows).whiten(rows))
    np.testing.assert_allclose(whitened.mean, np.zeros(8), rtol=0, atol=1e-10)
    np.testing.assert_allclose(whitened.covariance, np.eye(8), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_standardised_rows_have_unit_variance_and_keep_their_correlation(kind: CovarianceType):
    rows = embeddings(300, 8).double()
    standardised = EmbeddingStats.of(gaussian_of(rows, kind).standardise(rows))
    np.testing.assert_allclose(standardised.mean, np.zeros(8), rtol=0, atol=1e-10)
    if kind != "isotropic":
        correlation = np.corrcoef(rows.numpy(), rowvar=False)
        np.testing.assert_allclose(standardised.covariance, correlation, rtol=0, atol=1e-10)
    assert float(standardised.covariance.diagonal().mean()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_whitened_norm_matches_scipys_mahalanobis(kind: CovarianceType):
    rows = embeddings(50, 5).double()
    gaussian = gaussian_of(rows, kind)
    inverse = np.linalg.inv(covariance_of_kind(rows, kind))
    mean = rows.numpy().mean(axis=0)
    expected = [scipy.spatial.distance.mahalanobis(row, mean, inverse) for row in rows.numpy()]
    np.testing.assert_allclose(gaussian.whiten(rows).norm(dim=1), expected, rtol=1e-9)


def test_shrinkage_moves_the_covariance_towards_its_mean_variance():
    rows = embeddings(100, 6)
    covariance = np.cov(rows.numpy().astype(np.float64), rowvar=False)
    expected = 0.7 * covariance + 0.3 * np.eye(6) * np.trace(covariance) / 6
    full = gaussian_of(rows, shrinkage=0.3).covariance
    np.testing.assert_allclose(full, expected, rtol=0, atol=1e-14)
    diagonal = gaussian_of(rows, "diagonal", shrinkage=0.3).variances
    np.testing.assert_allclose(diagonal, np.diag(expected), rtol=1e-12)


@pytest.mark.parametrize("count", [3, 10, 100])
def test_default_shrinkage_matches_ledoit_and_wolf(count: int):
    rows = embeddings(count, 7)
    stats = EmbeddingStats.of(rows)
    expected = reference.ledoit_wolf_weight(rows.double().numpy())
    assert ledoit_wolf(stats) == pytest.approx(expected, rel=1e-9)
    by_default = Gaussian.from_stats(stats, floor=0.0).covariance
    by_weight = Gaussian.from_stats(stats, shrinkage=expected, floor=0.0).covariance
    torch.testing.assert_close(by_default, by_weight, rtol=1e-12, atol=1e-15)


def test_default_shrinkage_fades_with_the_count():
    weights = [ledoit_wolf(EmbeddingStats.of(embeddings(n, 7))) for n in (10, 100, 10_000)]
    assert weights == sorted(weights, reverse=True)
    assert 0 < weights[-1] < 0.001


def test_shrinkage_brings_a_covariance_of_few_samples_closer_to_the_truth():
    """Heavy tails, 40 samples of 20 dimensions: what the estimate is for."""
    rng = np.random.default_rng(0)
    truth = reference.random_covariance(20, condition=30)
    root = scipy.linalg.sqrtm(truth).real
    errors = np.zeros(2)
    for _ in range(20):
        rows = torch.from_numpy(rng.standard_t(6, size=(40, 20)) / 1.5**0.5 @ root)
        for number, shrinkage in enumerate((None, 0.0)):
            found = gaussian_of(rows, shrinkage=shrinkage).covariance.numpy()
            errors[number] += np.square(found - truth).sum()
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("shrinkage", [None, 0.0])
def test_fewer_samples_than_dimensions_give_a_floored_gaussian(shrinkage: float | None):
    rows = embeddings(300, 512).double()
    stats = EmbeddingStats.of(rows)
    gaussian = Gaussian.from_stats(stats, shrinkage=shrinkage)
    mean_variance = float(stats.covariance.trace()) / 512
    assert float(gaussian.eigenvalues.min()) >= 0.01 * mean_variance * (1 - 1e-9)
    error = torch.randn(4, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = error.norm(dim=1) / (0.01 * mean_variance) ** 0.5
    assert (gaussian.whiten_deviation(error).norm(dim=1) <= bound).all()
    torch.testing.assert_close(gaussian.unwhiten(gaussian.whiten(rows)), rows, rtol=0, atol=1e-10)


def test_the_floor_is_one_percent_of_the_mean_and_applied_once():
    """A second floor would see the mean that the first has raised."""
    spectrum = np.array([4.0, 1.0, 0.02, 1e-6, 0.0])
    stats = reference.stats_with(np.zeros(5), np.diag(spectrum))
    gaussian = Gaussian.from_stats(stats, shrinkage=0.0)
    expected = np.maximum(spectrum, 0.01 * spectrum.mean())
    np.testing.assert_allclose(np.sort(gaussian.eigenvalues)[::-1], expected, rtol=1e-9)
    np.testing.assert_allclose(gaussian.covariance, np.diag(expected), rtol=0, atol=1e-9)
    np.testing.assert_allclose(gaussian.variances, expected, rtol=1e-9)
    identity = torch.eye(5, dtype=torch.float64)
    np.testing.assert_allclose(gaussian.color(identity), np.diag(expected**0.5), atol=1e-8)
    np.testing.assert_allclose(gaussian.whiten(identity), np.diag(expected**-0.5), atol=1e-7)


def test_casting_keeps_the_roots_of_float64():
    gaussian = gaussian_of(embeddings(100, 16), floor=0.01)
    cast = gaussian.to("cpu")
    noise = torch.eye(16)
    assert cast.color(noise).dtype == cast.eigenvalues.dtype == cast.mean.dtype == torch.float32
    assert cast.color(noise).equal(gaussian.color(noise.double()).float())
    assert gaussian.mean.dtype == torch.float64


def test_standard_is_the_baseline_of_unit_norm():
    standard = Gaussian.standard(64)
    noise = torch.randn(500, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert standard.covariance.equal(torch.eye(64, dtype=torch.float64) / 64)
    assert standard.mean.equal(torch.zeros(64, dtype=torch.float64))
    torch.testing.assert_close(standard.unwhiten(noise), noise / 8)
    torch.testing.assert_close(standard.whiten(noise), noise * 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 10, 48])
def test_identical_embeddings_are_refused(kind: CovarianceType, count: int):
    stats = EmbeddingStats(None, dim=128)
    for row in embeddings(1, 128).repeat(count, 1).split(7):
        stats.update(row)
    with pytest.raises(InputError, match="are the same"):
        Gaussian.from_stats(stats, covariance_type=kind)


def test_a_single_embedding_is_refused():
    with pytest.raises(InputError, match="at least 2"):
        Gaussian.from_stats(EmbeddingStats.of(embeddings(1, 4)))
