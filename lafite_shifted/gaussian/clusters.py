"""Several Gaussians instead of one (arXiv:2211.15388, section 3.3): clusters of image embeddings,
each with its own mean and covariance, of which the text chooses one.

Shape letters: N batch, K clusters, D embedding, R rank.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.io.checks import check_like
from lafite_shifted.io.files import check_format, load_tensors, save_tensors
from torch_utils import distributed, seeds

FORMAT = 1
ClusterCovarianceType = Literal["diagonal", "low-rank", "full"]
MAX_BYTES = 4 * 2**30  # of what a covariance for each cluster takes
COPIES = 5  # of their sums, at the most, while they are factorised
ROWS_PER_CLUSTER = 256  # of the sample that k-means sees
RANK = 32  # of "low-rank"


def find_centroids(rows: Tensor, num_clusters: int, *, seed: int = 0) -> Tensor:
    """k-means centroids [K, D] of unit rows [n, D], by scipy from the start of k-means++;
    InputError for fewer rows than clusters.
    """
    from scipy.cluster.vq import kmeans2

    if len(rows) < num_clusters:
        raise InputError(
            f"{num_clusters} clusters need at least as many embeddings, there are {len(rows)}. "
            "Give fewer clusters, or add images."
        )
    rows = rows.double()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        start = _spread_out(rows, num_clusters, seed=seed)
        centroids, _ = kmeans2(rows.numpy(), start.numpy(), iter=25, minit="matrix")
    return torch.from_numpy(centroids)


def _spread_out(rows: Tensor, num: int, *, seed: int) -> Tensor:
    """`num` rows, each drawn with a chance that grows with the square of its distance to those
    before (k-means++). scipy's own compares with all before anew: hours for 1024.
    """
    generator = seeds.numpy_generator("k-means", seed)
    chosen = [int(generator.integers(len(rows)))]
    closest = torch.full((len(rows),), torch.inf, dtype=rows.dtype)
    for _ in range(num - 1):
        closest = torch.minimum(closest, (rows - rows[chosen[-1]]).square().sum(dim=1))
        chance = closest.cumsum(0)
        drawn = torch.searchsorted(chance, float(generator.uniform() * chance[-1]), right=True)
        chosen.append(min(int(drawn), len(rows) - 1))
    return rows[chosen]


class Reservoir:
    """A sample of `size` rows, drawn evenly from all batches in one pass (all, if there are fewer).

    A row's lot depends on the number of its batch and its place there alone, so that several
    processes which share the batches draw the same rows as one.
    """

    def __init__(self, size: int, *, dim: int, seed: int = 0):
        self.size, self.seed = size, seed
        self.rows = torch.empty(0, dim)
        self.priorities = torch.empty(0, dtype=torch.float64)

    def update(self, batch: Tensor, *, number: int) -> None:
        """Add the rows [n, D] of batch `number`."""
        drawn = seeds.generator("reservoir", self.seed, number)
        self._keep(batch, torch.rand(len(batch), dtype=torch.float64, generator=drawn))

    def merge(self, other: "Reservoir") -> None:
        """Add what `other` has drawn."""
        self._keep(other.rows, other.priorities)

    def all_reduce(self) -> None:
        """Add what the other processes of the group have drawn; the same in all of them."""
        missing = self.size - len(self.priorities)
        rows = F.pad(self.rows, (0, 0, 0, missing))
        priorities = F.pad(self.priorities, (0, missing), value=float("inf"))
        parts = distributed.all_gather({"rows": rows, "priorities": priorities})
        self.rows, self.priorities = self.rows[:0], self.priorities[:0]
        for part in parts:
            there = part["priorities"].isfinite()
            self._keep(part["rows"][there], part["priorities"][there])

    def _keep(self, rows: Tensor, priorities: Tensor) -> None:
        priorities = torch.cat([self.priorities, priorities])
        order = priorities.argsort()[: self.size]  # the smallest priorities
        self.rows, self.priorities = torch.cat([self.rows, rows])[order], priorities[order]


class ClusterStats:
    """Counts [K], and sums of deviations from fixed centroids [K, D], float64: exact to merge."""

    def __init__(
        self,
        encoder_id: EncoderId | None,
        centroids: Tensor,
        *,
        covariance_type: ClusterCovarianceType,
    ):
        num, dim = centroids.shape
        size = num * dim * (1 if covariance_type == "diagonal" else dim) * 8
        size *= 1 if covariance_type == "diagonal" else COPIES
        if size > MAX_BYTES:
            raise InputError(
                f"{num} clusters of {dim} dimensions with a {covariance_type} covariance "
                f"each would take {size / 2**30:.1f} GiB. Give at most "
                f"{MAX_BYTES * num // size} clusters, or diagonal covariances (`--covariance-type "
                "diagonal`; of a training `--set prior.cluster_covariance=diagonal`)."
            )
        self.encoder_id, self.centroids = encoder_id, centroids.double()
        self.covariance_type: ClusterCovarianceType = covariance_type
        self.counts = torch.zeros(num, dtype=torch.long)
        self.sums = torch.zeros(num, dim, dtype=torch.float64)
        shape = (num, dim) if covariance_type == "diagonal" else (num, dim, dim)
        self.squares = torch.zeros(shape, dtype=torch.float64)

    @property
    def num_clusters(self) -> int:
        return len(self.centroids)

    @property
    def dim(self) -> int:
        return self.centroids.shape[1]

    @property
    def fingerprint(self) -> str:
        """Changes when a centroid does."""
        return f"{seeds.seed_of(self.centroids.numpy().round(6).tobytes().hex()):016x}"

    def update(self, batch: Tensor) -> None:
        """Add embeddings [N, D], each to its closest centroid."""
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise ValueError(f"expected embeddings [N, {self.dim}], got {list(batch.shape)}")
        batch = batch.detach().to("cpu", torch.float64)
        k = torch.cdist(batch, self.centroids).argmin(dim=1)
        deviation = batch - self.centroids[k]
        self.counts += torch.bincount(k, minlength=self.num_clusters)
        self.sums.index_add_(0, k, deviation)
        if self.covariance_type == "diagonal":
            self.squares.index_add_(0, k, deviation.square())
            return
        for cluster in k.unique().tolist():
            rows = deviation[k == cluster]
            self.squares[cluster] += rows.T @ rows

    def merge(self, other: "ClusterStats") -> None:
        """Add what `other` has counted around the same centroids."""
        if other.covariance_type != self.covariance_type or not other.centroids.equal(
            self.centroids
        ):
            raise ValueError(
                "only statistics of one covariance type around the same centroids can be merged; "
                "make them with `stats --centroids`"
            )
        self.counts += other.counts
        self.sums += other.sums
        self.squares += other.squares

    def all_reduce(self) -> None:
        """Add what the other processes of the group have counted; the same in all of them."""
        for tensor in (self.counts, self.sums, self.squares):
            distributed.all_reduce_sum(tensor)

    def emptied(self) -> "ClusterStats":
        """The same centroids, around which nothing was counted yet."""
        return ClusterStats(self.encoder_id, self.centroids, covariance_type=self.covariance_type)

    def save(self, path: Path) -> None:
        """Write a clusters.safetensors, atomically."""
        encoder = self.encoder_id.to_json() if self.encoder_id else None
        names = ("centroids", "counts", "sums", "squares")
        metadata = {"kind": "clusters", "format": FORMAT, "covariance": self.covariance_type}
        tensors = {name: getattr(self, name) for name in names}
        save_tensors(path, tensors, metadata | {"encoder": encoder})

    @staticmethod
    def load(path: Path) -> "ClusterStats":
        """Read a clusters.safetensors; InputError if it is missing, damaged or of another
        format.
        """
        tensors, metadata = load_tensors(path)
        check_format(metadata, kind="clusters", version=FORMAT, path=path)
        encoder = EncoderId.from_json(metadata["encoder"]) if metadata["encoder"] else None
        stats = ClusterStats(encoder, tensors["centroids"], covariance_type=metadata["covariance"])
        names = ("centroids", "counts", "sums", "squares")
        check_like(tensors, {name: getattr(stats, name) for name in names}, path)
        for name in names[1:]:
            setattr(stats, name, tensors[name])
        return stats


def cluster(
    batches: Iterable[tuple[int, Tensor]],
    num_clusters: int,
    *,
    dim: int,
    covariance_type: ClusterCovarianceType,
    encoder_id: EncoderId | None,
    seed: int = 0,
) -> ClusterStats:
    """Centres by k-means on a sample, then one pass: of numbered batches [n, D], which are gone
    through twice; the same in every process that has a share of them.
    """
    ClusterStats(
        None, torch.empty(num_clusters, dim), covariance_type=covariance_type
    )  # does it fit?
    sample = Reservoir(num_clusters * ROWS_PER_CLUSTER, dim=dim, seed=seed)
    for number, batch in batches:
        sample.update(batch, number=number)
    sample.all_reduce()
    centroids = find_centroids(sample.rows, num_clusters, seed=seed)
    return cluster_around(
        batches, ClusterStats(encoder_id, centroids, covariance_type=covariance_type)
    )


def cluster_around(batches: Iterable[tuple[int, Tensor]], stats: ClusterStats) -> ClusterStats:
    """`stats`, still empty, of the batches [n, D] of all processes."""
    for _, batch in batches:
        stats.update(batch)
    stats.all_reduce()
    return stats


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
        """Sigma^{-1/2} (z - mean)."""
        return self._apply(z - self.mean, self.inverse_scale, self.inverse_gain)

    def unwhiten(self, y: Tensor) -> Tensor:
        """mean + Sigma^{1/2} y."""
        return self.mean + self.color(y)


class GaussianClusters:
    """K Gaussians, those without an embedding left out; `choose` gives each row one of them."""

    def __init__(self, tensors: dict[str, Tensor]):
        self._tensors = tensors  # the fields of ChosenGaussians, [K, ...], and "directions" [K, D]

    @staticmethod
    def from_stats(
        stats: ClusterStats, *, pseudo_count: float | None = None, floor: float = 0.01
    ) -> "GaussianClusters":
        """A small cluster's covariance is drawn towards the one pooled within all clusters, as if
        `pseudo_count` more embeddings had shown that (None: 10 for a diagonal, D otherwise), and
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
        return len(self._tensors["mean"])

    def to(
        self, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> "GaussianClusters":
        """A copy for computing."""
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


def same_cluster_share(clusters: GaussianClusters, text: Tensor, image: Tensor) -> float:
    """Share of pairs of unit embeddings [N, D] whose text and image choose the same cluster."""
    return float((clusters.assign(text) == clusters.assign(image)).double().mean())
