"""Metrics of sets of embeddings, or of the features of a judge. Shape letters: N rows, D embedding,
F features.
"""

import math

import torch
from torch import Tensor

from lafite_shifted.gaussian.frechet import frechet_distance
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.stored_rows import BATCH, Batches, Rows
from torch_utils.host_reads import HostRead, on_host

NEIGHBOUR = 3  # whose distance is the radius of a row's part of the manifold


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean cosine of unit rows [N, D] that belong together."""
    return float((a * b).sum(dim=1).mean())


def intra_set_cosine(a: Tensor) -> float:
    """Mean cosine over pairs of different unit rows [N, D]: low is diverse."""
    return float((a.sum(dim=0).square().sum() - len(a)) / (len(a) * (len(a) - 1)))


def set_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance between two sets of embeddings; compare only at equal counts."""
    if 1 < len(a) < a.shape[1] and 1 < len(b) < b.shape[1]:
        return _distance_of_few(a, b)
    return frechet_distance(EmbeddingStats.of(a), EmbeddingStats.of(b))


def _distance_of_few(a: Tensor, b: Tensor) -> float:
    """The same for sets [N, D] and [M, D] of fewer rows than dimensions, whose covariances are
    A = X^T X and B = Y^T Y: tr (A^{1/2} B A^{1/2})^{1/2} is the sum of X Y^T's singular values.
    """
    a, b = (on_host(rows, HostRead.STATISTICS).double() for rows in (a, b))
    x, y = ((rows - rows.mean(dim=0)) / math.sqrt(len(rows) - 1) for rows in (a, b))
    cross = torch.linalg.svdvals(x @ y.T).sum()
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return max(float(means + x.square().sum() + y.square().sum() - 2 * cross), 0.0)


def few_samples_note(count: int, dim: int) -> str | None:
    """What to say of a Frechet distance of `count` embeddings: with no more of them than
    dimensions their covariance is singular, and the distance mostly tells of their number.
    """
    if count > dim:
        return None
    return (
        f"note: the Frechet distance is of {count} embeddings in {dim} dimensions, too few for a "
        f"covariance. Compare kernel distances, or evaluate on more than {dim} images."
    )


def retrieval_at(similarity: Tensor, k: int) -> float:
    """Share of rows of [M, M] with the diagonal among their k largest; ties count against it."""
    rank = (similarity >= similarity.diagonal()[:, None]).sum(dim=1)
    return float((rank <= k).float().mean())


def nearest(rows: Tensor, among: Rows, *, without: Tensor | None = None) -> Tensor:
    """Index into `among` [M, D] of the closest unit vector to each of `rows` [N, D], but for the
    indices `without`.
    """
    best = rows.new_full((len(rows),), -math.inf)
    found = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for number, batch in Batches(among):
        similarity = rows @ batch.to(rows.device).T
        if without is not None:
            here = without[without // BATCH == number] - number * BATCH
            similarity[:, here] = -math.inf
        cosine, index = similarity.max(dim=1)
        closer = cosine > best
        best = torch.where(closer, cosine, best)
        found = torch.where(closer, index + number * BATCH, found)
    return found


def neighbours(rows: Tensor, among: Rows, *, count: int) -> Tensor:
    """Indices [N, count] of the closest unit vectors, the closest first."""
    cosine, found = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.long)
    for number, batch in Batches(among):
        best, index = (rows @ batch.T).topk(min(count, len(batch)), dim=1)
        cosine = torch.cat([cosine, best], dim=1)
        found = torch.cat([found, index + number * BATCH], dim=1)
        cosine, order = cosine.topk(min(count, cosine.shape[1]), dim=1)
        found = found.gather(1, order)
    return found


def precision_and_recall(real: Tensor, made: Tensor) -> tuple[float, float]:
    """Share of `made` [N, D] within the manifold of `real` [M, D], and the other way round: a row
    lies in a manifold if it is as close to a row of it as that row's third neighbour
    (arXiv:1904.06991, eq. 1 and 2).
    """
    real, made = real.double(), made.double()
    apart = torch.cdist(made, real)  # [N, M]

    def radii(rows: Tensor) -> Tensor:
        return torch.cdist(rows, rows).kthvalue(min(NEIGHBOUR + 1, len(rows)), dim=1).values

    precision = (apart <= radii(real)[None]).any(dim=1).double().mean()
    recall = (apart <= radii(made)[:, None]).any(dim=0).double().mean()
    return float(precision), float(recall)


def kernel_distance(a: Tensor, b: Tensor, *, paired: bool = False) -> float:
    """Squared maximum mean discrepancy of two sets of unit rows [N, D] and [M, D] by the kernel
    (1 + <x, y>)^3, unbiased (arXiv:1801.01401, eq. 4): it may fall below 0.

    `paired`: row i of both belongs to the same caption, and is left out of the cross term, which
    assumes independent rows.
    """

    def mean(x: Tensor, y: Tensor, *, without_diagonal: bool) -> Tensor:
        kernel = (1 + x @ y.T) ** 3
        if not without_diagonal:
            return kernel.mean()
        return (kernel.sum() - kernel.diagonal().sum()) / (len(x) * (len(x) - 1))

    a, b = a.double(), b.double()
    within = mean(a, a, without_diagonal=True) + mean(b, b, without_diagonal=True)
    return float(within - 2 * mean(a, b, without_diagonal=paired))


def feature_kernel_distance(a: Tensor, b: Tensor, *, paired: bool = False) -> float:
    """The same of features [N, F] and [M, F] by the kernel (<x, y> / F + 1)^3 (arXiv:1801.01401,
    section 4, as Kernel Inception Distance).
    """
    root = a.shape[1] ** 0.5
    return kernel_distance(a.double() / root, b.double() / root, paired=paired)
