"""The cone: cosines and effective rank against their definitions."""

import numpy as np
import pytest

from lafite_shifted.gaussian.cone import cone
from lafite_shifted.gaussian.stats import EmbeddingStats
from tests.lafite_shifted.gaussian.rows import embeddings
from tests.references import gaussians as reference


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
