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

    def unscale(self, parameters: list[nn.Parameter]) -> None:
        """Divide the gradients, in place."""
        if self.is_dynamic:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.scale)

    def update(self, *, finite: bool) -> None:
        """After a step, or after one that was skipped."""
        if not self.is_dynamic:
            return
        if not finite:
            self.scale.mul_(0.5).clamp_(min=1.0)
            self.finite_steps.zero_()
            return
        self.finite_steps += 1
        grows = self.finite_steps % GROWTH_STEPS == 0  # on the device: nobody waits for it
        self.scale.mul_(torch.where(grows, 2.0, 1.0)).clamp_(max=LARGEST)
