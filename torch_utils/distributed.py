"""The processes that torchrun has started, or the one that it has not.

What a process has is gathered as tensors: nothing is pickled.
"""

import os
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from torch_utils.seeds import seed_of

# seconds of waiting for another process: the first may be evaluating; torchrun notices dead ones
# sooner
TIME_LIMIT_S = 3600.0


def rank() -> int:
    """Number of this process, 0 if it is alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes torchrun has started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def shard(positions: range) -> range:
    """This process's part of a batch, consecutive and as large as the others'."""
    each, rest = divmod(len(positions), world_size())
    if rest:
        raise ValueError(f"{len(positions)} are not shared evenly by {world_size()} processes")
    return positions[rank() * each : (rank() + 1) * each]


@contextmanager
def group(*, time_limit_s: float = TIME_LIMIT_S) -> Iterator[None]:
    """Join the other processes: by gloo for what lies on the CPU, by NCCL on GPUs. Who waits longer
    than `time_limit_s` for another fails, and all end.
    """
    if world_size() == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=time_limit_s))
    neighbours = _on_this_machine()
    try:
        yield
    except RuntimeError as error:  # gloo has no type of its own
        if "timed out" in str(error).lower():
            # one hangs: torchrun would ask it to end first, and wait for another 30 s
            for process in neighbours:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        raise
    finally:
        dist.destroy_process_group()


def _on_this_machine() -> list[int]:
    """Ids of the other processes of the group that run here."""
    own = torch.tensor([seed_of(socket.gethostname()), os.getpid()])
    found = [part["own"].tolist() for part in all_gather({"own": own})]
    return [process for host, process in found if host == own[0] and process != os.getpid()]


def all_gather(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of all processes, in the order of their ranks; names and shapes must agree."""
    if not _is_joined():
        return [dict(tensors)]
    parts: list[dict[str, Tensor]] = [{} for _ in range(dist.get_world_size())]
    for name, tensor in tensors.items():
        received = [torch.empty_like(tensor) for _ in parts]
        dist.all_gather(received, tensor.contiguous())
        for part, value in zip(parts, received, strict=True):
            part[name] = value
    return parts


def all_gather_rows(tensor: Tensor) -> Tensor:
    """The rows [N, ...] of all processes, in the order of their ranks, as constants."""
    return torch.cat([part["rows"] for part in all_gather({"rows": tensor.detach()})])


def union(numbers: list[int]) -> list[int]:
    """The numbers that any process has, sorted."""
    counts = all_gather({"count": torch.tensor(len(numbers))})
    most = max(int(part["count"]) for part in counts)
    if most == 0:
        return []
    padded = torch.tensor([*numbers, *[-1] * (most - len(numbers))])
    parts = all_gather({"numbers": padded})
    found = {number for part in parts for number in part["numbers"].tolist()}
    return sorted(found - {-1})


def all_reduce_sum(tensor: Tensor) -> None:
    """Replace the tensor by its sum over all processes."""
    if _is_joined():
        dist.all_reduce(tensor)


def all_reduce_max(tensor: Tensor) -> None:
    """Replace the tensor by the largest of all processes, entry by entry."""
    if _is_joined():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)


def all_reduce_mean(tensors: Iterable[Tensor | None]) -> None:
    """Replace each tensor by its mean over all processes, in one flat message (None is skipped, and
    must be None everywhere).
    """
    present = [tensor for tensor in tensors if tensor is not None]
    if not _is_joined() or not present:
        return
    flat = torch.cat([tensor.flatten() for tensor in present])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [tensor.numel() for tensor in present]
    for tensor, part in zip(present, flat.split(sizes), strict=True):
        tensor.copy_(part.view_as(tensor))


def barrier() -> None:
    """Wait until every process is here."""
    if _is_joined():
        dist.barrier()


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
