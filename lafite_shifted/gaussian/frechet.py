"""The Frechet distance of two sets of embeddings, by their means and covariances."""

import torch

from lafite_shifted.gaussian.stats import EmbeddingStats


def frechet_distance(a: EmbeddingStats, b: EmbeddingStats) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A^{1/2} B A^{1/2})^{1/2}) (Dowson and Landau 1982) of
    the Gaussians N(mu_a, A) and N(mu_b, B), float64, never below 0. The covariances are neither
    shrunk nor floored. InputError below two embeddings.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (
        (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    )
    return max(float(distance), 0.0)
