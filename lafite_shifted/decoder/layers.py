"""Layers with equalised learning rate (arXiv:1710.10196, section 4.1), and StyleGAN2's modulated
convolution.

A weight is stored as N(0, 1) and scaled by 1 / sqrt(fan_in) where it is used. Activations may be
bfloat16; weights and statistics stay float32 and are cast at the line.

Shape letters: N batch, I inputs, O outputs, L layers, H W image, K kernel.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torch_utils.ops import bias_act, upfirdn2d
from torch_utils.ops.bias_act import DEFAULT_GAIN, SLOPE, Activation
from torch_utils.ops.upfirdn2d import TAPS

T = TypeVar("T")


def checkpointed(function: Callable[..., T], *inputs: Any, when: bool) -> T:
    """function(*inputs). `when` it is for the gradient, activations in between are not kept but
    computed again (arXiv:1604.06174).
    """
    if not (when and torch.is_grad_enabled()):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def clamp_of(dtype: torch.dtype) -> float | None:
    """Activations in float16 are clamped, far below where it ends (arXiv:2006.06676, appendix)."""
    return 256.0 if dtype == torch.float16 else None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    bias_gain: float = 1.0,
    weight_gain: float = 1.0,
) -> Tensor:
    """weight_gain x W^T + bias_gain b, or without a bias x W^T: x [N, I], weight [O, I], bias [O]
    -> [N, O].

    As a batch of blocks of W's rows: a batch's products are shared out to a CPU's threads, while a
    product with few columns, which takes as long as reading W does, is left to one of them.
    """
    num_blocks = math.gcd(len(weight), 8)
    blocks = weight.view(num_blocks, -1, weight.shape[1])  # [B, O / B, I]
    columns = x.T.expand(num_blocks, -1, -1)  # [B, I, N]
    if bias is None:
        y = torch.bmm(blocks, columns)
    else:
        rows = bias.view(num_blocks, -1, 1)
        y = torch.baddbmm(rows, blocks, columns, beta=bias_gain, alpha=weight_gain)
    # A contiguous result, whose strides say so even where N is 1: otherwise a product on a CPU
    # takes it for a matrix of columns, and several times as long.
    if len(x) == 1:
        return y.view(1, -1)
    return y.flatten(0, 1).T.contiguous()


class EqualLinear(nn.Module):
    """y = activation(x W^T + b), float32."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        activation: Activation = "linear",
        bias_init: float = 0.0,
        learning_rate_multiplier: float = 1.0,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs) / learning_rate_multiplier)
        self.bias = nn.Parameter(torch.full((num_outputs,), bias_init / learning_rate_multiplier))
        self.activation: Activation = activation
        # The activation's gain is above 0, so leaky_relu(x) gain = leaky_relu(x gain).
        self.multiplier = learning_rate_multiplier * DEFAULT_GAIN[activation]
        self.weight_gain = self.multiplier / math.sqrt(num_inputs)

    def forward(self, x: Tensor) -> Tensor:
        gains = {"bias_gain": self.multiplier, "weight_gain": self.weight_gain}
        y = linear(x, self.weight, self.bias, **gains)  # [N, O]
        return F.leaky_relu(y, SLOPE) if self.activation == "leaky_relu" else y


