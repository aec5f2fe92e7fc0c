"""Mean and covariance of CLIP embeddings: the module that the prior, the GAN and the metrics share.

`EmbeddingStats` counts in float64, one pass, and merges exactly (Chan, Golub, LeVeque 1979). A
`Gaussian` made from it whitens, colours and samples with one spectrum, shrunk once and floored
once. `frechet_distance` compares two sets.

Shape letters: N batch, D embedding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lafite_shifted.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.files import check_format, load_tensors, save_tensors

FORMAT = 1
Kind = Literal["full", "diagonal", "isotropic"]


class EmbeddingStats:
    """Count, mean [D] and M2 [D, D] (sum of outer products of deviations), float64 on the CPU."""

    def __init__(self, encoder_id: EncoderId | None, *, dim: int):
        self.encoder_id = encoder_id
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.m2 = torch.zeros(dim, dim, dtype=torch.float64)

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """M2 / (N - 1), [D, D] float64; InputError below two embeddings."""
        if self.count < 2:
            raise InputError(
                f"A covariance needs at least 2 embeddings, there is {self.count}. Add pictures."
            )
        return self.m2 / (self.count - 1)

    def update(self, batch: Tensor) -> None:
        """Add embeddings [N, D]."""
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise ValueError(f"expected embeddings [N, {self.dim}], got {list(batch.shape)}")
        if len(batch) == 0:
            return
        batch = batch.detach().to("cpu", torch.float64)
        mean = batch.mean(dim=0)
        deviation = batch - mean
        self._add(len(batch), mean, deviation.T @ deviation)

    def merge(self, other: "EmbeddingStats") -> None:
        """Add everything that `other` has counted; exact up to float64 rounding, in any order."""
        if other.dim != self.dim:
            raise ValueError(f"cannot merge statistics of {other.dim} and {self.dim} dimensions")
        self._add(other.count, other.mean, other.m2)

    def _add(self, count: int, mean: Tensor, m2: Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.m2 += m2 + torch.outer(delta, delta) * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def save(self, path: Path) -> None:
        """Write a stats.safetensors, atomically."""
        encoder = self.encoder_id.to_json() if self.encoder_id else None
        metadata = {"kind": "stats", "format": FORMAT, "count": self.count, "encoder": encoder}
        save_tensors(path, {"mean": self.mean, "m2": self.m2}, metadata)

    @staticmethod
    def load(path: Path) -> "EmbeddingStats":
        """Read a stats.safetensors; InputError if it is missing, damaged or of another format."""
        tensors, metadata = load_tensors(path)
        check_format(metadata, kind="stats", version=FORMAT, path=path)
        encoder = EncoderId.from_json(metadata["encoder"]) if metadata["encoder"] else None
        stats = EmbeddingStats(encoder, dim=len(tensors["mean"]))
        stats.count, stats.mean, stats.m2 = metadata["count"], tensors["mean"], tensors["m2"]
        return stats

    @staticmethod
    def of(embeddings: Tensor, encoder_id: EncoderId | None = None) -> "EmbeddingStats":
        """Statistics of one tensor [N, D]."""
        stats = EmbeddingStats(encoder_id, dim=embeddings.shape[1])
        stats.update(embeddings)
        return stats


def oas_shrinkage(covariance: Tensor, count: int) -> float:
    """Weight of the isotropic target by oracle approximating shrinkage (Chen et al.,
    arXiv:0907.4698, eq. 23).
    """
    dim = len(covariance)
    trace = covariance.trace()
    trace_of_square = covariance.square().sum()
    numerator = (1 - 2 / dim) * trace_of_square + trace**2
    denominator = (count + 1 - 2 / dim) * (trace_of_square - trace**2 / dim)
    return 1.0 if denominator <= 0 else min(1.0, float(numerator / denominator))


class Gaussian:
    """N(mean, covariance) with symmetric square roots; covariance = basis diag(eigenvalues)
    basis^T.

    Computation runs in the dtype and on the device of `to`; float64 on the CPU at first.
    """

    def __init__(self, mean: Tensor, eigenvalues: Tensor, basis: Tensor | None):
        self.mean = mean  # [D]
        self.eigenvalues = eigenvalues  # [D]
        self.basis = basis  # [D, D], None for the identity
        self._root = self._power(0.5)
        self._inverse_root = self._power(-0.5)

    @staticmethod
    def from_stats(
        stats: EmbeddingStats,
        *,
        kind: Kind = "full",
        shrinkage: float | None = None,
        floor: float = 0.01,
    ) -> "Gaussian":
        """Fit a Gaussian: shrink the covariance towards its mean variance, then floor its spectrum.

        `shrinkage` None chooses the weight by `oas_shrinkage` (full covariance only). `floor` is a
        share of the mean eigenvalue, so that whitening cannot amplify without bound. Raises
        InputError below two embeddings.
        """
        covariance = stats.covariance
        if kind == "full":
            weight = oas_shrinkage(covariance, stats.count) if shrinkage is None else shrinkage
            target = torch.eye(stats.dim, dtype=torch.float64) * covariance.diagonal().mean()
            eigenvalues, basis = torch.linalg.eigh((1 - weight) * covariance + weight * target)
        else:
            eigenvalues, basis = covariance.diagonal().clone(), None
            weight = 1.0 if kind == "isotropic" else shrinkage or 0.0
            eigenvalues = (1 - weight) * eigenvalues + weight * eigenvalues.mean()
        if not eigenvalues.mean() > 0:
            raise InputError(
                f"All {stats.count} embeddings are the same: they have no spread to learn from. "
                "Add different pictures."
            )
        return Gaussian(
            stats.mean.clone(), eigenvalues.clamp(min=float(floor * eigenvalues.mean())), basis
        )

    @staticmethod
    def standard(dim: int) -> "Gaussian":
        """N(0, I / D), the start of the baseline prior on unit-norm embeddings (DALL-E 2 scales by
        sqrt(D) instead).
        """
        return Gaussian(
            torch.zeros(dim, dtype=torch.float64),
            torch.full((dim,), 1 / dim, dtype=torch.float64),
            None,
        )

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """[D, D], after shrinkage and floor."""
        return self._power(1.0) if self.basis is not None else torch.diag(self.eigenvalues)

    def _power(self, exponent: float) -> Tensor:
        """[D, D], or the diagonal [D] if the basis is the identity."""
        powers = self.eigenvalues**exponent
        return powers if self.basis is None else (self.basis * powers) @ self.basis.T

    def _apply(self, matrix: Tensor, x: Tensor) -> Tensor:
        return x * matrix if matrix.ndim == 1 else x @ matrix  # the roots are symmetric

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Gaussian":
        """A copy for computing; the roots are taken in float64 before the cast."""
        moved = object.__new__(Gaussian)
        for name, value in vars(self).items():
            setattr(moved, name, None if value is None else value.to(device, dtype))
        return moved

    def color(self, noise: Tensor) -> Tensor:
        """Sigma^{1/2} n for n [N, D]."""
        return self._apply(self._root, noise)

    def whiten_deviation(self, deviation: Tensor) -> Tensor:
        """Sigma^{-1/2} x for x = z - mean, [N, D]."""
        return self._apply(self._inverse_root, deviation)

    def whiten(self, z: Tensor) -> Tensor:
        """Sigma^{-1/2} (z - mean)."""
        return self.whiten_deviation(z - self.mean)

    def unwhiten(self, y: Tensor) -> Tensor:
        """mean + Sigma^{1/2} y."""
        return self.mean + self.color(y)

    def standardise(self, z: Tensor) -> Tensor:
        """(z - mean) / standard deviation of each dimension: how G and D see a condition."""
        return (z - self.mean) / self.variances.sqrt()

    @property
    def variances(self) -> Tensor:
        """Diagonal of the covariance, [D]."""
        return self.eigenvalues if self.basis is None else self.basis.square() @ self.eigenvalues

    def mahalanobis(self, z: Tensor) -> Tensor:
        """Distance from the mean in standard deviations, [N]."""
        return self.whiten(z).norm(dim=1)

    def sample(self, noise: Tensor) -> Tensor:
        """Draws [N, D] from standard normal `noise` [N, D]."""
        return self.unwhiten(noise)


def frechet_distance(a: EmbeddingStats, b: EmbeddingStats) -> float:
    """|mu_a - mu_b|^2 + tr(A + B - 2 (A^{1/2} B A^{1/2})^{1/2}) (Dowson & Landau 1982), float64,
    never below 0.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (
        (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    )
    return max(float(distance), 0.0)


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
