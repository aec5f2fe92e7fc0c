"""Memory layouts that the compiled operators read and write as they are.

Shape letters: N batch, C channels, H W image.
"""

import torch
from torch import Tensor

from ops_cuda.library import LAYOUTS


def laid_out(x: Tensor) -> tuple[Tensor, int]:
    """`x` itself where it is contiguous or channels-last, else a contiguous copy; and the
    interface's number for its layout.
    """
    if x.is_contiguous():
        return x, LAYOUTS["contiguous"]
    if is_channels_last(x):
        return x, LAYOUTS["channels_last"]
    return x.contiguous(), LAYOUTS["contiguous"]


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
        x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    )


def accumulator(x: Tensor) -> torch.dtype:
    """What the operators compute in for `x`: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def side_inputs(x: Tensor, *values: Tensor | None) -> list[Tensor | None]:
    """Biases, noise and scales as the operators on `x` read them: contiguous, in the accumulator's
    dtype. ValueError for one on another device.
    """
    wanted = accumulator(x)
    for value in values:
        if value is not None and value.device != x.device:
            raise ValueError(f"activations are on {x.device}, a side input on {value.device}")
    return [
        value
        if value is None or (value.dtype == wanted and value.is_contiguous())
        else value.to(wanted).contiguous()
        for value in values
    ]


def pointers(*tensors: Tensor | None) -> list[int | None]:
    """The addresses of dense tensors."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
