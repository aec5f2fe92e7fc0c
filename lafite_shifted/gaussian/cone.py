"""The cone that CLIP embeddings fill: mean, cosine and effective rank of unit vectors."""

from dataclasses import dataclass

import torch

from lafite_shifted.gaussian.stats import EmbeddingStats


@dataclass(frozen=True)
class Cone:
    """How narrow the cone of unit embeddings is."""

    count: int
    norm_of_mean: float
    mean_cosine: float  # over pairs of different embeddings
    effective_rank: float  # exp of the entropy of the normalised spectrum (Roy & Vetterli 2007)


def cone(stats: EmbeddingStats) -> Cone:
    """Shape of the cone that unit-norm embeddings fill; InputError below two embeddings."""
    squared_norm = float(stats.mean.square().sum())
    values = torch.linalg.eigvalsh(stats.covariance).clamp(min=0)
    share = values / values.sum().clamp(min=1e-300)
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return Cone(
        count=stats.count,
        norm_of_mean=squared_norm**0.5,
        mean_cosine=(stats.count * squared_norm - 1) / (stats.count - 1),
        effective_rank=float(entropy.exp()),
    )
