"""Several Gaussians instead of one (arXiv:2211.15388, section 3.3): each cluster of image
embeddings has its own mean and covariance, and the text chooses one.

Shape letters: N batch, K clusters, D embedding, R rank.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.cluster_stats import ClusterStats

RANK = 32  # of "low-rank"


@dataclass(frozen=True)
class ChosenGaussians:
    """For each row its own N(mean, covariance): Sigma^{1/2} x = scale x + basis gain basis^T x."""

    mean: Tensor  # [N, D]
    scale: Tensor  # [N, D]
    inverse_scale: Tensor  # [N, D]
    basis: Tensor | None  # [N, D, R], orthonormal columns
    gain: Tensor | None  # [N, R]
    inverse_gain: Tensor | None  # [N, R]

    def _apply(self, x: Tensor, scale: Tensor, gain: Tensor | None) -> Tensor:
        y = scale * x
        if self.basis is None or gain is None:
            return y
        inside = torch.einsum("nd,ndr->nr", x, self.basis) * gain
        return y + torch.einsum("nr,ndr->nd", inside, self.basis)

    def color(self, noise: Tensor) -> Tensor:
        """Sigma^{1/2} n for n [N, D]."""
        return self._apply(noise, self.scale, self.gain)

    def whiten(self, z: Tensor) -> Tensor:
        """Sigma^{-1/2} (z - mean) for z [N, D]."""
        return self._apply(z - self.mean, self.inverse_scale, self.inverse_gain)

    def unwhiten(self, y: Tensor) -> Tensor:
        """mean + Sigma^{1/2} y for y [N, D]."""
        return self.mean + self.color(y)


class GaussianClusters:
    """K Gaussians, those without an embedding left out; `choose` gives each row one of them."""

    def __init__(self, tensors: dict[str, Tensor]):
        self._tensors = tensors  # the fields of ChosenGaussians, [K, ...], and "directions" [K, D]

    @staticmethod
    def from_stats(
        stats: ClusterStats, *, pseudo_count: float | None = None, floor: float = 0.01
    ) -> "GaussianClusters":
        """Fit one Gaussian a cluster.

        A small cluster's covariance is shrunk towards the one pooled within all clusters, as if
        `pseudo_count` more embeddings had that one (None: 10 for a diagonal, D otherwise), and
        its spectrum floored at `floor` of the pooled mean variance. InputError where no cluster has
        any spread.
        """
        used = stats.counts > 0
        counts = stats.counts[used].double()
        sums, squares = stats.sums[used], stats.squares[used]
        offset = sums / counts[:, None]
        if stats.covariance_type == "diagonal":
            m2 = squares - sums * offset
            weight = 10.0 if pseudo_count is None else pseudo_count
            column = counts[:, None]
        else:
            m2 = squares - sums[:, :, None] * offset[:, None, :]
            weight = float(stats.dim) if pseudo_count is None else pseudo_count
            column = counts[:, None, None]
        freedom = float((counts - 1).sum())
        pooled = m2.sum(dim=0) / max(freedom, 1.0)
        variance = float((pooled if pooled.ndim == 1 else pooled.diagonal()).mean())
        if not variance > 0:
            raise InputError(
                "No cluster has any spread: every embedding is alone or the same as its "
                "neighbours. Give fewer clusters, or add different images."
            )
        covariance = (m2 + weight * pooled) / (column - 1 + weight).clamp(min=1e-12)
        means = stats.centroids[used] + offset
        tensors = {"mean": means, "directions": F.normalize(means, dim=1)}
        smallest = floor * variance
        if stats.covariance_type == "diagonal":
            scale = covariance.clamp(min=smallest).sqrt()
            tensors |= {"scale": scale, "inverse_scale": 1 / scale}
        else:
            rank = stats.dim if stats.covariance_type == "full" else min(RANK, stats.dim)
            tensors |= _roots(covariance, rank=rank, smallest=smallest)
        return GaussianClusters(tensors)

    @property
    def num_clusters(self) -> int:
        """K, without the clusters left out."""
        return len(self._tensors["mean"])

    def to(
        self, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> "GaussianClusters":
        """A copy for computing, on `device` in `dtype`."""
        return GaussianClusters({k: v.to(device, dtype) for k, v in self._tensors.items()})

    def assign(self, embedding: Tensor) -> Tensor:
        """The cluster [N] whose mean has the largest cosine to each unit embedding [N, D]: of texts
        while training and while sampling.
        """
        return (embedding @ self._tensors["directions"].T).argmax(dim=1)

    def choose(self, k: Tensor) -> ChosenGaussians:
        """The Gaussians of clusters k [N]."""
        names = ("mean", "scale", "inverse_scale", "basis", "gain", "inverse_gain")
        found = (self._tensors.get(name) for name in names)
        return ChosenGaussians(*(None if t is None else t[k] for t in found))  # type: ignore[arg-type]


def _roots(covariance: Tensor, *, rank: int, smallest: float) -> dict[str, Tensor]:
    """Covariances [K, D, D] as ChosenGaussians holds them: the `rank` largest eigenvalues, and the
    mean of the others.
    """
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    values = values.clamp(min=smallest)
    rest = values.shape[1] - rank
    if rest:
        scale = values[:, :rest].mean(dim=1, keepdim=True).sqrt()
        inverse = 1 / scale
    else:
        scale = inverse = torch.zeros(len(values), 1, dtype=values.dtype)
    top = values[:, rest:].sqrt()
    return {
        "scale": scale.repeat(1, values.shape[1]),
        "inverse_scale": inverse.repeat(1, values.shape[1]),
        "basis": vectors[:, :, rest:].contiguous(),
        "gain": top - scale,
        "inverse_gain": 1 / top - inverse,
    }


def same_cluster(clusters: GaussianClusters, text: Tensor, image: Tensor) -> Tensor:
    """Which pairs of unit embeddings [N, D] have a text and an image that choose the same cluster:
    [N] bool, where they are.
    """
    return clusters.assign(text) == clusters.assign(image)
