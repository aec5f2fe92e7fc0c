"""Which device and which dtype to compute in."""

import os
import platform
import resource
from typing import Literal

import torch

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a GPU, else the CPU; under torchrun each process has a GPU of
    its own. A GPU becomes the process's current one. Raises ValueError for a device that is not
    there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name.startswith("meta"):
        raise ValueError("device 'meta' computes nothing")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            # else what names no device, as NCCL's barrier, would use the first of the machine
            torch.cuda.set_device(device)
        if device.type == "cuda":
            _set_policy()
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not available here: {str(error).splitlines()[0]}"
        ) from error
    return device


def _set_policy() -> None:
    """How a GPU computes: float32 means float32, in products and convolutions alike (what may be
    coarser is bfloat16), and the fastest convolution is looked for, since sizes repeat.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32. Intel's AVX-512 multiplies as
    many numbers of either a cycle, and bfloat16 has conversions beside it; AMD's twice as many.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities()
    if found.get("amx_bf16"):
        return True
    return bool(found.get("avx512_bf16")) and "Intel" not in found.get("cpu_name", "")


def pick_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where it is fast, else float32. ValueError for another name."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ValueError(f"dtype {name!r} is not one of auto, {', '.join(dtypes)}")
    return dtypes[name]


def peak_gib() -> float:
    """The most memory that this process has held so far: of the GPU, as PyTorch has given it out,
    where it uses one, else of the machine.
    """
    if torch.cuda.is_initialized():
        return max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))) / 2**30
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
