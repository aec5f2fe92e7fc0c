"""The made-up cone: its shape is the one asked for, its texts tell of their images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lafite_shifted.gaussian.cluster_stats import ClusterStats
from lafite_shifted.gaussian.cone import cone
from lafite_shifted.gaussian.gaussian_clusters import GaussianClusters, same_cluster
from lafite_shifted.gaussian.kmeans import find_centroids
from lafite_shifted.gaussian.stats import EmbeddingStats
from tests.commands import TINY_PRIOR, succeed
from training.data.embeddings.embedding_set import EmbeddingSet
from training.metrics.distances import mean_cosine
from training.prior.eval_set import EvalSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cone") / "out"
    succeed("dataset", "cone", "--out", folder, "--names", "1500")
    return folder


def test_the_cone_is_narrow_and_its_spectrum_falls_as_one_over_i(folder: Path):
    data = EmbeddingSet(folder)
    stats = data.stats()
    assert stats.count == 12_000
    assert cone(stats).norm_of_mean == pytest.approx(0.7, abs=0.03)
    values = torch.linalg.eigvalsh(stats.covariance).flip(0)[1:100]
    slope = np.polyfit(np.log(np.arange(2, 101)), values.log().numpy(), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)


def test_images_of_a_name_are_closer_than_others_and_not_the_same(folder: Path):
    data = EmbeddingSet(folder)
    same = mean_cosine(data.image[:1500], data.image[1500:3000])
    other = mean_cosine(data.image[:1500], data.image[1501:3001])
    assert 0.98 > same > other + 0.2 > 0.6


def test_names_are_different_and_a_sixth_is_held_out(folder: Path):
    data = EmbeddingSet(folder)
    assert len(set(data.captions)) == 1500
    assert float(data.held_out.double().mean()) == pytest.approx(1 / 6, abs=0.03)
    assert len(EvalSet.of(data).captions) == int(data.held_out.sum()) / 8


def test_a_text_tells_its_image_from_others(folder: Path):
    """The means of names are a linear map of the texts, up to the noise of both."""
    data = EmbeddingSet(folder)
    training = ~data.held_out
    text = torch.cat([data.text[:], torch.ones(len(data.text), 1)], dim=1)
    weights = torch.linalg.lstsq(text[training], data.image[training]).solution
    guessed = torch.nn.functional.normalize(text[~training] @ weights, dim=1)
    found = mean_cosine(guessed, data.image[~training])
    alone = mean_cosine(guessed.roll(1, 0), data.image[~training])
    assert found > alone + 0.1


def test_texts_choose_their_images_cluster_more_often_than_by_chance(folder: Path):
    data = EmbeddingSet(folder)
    stats = ClusterStats(None, find_centroids(data.image[:4096], 16), covariance_type="diagonal")
    stats.update(data.image[:])
    clusters = GaussianClusters.from_stats(stats).to("cpu")
    assert same_cluster(clusters, data.text[:], data.image[:]).double().mean() > 3 / 16


def test_a_seed_repeats_it_and_another_samples_the_same_cone(folder: Path, tmp_path: Path):
    for name, seed in (("again", 0), ("other", 1)):
        options = ("--names", "1500", "--seed", str(seed))
        succeed("dataset", "cone", "--out", tmp_path / name, *options)
    first = EmbeddingSet(folder)
    again, other = EmbeddingSet(tmp_path / "again"), EmbeddingSet(tmp_path / "other")
    assert again.image[:].equal(first.image[:])
    assert again.text[:].equal(first.text[:])
    assert not other.image[:].equal(first.image[:])
    distance = (EmbeddingStats.of(other.image).mean - first.stats().mean).norm()
    assert float(distance) < 0.05


def test_a_prior_trains_on_it(folder: Path, tmp_path: Path):
    succeed("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    report = tmp_path / "report"
    options = ("--embeddings", folder, "--out", report, "--steps", "2", "--limit", "50")
    assert "shifted full, linear" in succeed("evaluate", "prior", tmp_path / "run", *options).out
