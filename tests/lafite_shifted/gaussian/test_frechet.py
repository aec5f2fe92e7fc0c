"""The Frechet distance against scipy and its closed form."""

import numpy as np
import pytest

from lafite_shifted.gaussian.frechet import frechet_distance
from lafite_shifted.gaussian.stats import EmbeddingStats
from tests.lafite_shifted.gaussian.rows import embeddings
from tests.references import gaussians as reference


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
