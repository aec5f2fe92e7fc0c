"""Tensors of the host, sent to a GPU as one message that nobody waits for."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes


def send(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors of the CPU on `device`, by name; to a GPU through one buffer of pinned memory."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    starts, end = [], 0
    for tensor in tensors.values():
        starts.append(end)
        end += math.ceil(tensor.numel() * tensor.element_size() / ALIGNMENT) * ALIGNMENT
    buffer = torch.empty(end, dtype=torch.uint8, pin_memory=True)
    for start, tensor in zip(starts, tensors.values(), strict=True):
        _view(buffer, start, tensor).copy_(tensor)
    there = buffer.to(device, non_blocking=True)
    named = zip(starts, tensors.items(), strict=True)
    return {name: _view(there, start, tensor) for start, (name, tensor) in named}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU, or one that is there already, on `device`; a GPU's work is not
    waited for.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def _view(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """The part of the bytes `buffer` from `start` that `like` fills, as it is."""
    size = like.numel() * like.element_size()
    return buffer[start : start + size].view(like.dtype).view(like.shape)
