"""An untrained prior of each kind."""

import dataclasses

import pytest
import torch

from lafite_shifted.gaussian.cluster_stats import ClusterStats
from lafite_shifted.gaussian.kmeans import find_centroids
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.prior import Prior
from tests.lafite_shifted.prior.priors import (
    TINY,
    random_images,
)


@pytest.fixture
def prior() -> Prior:
    """Untrained, with residual branches large enough for attention to matter."""
    torch.manual_seed(0)
    made = Prior(TINY, EmbeddingStats.of(random_images(count=64)))
    for block in made.network.blocks:
        torch.nn.init.normal_(block.to_output.weight, std=0.3)
        torch.nn.init.normal_(block.from_hidden.weight, std=0.3)
    return made


@pytest.fixture
def clustered() -> Prior:
    """A prior of four clusters, untrained."""
    torch.manual_seed(0)
    images = random_images(count=64)
    clusters = ClusterStats(None, find_centroids(images, 4), covariance_type="diagonal")
    clusters.update(images)
    config = dataclasses.replace(TINY, process="clusters", num_clusters=4)
    return Prior(config, EmbeddingStats.of(images), clusters, threshold_quantile=2.5)
