"""Statistics of embeddings: moments in pieces, Gaussians, the Frechet distance, the cone."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import (
    CovarianceType,
    EmbeddingStats,
    Gaussian,
    cone,
    frechet_distance,
    ledoit_wolf,
    merged,
)
from tests.references import gaussians as reference

KINDS: list[CovarianceType] = ["full", "diagonal", "isotropic"]


def embeddings(count: int, dim: int, *, seed: int = 0) -> Tensor:
    """Unit rows around a common direction, with a spectrum that decays."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1, 0.1, dim)
    rows = (
        torch.randn(count, dim, generator=generator)
        * scale
        @ torch.randn(dim, dim, generator=generator)
    )
    return F.normalize(rows + 2, dim=1)


def gaussian_of(
    rows: Tensor,
    kind: CovarianceType = "full",
    *,
    shrinkage: float | None = 0.0,
    floor: float = 0.0,
) -> Gaussian:
    stats = EmbeddingStats.of(rows)
    return Gaussian.from_stats(stats, covariance_type=kind, shrinkage=shrinkage, floor=floor)


def assert_same_stats(a: EmbeddingStats, b: EmbeddingStats) -> None:
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(a.m2, b.m2, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(a.third, b.third, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(a.fourth, b.fourth, rtol=1e-9, atol=1e-11)


# --- EmbeddingStats


def test_stats_match_numpy():
    rows = embeddings(200, 12)
    stats = EmbeddingStats.of(rows)
    expected = rows.numpy().astype(np.float64)
    assert stats.count == 200
    assert stats.mean.dtype == stats.covariance.dtype == torch.float64
    np.testing.assert_allclose(stats.mean, expected.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        stats.covariance, np.cov(expected, rowvar=False), rtol=1e-11, atol=1e-15
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(2, 40))
def test_merging_pieces_in_any_order_matches_one_piece(data: st.DataObject, count: int):
    rows = embeddings(count, 5) + 100  # far from zero, where a naive sum of squares fails
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    pieces = [rows[i:j] for i, j in zip([0, *cuts], [*cuts, count], strict=True)]
    total = EmbeddingStats(None, dim=5)
    for piece in data.draw(st.permutations(pieces)):
        total.merge(EmbeddingStats.of(piece))
    whole = EmbeddingStats.of(rows)
    assert total.count == whole.count
    torch.testing.assert_close(total.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(total.m2, whole.m2, rtol=1e-9, atol=1e-9)


def test_updating_in_batches_matches_one_batch():
    rows = embeddings(50, 6)
    stats = EmbeddingStats(None, dim=6)
    for batch in rows.split(7):
        stats.update(batch)
    assert_same_stats(stats, EmbeddingStats.of(rows))


def test_empty_updates_and_merges_change_nothing():
    rows = embeddings(9, 4)
    stats = EmbeddingStats(None, dim=4)
    stats.update(rows[:0])
    stats.merge(EmbeddingStats(None, dim=4))
    assert stats.count == 0
    stats.update(rows)
    stats.update(rows[:0])
    stats.merge(EmbeddingStats(None, dim=4))
    assert_same_stats(stats, EmbeddingStats.of(rows))
    assert stats.mean.isfinite().all()


def test_merge_leaves_the_other_alone():
    a, b = EmbeddingStats.of(embeddings(9, 4)), EmbeddingStats.of(embeddings(5, 4, seed=1))
    a.merge(b)
    assert_same_stats(b, EmbeddingStats.of(embeddings(5, 4, seed=1)))


@pytest.mark.parametrize("shape", [(3,), (3, 5), (2, 3, 4)])
def test_updates_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected embeddings"):
        EmbeddingStats(None, dim=4).update(torch.zeros(shape))


def test_merging_other_dimensions_is_refused():
    with pytest.raises(ValueError, match="cannot merge"):
        EmbeddingStats(None, dim=4).merge(EmbeddingStats(None, dim=5))


@pytest.mark.parametrize("count", [0, 1])
def test_a_covariance_of_fewer_than_two_is_refused(count: int):
    stats = EmbeddingStats.of(embeddings(2, 4)[:count])
    with pytest.raises(InputError, match=f"there is {count}"):
        _ = stats.covariance


@pytest.mark.parametrize("encoder", [None, EncoderId((EncoderBlock("m", "abc", "{}", 6),))])
def test_stats_survive_saving(tmp_path: Path, encoder: EncoderId | None):
    stats = EmbeddingStats.of(embeddings(20, 6), encoder)
    stats.save(tmp_path / "stats.safetensors")
    loaded = EmbeddingStats.load(tmp_path / "stats.safetensors")
    assert loaded.count == 20
    assert loaded.encoder_id == encoder
    assert loaded.mean.equal(stats.mean)
    assert loaded.m2.equal(stats.m2)
    loaded.update(embeddings(3, 6, seed=1))
    stats.update(embeddings(3, 6, seed=1))
    assert_same_stats(loaded, stats)


# --- Gaussian


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


def test_merging_files_of_another_encoder_is_refused():
    one, other = (EncoderId((EncoderBlock("m", weights, "{}", 6),)) for weights in "ab")
    rows = embeddings(20, 6)
    with pytest.raises(InputError, match="Merge others"):
        merged([EmbeddingStats.of(rows, one), EmbeddingStats.of(rows, other)])
    with pytest.raises(InputError, match="5 and 6 dimensions"):
        merged([EmbeddingStats.of(rows), EmbeddingStats.of(embeddings(20, 5))])
    assert merged([EmbeddingStats.of(rows, one)] * 3).count == 60


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


# --- distances and the cone


@pytest.mark.parametrize("counts", [(200, 150), (20, 300)])
def test_frechet_distance_matches_scipy(counts: tuple[int, int]):
    a, b = embeddings(counts[0], 16), embeddings(counts[1], 16, seed=1)
    first, second = EmbeddingStats.of(a), EmbeddingStats.of(b)
    expected = reference.frechet_distance(
        first.mean.numpy(), first.covariance.numpy(), second.mean.numpy(), second.covariance.numpy()
    )
    assert expected > 0.01
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count", [10, 400])
def test_frechet_distance_to_itself_is_zero(count: int):
    """Also where the covariance is singular: 10 samples of 16 dimensions."""
    stats = EmbeddingStats.of(embeddings(count, 16))
    assert 0 <= frechet_distance(stats, stats) < 1e-8


def test_frechet_distance_of_isotropic_gaussians_matches_its_closed_form():
    """|mu_a - mu_b|^2 + D (s_a - s_b)^2."""
    a = reference.stats_with(np.zeros(6), 4 * np.eye(6))
    b = reference.stats_with(np.full(6, 0.5), 9 * np.eye(6))
    assert frechet_distance(a, b) == pytest.approx(6 * 0.25 + 6 * 1, rel=1e-12)


def test_cone_matches_pairwise_cosines():
    rows = embeddings(30, 8)
    shape = cone(EmbeddingStats.of(rows))
    mean = rows.double().numpy().mean(axis=0)
    assert shape.count == 30
    assert shape.norm_of_mean == pytest.approx(np.linalg.norm(mean), rel=1e-9)
    expected = reference.intra_set_cosine(rows.double().numpy())
    assert shape.mean_cosine == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_a_flat_spectrum_is_its_length(rank: int):
    spectrum = np.array([0.5] * rank + [0.0] * (8 - rank))
    shape = cone(reference.stats_with(np.zeros(8), np.diag(spectrum)))
    assert shape.effective_rank == pytest.approx(rank, rel=1e-9)


def test_effective_rank_matches_its_entropy():
    spectrum = np.array([0.7, 0.2, 0.1])
    shape = cone(reference.stats_with(np.zeros(3), np.diag(spectrum)))
    assert shape.effective_rank == pytest.approx(np.exp(-(spectrum * np.log(spectrum)).sum()))
