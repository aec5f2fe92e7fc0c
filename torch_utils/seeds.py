"""Randomness keyed by what it is for, so that it depends on nothing else: not on batch size, rank,
or what ran before.

A key is a tuple of integers and names, such as (seed, "z", index of the sample).
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

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


def normal_per_sample(shape: Sequence[int], *, key: Key, indices: Sequence[int]) -> Tensor:
    """Standard normal [len(indices), *shape], float32 CPU; row i depends on `key` and `indices[i]`
    alone.
    """
    return torch.stack(
        [torch.randn(tuple(shape), generator=generator(*key, index)) for index in indices]
    )


def uniform_per_sample(shape: Sequence[int], *, key: Key, indices: Sequence[int]) -> Tensor:
    """Uniform [0, 1) [len(indices), *shape], float32 CPU; row i depends on `key` and `indices[i]`
    alone.
    """
    return torch.stack(
        [torch.rand(tuple(shape), generator=generator(*key, index)) for index in indices]
    )


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
