"""The metrics, each against a loop or a closed form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.gaussian.frechet import frechet_distance
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.stored_rows import Batches
from tests.references import gaussians as reference
from training.metrics import distances


def rows(num: int, *, dim: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num, dim, generator=generator) + 0.3, dim=1)


def test_mean_cosine_matches_a_loop():
    a, b = rows(9), rows(9, seed=1)
    expected = np.mean([float(x @ y) for x, y in zip(a, b, strict=True)])
    assert distances.mean_cosine(a, b) == pytest.approx(expected, abs=1e-6)
    assert distances.mean_cosine(a, a) == pytest.approx(1)


def test_intra_set_cosine_matches_a_loop():
    a = rows(9)
    expected = reference.intra_set_cosine(a.double().numpy())
    assert distances.intra_set_cosine(a) == pytest.approx(expected, abs=1e-6)


def test_intra_set_cosine_of_copies_is_one_and_of_a_basis_zero():
    assert distances.intra_set_cosine(rows(1).expand(5, -1)) == pytest.approx(1)
    assert distances.intra_set_cosine(torch.eye(6)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("counts", [(40, 40), (40, 5), (5, 5), (5, 2)])
def test_set_distance_is_the_frechet_distance_of_the_moments(counts: tuple[int, int]):
    """Of fewer rows than dimensions too, where no covariance is needed."""
    a, b = rows(counts[0]), rows(counts[1], seed=1)
    expected = frechet_distance(EmbeddingStats.of(a), EmbeddingStats.of(b))
    assert expected > 0.01
    assert distances.set_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert distances.set_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_recall_at_matches_a_loop(k: int):
    similarity = rows(12) @ (rows(12) + 2 * rows(12, seed=1)).T
    hits = 0
    for i, row in enumerate(similarity.tolist()):
        hits += sum(other > row[i] for other in row) < k
    assert 0 < hits < 12
    assert distances.retrieval_at(similarity, k) == pytest.approx(hits / 12)


def test_ties_count_against_recall():
    """A model that gives the same embedding to everything has found nothing."""
    same = torch.ones(4, 4)
    assert [distances.retrieval_at(same, k) for k in (1, 3, 4)] == [0.0, 0.0, 1.0]


def test_nearest_matches_a_loop():
    among, queries = rows(20), rows(7, seed=1)
    found = distances.nearest(queries, among)
    for query, index in zip(queries, found.tolist(), strict=True):
        lengths = [float((query - row).norm()) for row in among]
        assert index == lengths.index(min(lengths))
    assert distances.nearest(among[[3, 11]], among).tolist() == [3, 11]


def test_neighbours_among_many_are_those_of_a_product(monkeypatch: pytest.MonkeyPatch):
    """Of more rows than are read at a time."""
    monkeypatch.setattr(distances, "BATCH", 8)
    monkeypatch.setattr(distances, "Batches", lambda among: Batches(among, size=8))
    among, queries = rows(30), rows(7, seed=1)
    similarity = queries @ among.T
    assert distances.nearest(queries, among).tolist() == similarity.argmax(dim=1).tolist()
    assert torch.equal(
        distances.neighbours(queries, among, count=11), similarity.topk(11, dim=1).indices
    )
    without = distances.nearest(queries, among).unique()
    similarity[:, without] = -torch.inf
    found = distances.nearest(queries, among, without=without)
    assert found.tolist() == similarity.argmax(dim=1).tolist()


def test_precision_and_recall_match_loops():
    real, made = rows(25), F.normalize(rows(20, seed=1) + 0.2, dim=1)

    def radius(a: Tensor, i: int) -> float:
        return sorted(float((a[i] - a[j]).norm()) for j in range(len(a)))[3]

    def share(inside: Tensor, of: Tensor) -> float:
        hits = [
            any(float((x - of[j]).norm()) <= radius(of, j) for j in range(len(of))) for x in inside
        ]
        return float(np.mean(hits))

    precision, recall = distances.precision_and_recall(real.double(), made.double())
    assert precision == pytest.approx(share(made.double(), real.double()))
    assert recall == pytest.approx(share(real.double(), made.double()))
    assert 0 < precision < 1
    assert distances.precision_and_recall(real, real) == (1, 1)


def test_one_repeated_image_is_precise_and_covers_nothing():
    real = rows(40)
    precision, recall = distances.precision_and_recall(real, real[:1].expand(40, -1))
    assert precision == 1
    assert recall < 0.1
