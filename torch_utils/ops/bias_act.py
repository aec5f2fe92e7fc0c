"""bias_act: add a bias per channel, apply the activation, multiply by a gain, clamp.

The pure-PyTorch reference. Shape letters: N batch, C channels.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Activation = Literal["linear", "leaky_relu"]
SLOPE = 0.2  # of the leaky ReLU below zero
DEFAULT_GAIN = {"linear": 1.0, "leaky_relu": 2.0**0.5}  # keeps the second moment


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Activation of x [N, C, ...] + bias [C], times `gain` (None: the activation's own), clamped to
    +-`clamp`.
    """
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if activation == "leaky_relu":
        x = F.leaky_relu(x, SLOPE)
    gain = DEFAULT_GAIN[activation] if gain is None else gain
    if gain != 1.0:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
