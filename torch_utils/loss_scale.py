"""Dynamic scaling of losses, so that gradients in float16 do not vanish (arXiv:1710.03740)."""

import torch
from torch import Tensor, nn

GROWTH_STEPS = 2000  # finite steps after which the scale doubles
LARGEST = 2.0**16


class LossScale(nn.Module):
    """A factor for losses, halved where a gradient is not finite. Its state belongs to a run's."""

    scale: Tensor
    finite_steps: Tensor

    def __init__(self, dtype: torch.dtype):
        """1 for ever, unless `dtype` is float16."""
        super().__init__()
        self.is_dynamic = dtype == torch.float16
        self.register_buffer("scale", torch.tensor(2.0**14 if self.is_dynamic else 1.0))
        self.register_buffer("finite_steps", torch.zeros((), dtype=torch.long))

    @property
    def divisor(self) -> Tensor | None:
        """What a fused optimizer divides the gradients by; None for 1."""
        return self.scale if self.is_dynamic else None

    def update(self, overflowed: Tensor) -> None:
        """After a step, or after one that was skipped where `overflowed` [] is 1; on the device:
        nobody waits for it.
        """
        if not self.is_dynamic:
            return
        skipped = overflowed > 0
        self.finite_steps.add_(1).masked_fill_(skipped, 0)
        grows = ~skipped & (self.finite_steps % GROWTH_STEPS == 0)
        larger = torch.where(grows, (2 * self.scale).clamp(max=LARGEST), self.scale)
        self.scale.copy_(torch.where(skipped, (self.scale / 2).clamp(min=1.0), larger))
