"""Memory layouts that the compiled operators read and write as they are.

Shape letters: N batch, C channels, H W picture.
"""

import torch
from torch import Tensor

from ops_cuda.library import LAYOUTS


def dense(x: Tensor) -> Tensor:
    """`x` itself where it is contiguous or channels-last, else a contiguous copy."""
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def dense_like(x: Tensor, other: Tensor) -> Tensor:
    """`x` with the strides of `other`, which is dense and has its shape; itself where it has
    them.
    """
    if x.stride() == other.stride():
        return x
    return torch.empty_like(other, dtype=x.dtype).copy_(x)


def is_channels_last(x: Tensor) -> bool:
    """Whether [N, C, H, W] lies as [N, H, W, C] and not as [N, C, H, W] too."""
    return (
        x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    )


def layout_of(x: Tensor) -> int:
    """The interface's number for the layout of a dense [N, C, H, W]."""
    return LAYOUTS["channels_last" if is_channels_last(x) else "contiguous"]


def accumulator(x: Tensor) -> torch.dtype:
    """What the operators compute in for `x`: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def side_input(value: Tensor, x: Tensor) -> Tensor:
    """A bias, noise or scale as the operators on `x` read it: contiguous, in the accumulator's
    dtype.
    """
    wanted = accumulator(x)
    if value.dtype == wanted and value.is_contiguous():
        return value
    return value.to(wanted).contiguous()
