"""Counts and moments of image embeddings around the centroids of clusters: in one pass, mergeable
(arXiv:2211.15388, section 3.3).

Shape letters: N batch, K clusters, D embedding.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.kmeans import Reservoir, find_centroids
from lafite_shifted.io.check_tensors import check_like
from lafite_shifted.io.files import check_format, load_tensors, save_tensors
from torch_utils import distributed, seeds
from torch_utils.host_reads import HostRead, on_host

FORMAT = 2
ClusterCovarianceType = Literal["diagonal", "low-rank", "full"]
MAX_BYTES = 4 * 2**30  # of what a covariance for each cluster takes
COPIES = 5  # of their sums, at the most, while they are factorised
ROWS_PER_CLUSTER = 256  # of the sample that k-means takes


class ClusterStats:
    """Counts [K], and sums [K, D] and squares of deviations from fixed centroids [K, D]: float64,
    exact to merge. The squares are [K, D] for diagonal covariances and [K, D, D] otherwise.
    InputError where they would take more than MAX_BYTES.
    """

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
        """K."""
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """D."""
        return self.centroids.shape[1]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when a centroid does."""
        return f"{seeds.seed_of(self.centroids.numpy().round(6).tobytes().hex()):016x}"

    def update(self, batch: Tensor) -> None:
        """Add embeddings [N, D], each to its closest centroid; ValueError for another shape."""
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise ValueError(f"expected embeddings [N, {self.dim}], got {list(batch.shape)}")
        batch = on_host(batch, HostRead.STATISTICS).double()
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
        """Add what `other` has counted around the same centroids; ValueError for other ones."""
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
    """Centroids by k-means on a sample, then statistics of all: two passes over numbered batches
    [n, D]. The result is the same in every process that has a shard of them. InputError for fewer
    rows than clusters, or where the statistics do not fit.
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
    """`stats`, still empty, after one pass over the batches [n, D] of all processes."""
    for _, batch in batches:
        stats.update(batch)
    stats.all_reduce()
    return stats
