"""Layers with equalised learning rate (arXiv:1710.10196, section 4.1), and StyleGAN2's modulated
convolution.

A weight is stored as N(0, 1) and scaled by 1 / sqrt(fan_in) where it is used. Activations may be
bfloat16; weights and statistics stay float32 and are cast at the line.

Shape letters: N batch, I inputs, O outputs, L layers, H W picture, K kernel.
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

T = TypeVar("T")
TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)  # StyleGAN2's low-pass filter, normalised


def recomputed(function: Callable[..., T], *inputs: Any, when: bool) -> T:
    """function(*inputs). `when` it is for the gradient, activations in between are not kept but
    computed again (arXiv:1604.06174).
    """
    if not (when and torch.is_grad_enabled()):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def clamp_of(dtype: torch.dtype) -> float | None:
    """Activations in float16 are clamped, far below where it ends (arXiv:2006.06676, appendix)."""
    return 256.0 if dtype == torch.float16 else None


def upsample(x: Tensor, *, add: Tensor | None = None) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W], low-pass filtered, plus `add`; gain 4 makes up for inserted
    zeros.
    """
    return upfirdn2d(x, TAPS, up=2, padding=(2, 1), gain=4.0, add=add)


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
        y = torch.addmm(
            self.bias, x, self.weight.T, beta=self.multiplier, alpha=self.weight_gain
        )  # [N, O]
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


def modulate(x: Tensor, scale: Tensor) -> Tensor:
    """x [N, I, H, W] times scale [N, I], in the dtype of x."""
    return x * scale.to(x.dtype)[:, :, None, None]


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


class ModulatedConv2d(ModulatedWeight):
    """Modulated 3x3 convolution, whose passes over activations are left to the epilogues: that of
    the layer before multiplies by the scale, the one behind by the demodulation.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, style_dim: int, up: bool = False):
        super().__init__(num_inputs, num_outputs, style_dim=style_dim, kernel=3)
        self.up = up
        self._prepared: tuple[tuple, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, I, H, W], which is multiplied by `scale` [N, I] already -> convolution
        [N, O, H', W'], demodulation [N, O] (float32).
        """
        kernel, squares = self._kernel(x.dtype)
        variance = scale.square() @ squares.T  # [N, O], for unit-variance input
        if self.up:
            # stride-2 transposed convolution gives 2H + 1 samples; the filter's padding brings them
            # to 2H
            y = F.conv_transpose2d(x, kernel, stride=2)
            y = upfirdn2d(y, TAPS, padding=(1, 1), gain=4.0)
        else:
            y = F.conv2d(x, kernel, padding=1)
        return y, (variance + 1e-8).rsqrt()

    def _kernel(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The scaled kernel as the convolution takes it, and its sums of squares [O, I]. Those of a
        weight that does not learn are kept until it changes: at batch 1 they cost as much as the
        convolutions of the low resolutions.
        """
        weight = self.weight
        if weight.requires_grad or weight.is_inference():
            return self._compute_kernel(dtype)
        state = (weight._version, weight.device, dtype)
        if self._prepared is None or self._prepared[0] != state:
            self._prepared = (state, *self._compute_kernel(dtype))
        return self._prepared[1:]

    def _compute_kernel(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight = self.weight * self.weight_gain  # [O, I, K, K]
        squares = weight.square().sum(dim=(2, 3))
        if self.up:
            kernel = weight.to(dtype).transpose(0, 1)
            return kernel.contiguous(memory_format=torch.channels_last), squares
        return weight.to(dtype, memory_format=torch.channels_last), squares


class ModulatedToRgb(ModulatedWeight):
    """Modulated 1x1 convolution to three channels, without demodulation, plus a bias.

    Three outputs are few enough to scale the weight for each sample: a product of matrices, and no
    pass over the activations.
    """

    def __init__(self, num_inputs: int, *, style_dim: int):
        super().__init__(num_inputs, 3, style_dim=style_dim, kernel=1)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [N, I, H, W], style [N, S] -> [N, 3, H, W] float32, contiguous."""
        n, num_inputs, height, width = x.shape
        weight = self.weight.flatten(1) * self.weight_gain  # [3, I]
        scaled = (weight * self.to_scale(style)[:, None, :]).to(x.dtype)  # [N, 3, I]
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, num_inputs)
        y = torch.bmm(scaled, pixels.transpose(1, 2))  # [N, 3, H W]
        return y.view(n, 3, height, width).float() + self.bias[:, None, None]
