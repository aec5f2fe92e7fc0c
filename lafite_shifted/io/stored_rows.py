"""Rows of tensors in safetensors files, read when they are wanted: a set of embeddings may be
larger than the memory. They are read by position rather than mapped: what a training has touched
does not count as its memory, and a disk that fails is an error, not a signal.

Shape letters: n rows, D embedding.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import load_tensors

BATCH = 8192  # rows at a time, of whatever reads all of them
_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
_DENSE = 4  # rows of a span for each one that is wanted: up to this the span is read at once


class StoredTensor(NamedTuple):
    """A tensor [n, ...] in a file."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # of its first byte

    def read(self, rows: np.ndarray) -> Tensor:
        """The rows of these numbers, in any order."""
        if not len(rows):
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        first, last = int(rows.min()), int(rows.max())
        if last - first < _DENSE * len(rows):
            return self.span(first, last + 1)[torch.from_numpy(rows - first)]
        with self.path.open("rb", buffering=0) as file:
            found = [self._bytes(file.fileno(), row, row + 1) for row in rows.tolist()]
        return self._tensor(b"".join(found), len(rows))

    def span(self, start: int, end: int) -> Tensor:
        """Rows start to end - 1."""
        if start == end:
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        with self.path.open("rb", buffering=0) as file:
            return self._tensor(self._bytes(file.fileno(), start, end), end - start)

    def all(self) -> Tensor:
        """The whole tensor."""
        return self.span(0, self.shape[0])

    def _bytes(self, file: int, start: int, end: int) -> bytes:
        size = self.dtype.itemsize
        for count in self.shape[1:]:
            size *= count
        content = os.pread(file, (end - start) * size, self.offset + start * size)
        if len(content) < (end - start) * size:
            raise InputError(f"{self.path} has become shorter. Make it again.")
        return content

    def _tensor(self, content: bytes, count: int) -> Tensor:
        return torch.frombuffer(bytearray(content), dtype=self.dtype).view(count, *self.shape[1:])


def open_tensors(path: Path, *, remedy: str) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Tensors and metadata of a file that `save_tensors` wrote; InputError, ending in `remedy`,
    where it is damaged or foreign.
    """
    _, metadata = load_tensors(path, only=(), remedy=remedy)  # checks the header, and the length
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise InputError(f"{path}: {name} is of type {entry['dtype']}. {remedy}")
        place = 8 + size + entry["data_offsets"][0]
        shape = tuple(entry["shape"])
        found[name] = StoredTensor(path, _DTYPES[entry["dtype"]], shape, place)
    return found, metadata


class StoredRows:
    """Rows [n, D] float32 of tensors [*, D], read when they are indexed; `rows[key]` is a tensor
    for any key that numpy takes.
    """

    def __init__(
        self,
        tensors: Sequence[StoredTensor],
        *,
        tensor: np.ndarray,
        row: np.ndarray,
        dim: int,
        prepare: Callable[[Tensor], Tensor],
    ):
        """Row i is row `row[i]` of `tensors[tensor[i]]`, after `prepare` ([n, D] -> [n, D], each
        row by itself).
        """
        self._tensors, self._tensor, self._row = tensors, tensor, row
        self._prepare, self.shape = prepare, torch.Size([len(row), dim])

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, key: int | slice | Sequence[int] | Tensor) -> Tensor:
        if isinstance(key, int):
            return self[[key]][0]
        tensor, row = self._places(key)
        found = torch.empty(len(row), self.shape[1])
        order = np.argsort(tensor, kind="stable")
        starts = np.flatnonzero(np.diff(tensor[order], prepend=-1))
        for places in np.split(order, starts[1:]):
            if len(places):
                part = self._tensors[int(tensor[places[0]])].read(row[places].astype(np.int64))
                found[torch.from_numpy(places)] = part.float()
        return self._prepare(found)

    def take(self, key: slice | Sequence[int] | Tensor) -> "StoredRows":
        """Some of the rows, unread."""
        tensor, row = self._places(key)
        dim, prepare = self.shape[1], self._prepare
        return StoredRows(self._tensors, tensor=tensor, row=row, dim=dim, prepare=prepare)

    def _places(self, key: slice | Sequence[int] | Tensor) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(key, Tensor):
            chosen: Any = key.numpy()
        else:
            chosen = key if isinstance(key, slice) else np.asarray(key, dtype=np.int64)
        return self._tensor[chosen], self._row[chosen]


Rows = Tensor | StoredRows  # [n, D]


@dataclass(frozen=True)
class Batches:
    """All rows, `size` at a time, with the number of the batch; again whenever it is iterated."""

    rows: Rows
    size: int = BATCH

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for number, start in enumerate(range(0, len(self.rows), self.size)):
            yield number, self.rows[start : start + self.size]
