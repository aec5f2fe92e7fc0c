"""Clusters of embeddings: sums in pieces, Gaussians of every covariance type, and the
choice by the text.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian import gaussian_clusters
from lafite_shifted.gaussian.cluster_stats import ClusterCovarianceType, ClusterStats
from lafite_shifted.gaussian.gaussian_clusters import GaussianClusters, same_cluster
from lafite_shifted.gaussian.kmeans import Reservoir, find_centroids
from lafite_shifted.gaussian.stats import merged

COVARIANCE_TYPES: list[ClusterCovarianceType] = ["diagonal", "low-rank", "full"]
DIM = 6
ENCODER = EncoderId((EncoderBlock("m", "abc", "{}", DIM),))


def grouped(count: int = 300, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows in three narrow groups, and the number of each row's group."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(count) % 3
    spread = torch.tensor([0.05, 0.1, 0.2])[k][:, None] * torch.linspace(1, 0.3, DIM)
    rows = torch.eye(DIM)[k] + spread * torch.randn(count, DIM, generator=generator)
    return F.normalize(rows, dim=1), k


def stats_of(
    rows: Tensor, num: int = 3, *, covariance_type: ClusterCovarianceType = "full"
) -> ClusterStats:
    stats = ClusterStats(ENCODER, find_centroids(rows, num), covariance_type=covariance_type)
    stats.update(rows)
    return stats


# --- centroids


def test_centroids_lie_in_the_middle_of_their_groups():
    rows, k = grouped()
    centroids = find_centroids(rows, 3)
    order = centroids[:, :3].argmax(dim=1).argsort()
    expected = torch.stack([rows[k == group].double().mean(dim=0) for group in range(3)])
    torch.testing.assert_close(centroids[order], expected, rtol=0, atol=1e-6)


def test_fewer_embeddings_than_clusters_are_refused():
    with pytest.raises(InputError, match="5 clusters need at least as many embeddings"):
        find_centroids(grouped(4)[0], 5)


def test_a_seed_repeats_the_centroids():
    rows, _ = grouped()
    assert find_centroids(rows, 8, seed=1).equal(find_centroids(rows, 8, seed=1))
    assert not find_centroids(rows, 8, seed=1).equal(find_centroids(rows, 8, seed=2))


def test_a_reservoir_samples_uniformly_and_the_same_however_its_batches_are_shared():
    batches = [torch.arange(100.0)[:, None] + 100 * number for number in range(20)]
    whole = Reservoir(200, dim=1)
    parts = [Reservoir(200, dim=1) for _ in range(3)]
    for number, batch in enumerate(batches):
        whole.update(batch, number=number)
        parts[number % 3].update(batch, number=number)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].rows.equal(whole.rows)
    assert len(whole.rows.unique()) == 200
    counts = torch.histc(whole.rows, bins=4, min=0, max=2000)
    assert (counts > 25).all()  # 50 expected, standard deviation 6


def test_a_reservoir_of_few_keeps_all():
    reservoir = Reservoir(200, dim=2)
    reservoir.update(torch.arange(20.0).view(10, 2), number=0)
    assert reservoir.rows.sum() == 190


# --- statistics


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_sums_in_pieces_match_numpy(covariance_type: ClusterCovarianceType):
    rows, k = grouped()
    centroids = find_centroids(rows, 3)
    parts = [ClusterStats(ENCODER, centroids, covariance_type=covariance_type) for _ in range(3)]
    for number, batch in enumerate(rows.split(37)):
        parts[number % 3].update(batch)
    total = merged(parts)
    for cluster in range(3):
        group = int(centroids[cluster, :3].argmax())
        expected = rows[k == group].double().numpy()
        assert total.counts[cluster] == len(expected)
        offset = total.sums[cluster] / total.counts[cluster]
        np.testing.assert_allclose(centroids[cluster] + offset, expected.mean(axis=0), atol=1e-12)


def test_statistics_survive_saving(tmp_path: Path):
    stats = stats_of(grouped()[0])
    stats.save(tmp_path / "clusters.safetensors")
    loaded = ClusterStats.load(tmp_path / "clusters.safetensors")
    assert (loaded.encoder_id, loaded.covariance_type) == (ENCODER, "full")
    for name in ("centroids", "counts", "sums", "squares"):
        assert getattr(loaded, name).equal(getattr(stats, name))


def test_statistics_around_other_centroids_are_not_merged():
    rows, _ = grouped()
    for other in (stats_of(rows[:200]), stats_of(rows, covariance_type="diagonal")):
        with pytest.raises(InputError, match="same centroids"):
            merged([stats_of(rows), other])


def test_what_does_not_fit_is_refused_with_its_size():
    centroids = torch.zeros(4096, 512)
    with pytest.raises(InputError, match=r"would take 40\.0 GiB. Give at most 409 clusters"):
        ClusterStats(None, centroids, covariance_type="full")
    ClusterStats(None, centroids, covariance_type="diagonal")


# --- Gaussians


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_each_cluster_has_the_moments_of_its_rows(
    covariance_type: ClusterCovarianceType, monkeypatch
):
    monkeypatch.setattr(gaussian_clusters, "RANK", 2)
    rows, k = grouped(3000)
    clusters = GaussianClusters.from_stats(
        stats_of(rows, covariance_type=covariance_type), pseudo_count=0, floor=0.0
    )
    for group in range(3):
        expected = np.cov(rows[k == group].double().numpy(), rowvar=False)
        chosen = clusters.choose(clusters.assign(torch.eye(DIM)[[group] * DIM].double()))
        root = chosen.color(torch.eye(DIM, dtype=torch.float64))
        if covariance_type == "diagonal":
            expected = np.diag(np.diag(expected))
        elif covariance_type == "low-rank":  # the two largest, the others as their mean
            values, vectors = np.linalg.eigh(expected)
            values[:-2] = values[:-2].mean()
            expected = (vectors * values) @ vectors.T
        np.testing.assert_allclose(root.T @ root, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_whitening_undoes_colouring(covariance_type: ClusterCovarianceType, monkeypatch):
    monkeypatch.setattr(gaussian_clusters, "RANK", 2)
    rows, _ = grouped()
    clusters = GaussianClusters.from_stats(stats_of(rows, covariance_type=covariance_type))
    chosen = clusters.choose(clusters.assign(rows.double()))
    torch.testing.assert_close(chosen.unwhiten(chosen.whiten(rows.double())), rows.double())
    single = clusters.to("cpu").choose(clusters.assign(rows.double())[:5])
    assert single.color(torch.ones(5, DIM)).dtype == torch.float32


def test_tiny_and_empty_clusters_take_the_pooled_covariance():
    """One row alone has no covariance of its own, and a centroid that nothing is close to is no
    start for any chain.
    """
    rows, k = grouped()
    alone = F.normalize(-torch.ones(1, DIM), dim=1)
    far = torch.full((1, DIM), 50.0).double()
    centroids = torch.cat([find_centroids(rows, 3), alone.double(), far])
    stats = ClusterStats(None, centroids, covariance_type="full")
    stats.update(torch.cat([rows, alone]))
    assert stats.counts[3:].tolist() == [1, 0]
    clusters = GaussianClusters.from_stats(stats)
    assert clusters.num_clusters == 4
    k_alone = clusters.assign(alone.double())
    assert k_alone.tolist() == [3]
    torch.testing.assert_close(clusters.choose(k_alone).mean, alone.double())
    groups = [rows[k == group].double() for group in range(3)]
    scatter = sum(((g - g.mean(dim=0)).T @ (g - g.mean(dim=0)) for g in groups), torch.zeros(()))
    root = clusters.choose(k_alone.repeat(DIM)).color(torch.eye(DIM).double())
    torch.testing.assert_close(root.T @ root, scatter / (len(rows) - 3), rtol=1e-6, atol=1e-9)


def test_clusters_without_spread_are_refused():
    rows = torch.eye(DIM)
    with pytest.raises(InputError, match="No cluster has any spread"):
        GaussianClusters.from_stats(stats_of(rows, DIM))


def test_a_text_chooses_the_closest_mean():
    rows, k = grouped()
    clusters = GaussianClusters.from_stats(stats_of(rows))
    chosen = clusters.assign(rows.double())
    for group in range(3):
        assert len(chosen[k == group].unique()) == 1
    assert len(chosen.unique()) == 3
    assert same_cluster(clusters, rows.double(), rows.double()).all()
    assert not same_cluster(clusters, rows.double(), rows.roll(1, 0).double()).any()
