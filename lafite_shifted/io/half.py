"""Weights stored in float16, which takes half the room. They are loaded into float32."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.errors import InputError

LARGEST = torch.finfo(torch.float16).max


def in_half(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Matrices and kernels in float16; vectors, such as biases and the mean of w, as they are: they
    are few. InputError, naming `path`, where a number is too large.
    """
    large = [name for name, t in tensors.items() if _is_matrix(t) and t.abs().max() > LARGEST]
    if large:
        raise InputError(
            f"{path}: {large[0]!r} holds numbers above {LARGEST:g}, which float16 cannot. Leave "
            "--half out."
        )
    return {name: t.half() if _is_matrix(t) else t for name, t in tensors.items()}


def in_float(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, but for rounding."""
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in tensors.items()
    }


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() > 0
