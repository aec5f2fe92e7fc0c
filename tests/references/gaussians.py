"""Moments, square roots and distances of Gaussians by numpy and scipy, and statistics made to
order.
"""

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats

Array = NDArray[np.float64]


def stats_with(mean: Array, covariance: Array, *, count: int = 1_000_000) -> EmbeddingStats:
    """Statistics that report exactly this mean and covariance."""
    stats = EmbeddingStats(None, dim=len(mean))
    stats.count = count
    stats.mean = torch.from_numpy(np.array(mean))
    stats.m2 = torch.from_numpy(np.array(covariance)) * (count - 1)
    return stats


def exact_gaussian(mean: Array, covariance: Array) -> Gaussian:
    """Neither shrunk nor floored: the process of the paper itself."""
    return Gaussian.from_stats(stats_with(mean, covariance), shrinkage=0.0, floor=0.0)


def random_covariance(dim: int, *, condition: float, seed: int = 0) -> Array:
    """A symmetric matrix whose eigenvalues run geometrically from 1 down to 1 / condition."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    covariance = (basis * np.geomspace(1, 1 / condition, dim)) @ basis.T
    return (covariance + covariance.T) / 2


def frechet_distance(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """arXiv:1706.08500, eq. 6, by scipy's root of the product."""
    cross = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * cross))


def ledoit_wolf_weight(rows: Array) -> float:
    """Ledoit and Wolf 2004, section 3.2, by the loop over samples that its b^2 is defined by."""
    n, dim = rows.shape
    rows = rows - rows.mean(axis=0)
    covariance = rows.T @ rows / n
    target = np.eye(dim) * np.trace(covariance) / dim
    distance = np.square(covariance - target).sum()
    error = sum(np.square(np.outer(x, x) - covariance).sum() for x in rows) / n**2
    return min(float(error), float(distance)) / float(distance)


def intra_set_cosine(rows: Array) -> float:
    """Mean cosine over all ordered pairs of different rows."""
    cosines = [
        a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        for i, a in enumerate(rows)
        for j, b in enumerate(rows)
        if i != j
    ]
    return float(np.mean(cosines))
