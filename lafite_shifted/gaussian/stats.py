"""Mean and covariance of CLIP embeddings: the module that the prior, the GAN and the metrics share.

`EmbeddingStats` counts in float64, one pass, and merges exactly (Chan, Golub, LeVeque 1979), over
files and over the processes of torchrun. A `Gaussian` made from it whitens, colours and samples
with one spectrum, shrunk once and floored once. `frechet_distance` compares two sets. Where several
CLIPs are concatenated, each has a block of its own.

Shape letters: N batch, D embedding, B blocks.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.checks import check_like
from lafite_shifted.io.files import check_format, load_tensors, save_tensors
from torch_utils import distributed

FORMAT = 3
CovarianceType = Literal["full", "diagonal", "isotropic"]


class EmbeddingStats:
    """Count, mean [D] and M2 [D, D] (sum of outer products of deviations d from the mean), and for
    each block the sums of |d|^2 d [D] and of |d|^4 [B] that shrinkage asks for; float64 on the CPU.
    """

    def __init__(self, encoder_id: EncoderId | None, *, dim: int):
        self.encoder_id = encoder_id
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.m2 = torch.zeros(dim, dim, dtype=torch.float64)
        self.third = torch.zeros(dim, dtype=torch.float64)
        self.fourth = torch.zeros(len(self._slices), dtype=torch.float64)

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def _slices(self) -> list[slice]:
        """Where each block lies in the embedding."""
        dims = self.encoder_id.dims if self.encoder_id else [self.dim]
        ends = list(itertools.accumulate(dims))
        return [slice(end - dim, end) for dim, end in zip(dims, ends, strict=True)]

    def blocks(self) -> "list[EmbeddingStats]":
        """The statistics of each CLIP alone."""
        found = []
        for number, part in enumerate(self._slices):
            encoder_id = self.encoder_id and EncoderId((self.encoder_id.blocks[number],))
            stats = EmbeddingStats(encoder_id, dim=part.stop - part.start)
            stats.count, stats.mean, stats.m2 = self.count, self.mean[part], self.m2[part, part]
            stats.third, stats.fourth = self.third[part], self.fourth[number : number + 1]
            found.append(stats)
        return found

    @property
    def covariance(self) -> Tensor:
        """M2 / (N - 1), [D, D] float64; InputError below two embeddings."""
        if self.count < 2:
            raise InputError(
                f"A covariance needs at least 2 embeddings, there is {self.count}. Add images."
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
        parts = [deviation[:, part] for part in self._slices]
        squared = [part.square().sum(dim=1) for part in parts]  # each [N]
        third = torch.cat([q @ part for q, part in zip(squared, parts, strict=True)])
        fourth = torch.stack([q.square().sum() for q in squared])
        self._add(len(batch), mean, deviation.T @ deviation, third, fourth)

    def merge(self, other: "EmbeddingStats") -> None:
        """Add everything that `other` has counted; exact up to float64 rounding, in any order."""
        if other.dim != self.dim or len(other.fourth) != len(self.fourth):
            raise ValueError(f"cannot merge statistics of {other.dim} and {self.dim} dimensions")
        self._add(other.count, other.mean, other.m2, other.third, other.fourth)

    def all_reduce(self) -> None:
        """Add what the other processes of the group have counted; the same in all of them."""
        total = EmbeddingStats(self.encoder_id, dim=self.dim)
        names = ("mean", "m2", "third", "fourth")
        mine = {name: getattr(self, name) for name in names}
        for part in distributed.all_gather(mine | {"count": torch.tensor(self.count)}):
            total._add(int(part.pop("count")), *(part[name] for name in names))
        vars(self).update(vars(total))

    def _add(self, count: int, mean: Tensor, m2: Tensor, third: Tensor, fourth: Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        shift = delta * (count / total)
        thirds, fourths = [], []
        for number, part in enumerate(self._slices):
            ours = (self.m2[part, part], self.third[part], self.fourth[number])
            theirs = (m2[part, part], third[part], fourth[number])
            a = _moved(self.count, *ours, -shift[part])
            b = _moved(count, *theirs, (delta - shift)[part])
            thirds.append(a[0] + b[0])
            fourths.append(a[1] + b[1])
        self.third, self.fourth = torch.cat(thirds), torch.stack(fourths)
        self.m2 = self.m2 + m2 + torch.outer(delta, delta) * (self.count * count / total)
        self.mean = self.mean + shift
        self.count = total

    def save(self, path: Path) -> None:
        """Write a stats.safetensors, atomically."""
        encoder = self.encoder_id.to_json() if self.encoder_id else None
        metadata = {"kind": "stats", "format": FORMAT, "count": self.count, "encoder": encoder}
        names = ("mean", "m2", "third", "fourth")
        save_tensors(path, {name: getattr(self, name) for name in names}, metadata)

    @staticmethod
    def load(path: Path) -> "EmbeddingStats":
        """Read a stats.safetensors; InputError if it is missing, damaged or of another format."""
        tensors, metadata = load_tensors(path)
        check_format(metadata, kind="stats", version=FORMAT, path=path)
        encoder = EncoderId.from_json(metadata["encoder"]) if metadata["encoder"] else None
        stats = EmbeddingStats(encoder, dim=encoder.dim if encoder else len(tensors["mean"]))
        stats.count = metadata["count"]
        names = ("mean", "m2", "third", "fourth")
        check_like(tensors, {name: getattr(stats, name) for name in names}, path)
        vars(stats).update(tensors)
        return stats

    @staticmethod
    def of(embeddings: Tensor, encoder_id: EncoderId | None = None) -> "EmbeddingStats":
        """Statistics of one tensor [N, D]."""
        stats = EmbeddingStats(encoder_id, dim=embeddings.shape[1])
        stats.update(embeddings)
        return stats


def _moved(
    count: int, m2: Tensor, third: Tensor, fourth: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums of |d|^2 d and |d|^4 when every deviation d grows by `shift` (the d sum to zero)."""
    size, trace, pulled = shift.square().sum(), m2.trace(), m2 @ shift
    moved = third + trace * shift + 2 * pulled + count * size * shift
    powers = fourth + 4 * shift @ (third + pulled) + 2 * trace * size + count * size.square()
    return moved, powers


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


class Mergeable(Protocol):
    """Statistics of embeddings by one encoder."""

    encoder_id: EncoderId | None

    def merge(self, other: Any) -> None:
        """Add what `other` has counted; ValueError if it does not fit."""


Stats = TypeVar("Stats", bound=Mergeable)


def merged(parts: Sequence[Stats]) -> Stats:
    """All parts in one; InputError where they do not belong together."""
    total = copy.deepcopy(parts[0])
    for part in parts[1:]:
        if part.encoder_id and total.encoder_id:
            check_same_encoder(
                part.encoder_id, total.encoder_id, what="One of the files", remedy="Merge others."
            )
        try:
            total.merge(part)
        except ValueError as error:
            raise InputError(f"The files do not belong together: {error}.") from error
    return total
