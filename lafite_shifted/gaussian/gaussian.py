"""One Gaussian of CLIP embeddings: fitted to statistics, it whitens, colours and standardises.

Prior, generator and metrics use its one spectrum, shrunk once (Ledoit and Wolf) and floored once.
Where several CLIPs are concatenated, each has a block of its own.

Shape letters: N batch, D embedding.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats

CovarianceType = Literal["full", "diagonal", "isotropic"]


def ledoit_wolf(stats: EmbeddingStats) -> float:
    """Weight of the isotropic target that is closest to the true covariance in expectation (Ledoit
    and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004,
    section 3.2); no normality is assumed. Of one block. InputError below two embeddings.
    """
    (fourth,) = stats.fourth
    covariance = stats.covariance * ((stats.count - 1) / stats.count)
    size = covariance.square().sum()
    distance = size - covariance.trace() ** 2 / stats.dim  # to the target
    error = fourth / stats.count**2 - size / stats.count  # of the sample covariance
    return 1.0 if distance <= 0 else float((error / distance).clamp(0, 1))


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
        covariance_type: CovarianceType = "full",
        shrinkage: float | None = None,
        floor: float = 0.01,
    ) -> "Gaussian":
        """Fit a Gaussian: shrink the covariance towards its mean variance, then floor its spectrum.

        `shrinkage` None chooses the weight by `ledoit_wolf` (full covariance only). `floor` is a
        share of the mean eigenvalue, so that whitening cannot amplify without bound. Blocks are
        fitted one by one: between them no covariance is kept. Raises InputError below two
        embeddings.
        """
        blocks = stats.blocks()
        if len(blocks) > 1:
            fit = partial(
                Gaussian.from_stats,
                covariance_type=covariance_type,
                shrinkage=shrinkage,
                floor=floor,
            )
            return Gaussian._joined([fit(block) for block in blocks])
        covariance = stats.covariance
        if covariance_type == "full":
            weight = ledoit_wolf(stats) if shrinkage is None else shrinkage
            target = torch.eye(stats.dim, dtype=torch.float64) * covariance.diagonal().mean()
            eigenvalues, basis = torch.linalg.eigh((1 - weight) * covariance + weight * target)
        else:
            eigenvalues, basis = covariance.diagonal().clone(), None
            weight = 1.0 if covariance_type == "isotropic" else shrinkage or 0.0
            eigenvalues = (1 - weight) * eigenvalues + weight * eigenvalues.mean()
        if not eigenvalues.mean() > 0:
            raise InputError(
                f"All {stats.count} embeddings are the same: they have no spread to learn from. "
                "Add different images."
            )
        return Gaussian(
            stats.mean.clone(), eigenvalues.clamp(min=float(floor * eigenvalues.mean())), basis
        )

    @staticmethod
    def _joined(parts: "Sequence[Gaussian]") -> "Gaussian":
        """Independent Gaussians as one."""
        bases = [part.basis for part in parts if part.basis is not None]
        return Gaussian(
            torch.cat([part.mean for part in parts]),
            torch.cat([part.eigenvalues for part in parts]),
            torch.block_diag(*bases) if bases else None,
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
        """D."""
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
        """Sigma^{-1/2} (z - mean) for z [N, D]."""
        return self.whiten_deviation(z - self.mean)

    def unwhiten(self, y: Tensor) -> Tensor:
        """mean + Sigma^{1/2} y for y [N, D]."""
        return self.mean + self.color(y)

    def standardise(self, z: Tensor) -> Tensor:
        """(z - mean) / standard deviation of each dimension, for z [N, D]: how G and D take a
        condition.
        """
        return (z - self.mean) / self.variances.sqrt()

    @property
    def variances(self) -> Tensor:
        """Diagonal of the covariance, [D]."""
        return self.eigenvalues if self.basis is None else self.basis.square() @ self.eigenvalues
