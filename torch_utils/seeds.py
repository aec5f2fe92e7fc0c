"""Randomness keyed by what it is for, so that it depends on nothing else: not on batch size, rank,
or what ran before.

A key is a tuple of integers and names, such as (seed, "z", index of the sample).
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from torch_utils.ops.philox import Distribution, philox

Key = tuple[int | str, ...]


def seed_of(*key: int | str) -> int:
    """63 bits that depend on every part of the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator for this key."""
    return torch.Generator().manual_seed(seed_of(*key))


def numpy_generator(*key: int | str) -> np.random.Generator:
    """A numpy generator for this key."""
    return np.random.default_rng(seed_of(*key))


def normal_per_sample(shape: Sequence[int], *, key: Key, indices: Sequence[int] | Tensor) -> Tensor:
    """Standard normal [len(indices), *shape] float32; row i depends on `key` and `indices[i]`
    alone. On the device of `indices` if they are a tensor, else on the CPU; the same to rounding.
    """
    return _per_sample(shape, key, indices, "normal")


def uniform_per_sample(
    shape: Sequence[int], *, key: Key, indices: Sequence[int] | Tensor
) -> Tensor:
    """Uniform [0, 1) [len(indices), *shape] float32; row i depends on `key` and `indices[i]`
    alone. On the device of `indices` if they are a tensor, else on the CPU; the same everywhere.
    """
    return _per_sample(shape, key, indices, "uniform")


def _per_sample(
    shape: Sequence[int], key: Key, indices: Sequence[int] | Tensor, distribution: Distribution
) -> Tensor:
    if not isinstance(indices, Tensor):
        indices = torch.tensor([_wrapped(index) for index in indices], dtype=torch.int64)
    numbers = philox(indices, math.prod(shape), key=seed_of(*key), distribution=distribution)
    return numbers.view(len(indices), *shape)


def _wrapped(index: int) -> int:
    """The low 64 bits, as a signed number."""
    return (index + 2**63) % 2**64 - 2**63


def epoch_indices(positions: Sequence[int], *, size: int, key: Key) -> list[int]:
    """Where the data order puts the given global positions: a fresh permutation of `size` items
    every epoch.
    """
    picked = []
    for position in positions:
        epoch, offset = divmod(position, size)
        picked.append(int(_epoch_order(size, (*key, "epoch", epoch))[offset]))
    return picked


@lru_cache(maxsize=4)  # a step asks for one epoch's order, or two
def _epoch_order(size: int, key: Key) -> Tensor:
    return torch.randperm(size, generator=generator(*key))
