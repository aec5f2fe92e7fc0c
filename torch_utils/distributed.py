"""The processes that torchrun has started, or the one that it has not.

What a process has is gathered as tensors: nothing is pickled.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIME_LIMIT = timedelta(minutes=10)  # of waiting for another process


def rank() -> int:
    """Number of this process, 0 if it is alone."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """How many processes torchrun has started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def group() -> Iterator[None]:
    """Join the other processes, by gloo: what is gathered lies on the CPU."""
    if num_processes() == 1:
        yield
        return
    dist.init_process_group("gloo", timeout=TIME_LIMIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of all processes, in the order of their ranks; names and shapes must agree."""
    if not (dist.is_available() and dist.is_initialized()):
        return [dict(tensors)]
    parts: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
    for name, tensor in tensors.items():
        received = [torch.empty_like(tensor) for _ in parts]
        dist.all_gather(received, tensor.contiguous())
        for part, value in zip(parts, received, strict=True):
            part[name] = value
    return parts


def add(tensor: Tensor) -> None:
    """Replace the tensor by its sum over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
