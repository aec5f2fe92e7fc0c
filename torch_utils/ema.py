"""Exponential moving average of a network's parameters, with the half-life stated in samples."""

import copy
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

RAMP = 0.05  # of the half-life, in samples a sample seen
Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """Keeps `network`, a frozen copy of the source whose parameters follow it; buffers are copied.

    The half-life grows with training up to `half_life` samples: min(half_life, ramp * samples
    seen), so that the first random weights are forgotten (arXiv:1912.04958, official configuration:
    ramp 0.05).
    """

    def __init__(self, source: Network, *, half_life: float, ramp: float = RAMP):
        self.network = copy.deepcopy(source).eval().requires_grad_(False)
        self.half_life = half_life
        self.ramp = ramp

    @torch.no_grad()
    def update(self, source: Network, *, batch: int, samples_seen: int) -> None:
        """Move the parameters towards those of `source`, copy its buffers."""
        half_life = max(min(self.half_life, self.ramp * samples_seen), 1e-8)
        decay = 0.5 ** (batch / half_life)
        averages, parameters = _tensors(self.network.parameters()), _tensors(source.parameters())
        torch._foreach_lerp_(averages, parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for kept, buffer in zip(self.network.buffers(), source.buffers(), strict=True):
            kept.copy_(buffer)


def _tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list(tensors)