class EqualLinears(nn.Module):
    """L layers like EqualLinear with leaky ReLU, side by side, as one batched product."""

    def __init__(
        self,
        num_layers: int,
        num_inputs: int,
        num_outputs: int,
        *,
        learning_rate_multiplier: float = 1.0,
    ):
        super().__init__()
        weight = torch.randn(num_layers, num_outputs, num_inputs)
        self.weight = nn.Parameter(weight / learning_rate_multiplier)
        self.bias = nn.Parameter(torch.zeros(num_layers, num_outputs))
        self.multiplier = learning_rate_multiplier * DEFAULT_GAIN["leaky_relu"]
        self.weight_gain = self.multiplier / math.sqrt(num_inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[L, N, I] -> [L, N, O]."""
        y = torch.baddbmm(
            self.bias[:, None, :],
            x,
            self.weight.transpose(1, 2),
            beta=self.multiplier,
            alpha=self.weight_gain,
        )
        return F.leaky_relu(y, SLOPE)


class EqualConv2d(nn.Module):
    """Convolution, bias and activation; with `down` a low-pass filter first, then stride 2."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        kernel: int,
        activation: Activation = "leaky_relu",
        bias: bool = True,
        down: bool = False,
    ):
        super().__init__()
        self.activation: Activation = activation
        self.down = down
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(num_outputs)) if bias else None
        self.weight_gain = 1 / math.sqrt(num_inputs * kernel**2)

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        """`gain` multiplies the result, on top of the activation's own gain."""
        weight = (self.weight * self.weight_gain).to(x.dtype)  # [O, I, K, K]
        kernel = weight.shape[-1]
        if self.down and kernel == 1:
            x = F.conv2d(upfirdn2d(x, TAPS, down=2, padding=(1, 1)), weight)
        elif self.down:
            x = F.conv2d(upfirdn2d(x, TAPS, padding=(2, 2)), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=kernel // 2)
        own = math.sqrt(2) if self.activation == "leaky_relu" else 1.0
        return bias_act(
            x, self.bias, activation=self.activation, gain=own * gain, clamp=clamp_of(x.dtype)
        )


class ModulatedWeight(nn.Module):
    """Weight and style layer of a modulated convolution (arXiv:1912.04958, section 2.2).

    Scaling activations instead of weights gives the same result without one weight tensor per
    sample.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, style_dim: int, kernel: int):
        super().__init__()
        self.to_scale = EqualLinear(style_dim, num_inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs, kernel, kernel))
        self.weight_gain = 1 / math.sqrt(num_inputs * kernel**2)


def convolve(x: Tensor, kernel: Tensor, *, up: bool) -> Tensor:
    """3x3 convolution of x [N, I, H, W], which is multiplied by its scale [N, I] already ->
    [N, O, H, W]; or for `up` [N, O, 2H + 1, 2W + 1], to be filtered.
    """
    return F.conv_transpose2d(x, kernel, stride=2) if up else F.conv2d(x, kernel, padding=1)


class ModulatedConv2d(ModulatedWeight):
    """Modulated 3x3 convolution, whose passes over activations are left to `SynthesisTail`: that
    of the layer before multiplies by the scale, the one behind by the demodulation.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, style_dim: int, up: bool = False):
        super().__init__(num_inputs, num_outputs, style_dim=style_dim, kernel=3)
        self.up = up
        self._kept: dict[str, tuple[tuple, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """As `convolve`."""
        return convolve(x, self.kernel(x.dtype), up=self.up)

    def kernel(self, dtype: torch.dtype) -> Tensor:
        """The scaled weight as `convolve` takes it."""
        return self._keep("kernel", dtype, self._kernel)

    def demodulation(self, scale: Tensor) -> Tensor:
        """[N, I] -> what the outputs are multiplied by, [N, O] float32: one over their standard
        deviation for unit-variance input.
        """
        squares = self._keep("squares", scale.dtype, self._squares)  # [O, I]
        return (linear(scale.square(), squares) + 1e-8).rsqrt()

    def _keep(
        self, name: str, dtype: torch.dtype, compute: Callable[[torch.dtype], Tensor]
    ) -> Tensor:
        """compute(dtype), kept until the weight changes where that does not learn: at batch 1 it
        costs as much as the convolutions of the low resolutions.
        """
        weight = self.weight
        if weight.requires_grad or weight.is_inference():
            return compute(dtype)
        state = (weight._version, weight.device, dtype)
        if name not in self._kept or self._kept[name][0] != state:
            self._kept[name] = (state, compute(dtype))
        return self._kept[name][1]

    def _kernel(self, dtype: torch.dtype) -> Tensor:
        weight = self.weight * self.weight_gain  # [O, I, K, K]
        if self.up:
            kernel = weight.to(dtype).transpose(0, 1)
            return kernel.contiguous(memory_format=torch.channels_last)
        return weight.to(dtype, memory_format=torch.channels_last)

    def _squares(self, dtype: torch.dtype) -> Tensor:
        """The scaled weight's sums of squares, [O, I]."""
        return self.weight.to(dtype).square().sum(dim=(2, 3)) * self.weight_gain**2


class ModulatedToRgb(ModulatedWeight):
    """Modulated 1x1 convolution to three channels, without demodulation, plus a bias.

    Three outputs are few enough to scale the weight for each sample: no pass over the activations.
    """

    def __init__(self, num_inputs: int, *, style_dim: int):
        super().__init__(num_inputs, 3, style_dim=style_dim, kernel=1)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """[N, S] -> each sample's weight [N, 3, I], and the bias, as `to_rgb` takes them."""
        weight = (self.weight.flatten(1) * self.weight_gain) * self.to_scale(style)[:, None, :]
        return weight, self.bias
