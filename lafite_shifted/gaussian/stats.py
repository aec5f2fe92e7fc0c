"""Mean and covariance of CLIP embeddings, which the prior, the GAN and the metrics share.

`EmbeddingStats` counts in float64, one pass, and merges exactly (Chan, Golub, LeVeque 1979), over
files and over the processes of torchrun. Where several CLIPs are concatenated, each has a block of
its own.

Shape letters: N batch, D embedding, B blocks.
"""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.check_tensors import check_like
from lafite_shifted.io.files import check_format, load_tensors, save_tensors
from lafite_shifted.io.stored_rows import Batches, Rows
from torch_utils import distributed
from torch_utils.host_reads import HostRead, on_host

FORMAT = 3


class EmbeddingStats:
    """Count, mean [D] and M2 [D, D] (sum of outer products of deviations d from the mean), and for
    each block the sums of |d|^2 d [D] and of |d|^4 [B] that shrinkage needs; float64 on the CPU.
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
        """D, of all blocks together."""
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
        """Add embeddings [N, D], on any device; ValueError for another shape, InputError where a
        number is not finite.
        """
        if batch.ndim != 2 or batch.shape[1] != self.dim:
            raise ValueError(f"expected embeddings [N, {self.dim}], got {list(batch.shape)}")
        if len(batch) == 0:
            return
        batch = on_host(batch, HostRead.STATISTICS).double()
        mean = batch.mean(dim=0)
        if not mean.isfinite().all():
            raise InputError(
                "Embeddings hold numbers that are not finite. Delete them and embed the images "
                "again, with a CLIP whose weights are whole."
            )
        deviation = batch - mean
        parts = [deviation[:, part] for part in self._slices]
        squared = [part.square().sum(dim=1) for part in parts]  # each [N]
        third = torch.cat([q @ part for q, part in zip(squared, parts, strict=True)])
        fourth = torch.stack([q.square().sum() for q in squared])
        self._add(len(batch), mean, deviation.T @ deviation, third, fourth)

    def merge(self, other: "EmbeddingStats") -> None:
        """Add everything that `other` has counted; exact up to float64 rounding, in any order.
        ValueError where the dimensions or the blocks differ.
        """
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
    def of(embeddings: Rows, encoder_id: EncoderId | None = None) -> "EmbeddingStats":
        """Statistics of all rows [N, D]."""
        stats = EmbeddingStats(encoder_id, dim=embeddings.shape[1])
        for _, batch in Batches(embeddings):
            stats.update(batch)
        return stats


def _moved(
    count: int, m2: Tensor, third: Tensor, fourth: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums of |d|^2 d and |d|^4 when every deviation d grows by `shift` (the d sum to zero)."""
    size, trace, pulled = shift.square().sum(), m2.trace(), m2 @ shift
    moved = third + trace * shift + 2 * pulled + count * size * shift
    powers = fourth + 4 * shift @ (third + pulled) + 2 * trace * size + count * size.square()
    return moved, powers


class Mergeable(Protocol):
    """Statistics of embeddings by one encoder."""

    encoder_id: EncoderId | None

    def merge(self, other: Any) -> None:
        """Add what `other` has counted; ValueError if it does not fit."""


Stats = TypeVar("Stats", bound=Mergeable)


def merged(parts: Sequence[Stats]) -> Stats:
    """The sum of statistics of one kind; the parts stay as they are. InputError where their
    encoders, dimensions or centroids differ.
    """
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
