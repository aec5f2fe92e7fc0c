"""k-means on a sample of the embeddings: the sample of one pass, and the centroids.

Shape letters: K clusters, D embedding.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.errors import InputError
from torch_utils import distributed, seeds


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
    """`num` rows, each sampled with a probability that grows with the square of its distance
    to those before (k-means++). scipy's own compares with all before anew: hours for 1024.
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
    """A uniform sample of `size` rows [D] of all batches in one pass (all, if there are fewer).

    A row's random number depends on the number of its batch and its place there alone, so that
    several processes which share the batches sample the same rows as one.
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
        """Add what `other` has sampled."""
        self._keep(other.rows, other.priorities)

    def all_reduce(self) -> None:
        """Add what the other processes of the group have sampled; the same in all of them."""
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
