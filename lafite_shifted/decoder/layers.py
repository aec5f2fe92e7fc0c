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

from torch_utils.ops import bias_act, to_rgb, upfirdn2d
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


def clamp_of(dtype: torch.dtype, always: float | None = None) -> float | None:
    """Activations in float16 are clamped, far below where it ends (arXiv:2006.06676, appendix);
    those of other dtypes to `always`, if at all.
    """
    return 256.0 if always is None and dtype == torch.float16 else always


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

    In generation on several threads as a batch of blocks of W's rows: a batch's products are shared
    out to a CPU's threads, while a product with few columns, which takes as long as reading W does,
    is left to one of them. On one thread and with gradients that is slower (docs/performance.md),
    and an exported program has no threads of ours.
    """
    one_thread = torch.get_num_threads() == 1 or torch.compiler.is_exporting()
    if x.device.type != "cpu" or torch.is_grad_enabled() or one_thread:
        if bias is None:
            return x @ weight.T
        return torch.addmm(bias, x, weight.T, beta=bias_gain, alpha=weight_gain)
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
        """x [N, I] -> [N, O], float32."""
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


class ModulatedConv2d(nn.Module):
    """3x3 convolution whose input channels are scaled per sample by a style (arXiv:1912.04958,
    section 2.2); with `up` to twice the resolution.

    Scaling activations instead of weights gives the same result without one weight tensor per
    sample. Demodulation is left to the epilogue, which passes over the activations anyway.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, style_dim: int, up: bool = False):
        super().__init__()
        self.up = up
        self.to_scale = EqualLinear(style_dim, num_inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(num_outputs, num_inputs, 3, 3))
        self.weight_gain = 1 / math.sqrt(num_inputs * 3**2)

    def forward(self, x: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, I, H, W], style [N, S] -> y [N, O, H, W], for `up` [N, O, 2 H, 2 W]; and the
        demodulation [N, O] that y is yet to be multiplied by.
        """
        scale = self.to_scale(style)  # [N, I]
        y = convolve(x * scale.to(x.dtype)[:, :, None, None], self.kernel(x.dtype), up=self.up)
        if self.up:
            y = upfirdn2d(y, TAPS, padding=(1, 1), gain=4.0)
        return y, demodulation(scale, self.squares())

    def kernel(self, dtype: torch.dtype) -> Tensor:
        """The weight at run time, channels-last, as `convolve` takes it."""
        weight = self.weight * self.weight_gain  # [O, I, 3, 3]
        if self.up:
            kernel = weight.to(dtype).transpose(0, 1)
            return kernel.contiguous(memory_format=torch.channels_last)
        return weight.to(dtype, memory_format=torch.channels_last)

    def squares(self) -> Tensor:
        """Sums of squares of the weight at run time, [O, I]."""
        return self.weight.square().sum(dim=(2, 3)) * self.weight_gain**2


def convolve(x: Tensor, kernel: Tensor, *, up: bool) -> Tensor:
    """3x3 convolution of x [N, I, H, W], scaled already -> [N, O, H, W]; or for `up`
    [N, O, 2 H + 1, 2 W + 1], to be filtered.
    """
    return F.conv_transpose2d(x, kernel, stride=2) if up else F.conv2d(x, kernel, padding=1)


def demodulation(scale: Tensor, squares: Tensor) -> Tensor:
    """One over the standard deviation of the outputs for unit-variance input, [N, O] float32:
    scale [N, I], squares [O, I].
    """
    return (linear(scale.square(), squares) + 1e-8).rsqrt()


class ModulatedToRgb(nn.Module):
    """Modulated 1x1 convolution to three channels, without demodulation, plus a bias.

    Three outputs are few enough to scale the weight for each sample: no pass over the activations.
    """

    def __init__(self, num_inputs: int, *, style_dim: int, clamp: float | None = None):
        super().__init__()
        self.clamp = clamp
        self.to_scale = EqualLinear(style_dim, num_inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(3, num_inputs, 1, 1))
        self.weight_gain = 1 / math.sqrt(num_inputs)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [N, I, H, W], style [N, S] -> [N, 3, H, W]."""
        return self.clamped(to_rgb(x, self.scaled_weight(style), self.bias))

    def clamped(self, image: Tensor) -> Tensor:
        """The image of one resolution, before it is added to that of the lower ones."""
        return image if self.clamp is None else image.clamp(-self.clamp, self.clamp)

    def scaled_weight(self, style: Tensor) -> Tensor:
        """[N, S] -> the weight of each sample, [N, 3, I]."""
        return (self.weight.flatten(1) * self.weight_gain) * self.to_scale(style)[:, None, :]
