"""bias_act: add a bias per channel, apply the activation, multiply by a gain, clamp.

One read and one write; the gradient reads the activation's slope off the output, and is linear in
the gradient that comes in, so it is its own derivative. Shape letters: N batch, C channels.
"""

import math
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.library import ACTIVATIONS, LAYOUTS
from ops_cuda.library import Activation as NativeActivation
from torch_utils.ops import native
from torch_utils.ops.layouts import accumulator, dense_like, laid_out, pointers, side_inputs

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

    Twice differentiable. ValueError for a gain that is not above 0, a negative clamp, or shapes
    that do not fit.
    """
    if x.ndim < 2 or (bias is not None and bias.shape != x.shape[1:2]):
        shapes = [None if bias is None else list(bias.shape), list(x.shape)]
        raise ValueError(f"bias {shapes[0]} does not fit {shapes[1]}: [C] and [N, C, ...]")
    gain = DEFAULT_GAIN[activation] if gain is None else gain
    if not gain > 0 or (clamp is not None and not clamp >= 0):
        raise ValueError(f"gain {gain} must be above 0 and clamp {clamp} at least 0")
    if native.is_compiled(x):
        operator = torch.ops.lafite.bias_act
        return native.run(operator, _forward, x, bias, activation, gain, clamp)
    return reference(x, bias, activation=activation, gain=gain, clamp=clamp)


def reference(
    x: Tensor,
    bias: Tensor | None,
    *,
    activation: Activation,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """bias_act in pure PyTorch."""
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if activation == "leaky_relu":
        x = F.leaky_relu(x, SLOPE)
    if gain != 1.0:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


# --- the compiled operator

torch.library.define(
    "lafite::bias_act",
    "(Tensor x, Tensor? bias, str activation, float gain, float? clamp) -> Tensor",
)
torch.library.define(
    "lafite::bias_act_grad",
    "(Tensor dy, Tensor y, str activation, float gain, float? clamp) -> Tensor",
)


@lru_cache(maxsize=64)
def native_activation(activation: str, gain: float, clamp: float | None) -> NativeActivation:
    """The activation as the C interface takes it."""
    return NativeActivation(ACTIVATIONS[activation], gain, -1.0 if clamp is None else clamp)


def _forward(
    x: Tensor, bias: Tensor | None, activation: str, gain: float, clamp: float | None
) -> Tensor:
    x, layout = laid_out(x)
    y = torch.empty_like(x)
    (bias,) = side_inputs(x, bias)
    channels = x.shape[1]
    inner = 1 if layout == LAYOUTS["channels_last"] else math.prod(x.shape[2:])
    outer = x.numel() // max(channels * inner, 1)
    function = native_activation(activation, gain, clamp)
    native.call("ls_bias_act", x, *pointers(x, bias, y), outer, channels, inner, function)
    return y


torch.library.impl("lafite::bias_act", ("cpu", "cuda"), _forward)


@torch.library.impl("lafite::bias_act_grad", ("cpu", "cuda"))
def _grad(dy: Tensor, y: Tensor, activation: str, gain: float, clamp: float | None) -> Tensor:
    y, _ = laid_out(y)
    dy = dense_like(dy, y)
    dx = torch.empty_like(y)
    function = native_activation(activation, gain, clamp)
    native.call("ls_bias_act_grad", y, *pointers(dy, y, dx), y.numel(), function)
    return dx


@torch.library.register_fake("lafite::bias_act")
def _forward_shape(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(laid_out(x)[0])


@torch.library.register_fake("lafite::bias_act_grad")
def _grad_shape(_dy: Tensor, y: Tensor, *_: object) -> Tensor:
    return torch.empty_like(laid_out(y)[0])


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(output)
    _, bias, ctx.activation, ctx.gain, ctx.clamp = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, dy: Tensor) -> tuple:
    (y,) = ctx.saved_tensors
    if ctx.activation == "linear" and ctx.clamp is None:
        dx = dy if ctx.gain == 1.0 else dy * ctx.gain
    else:
        dx = torch.ops.lafite.bias_act_grad(dy, y, ctx.activation, ctx.gain, ctx.clamp)
    db = None
    if ctx.needs_input_grad[1]:
        db = _channel_sums(dx).to(ctx.bias_dtype)
    return dx, db, None, None, None


def _channel_sums(x: Tensor) -> Tensor:
    """[N, C, ...] -> [C], in the accumulator's dtype."""
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.ndim > 2:
        # a CPU would convert all of x before it adds: here each sample's sum is rounded, once
        x = x.sum(dim=[*range(2, x.ndim)])
    return x.sum(dim=[0, *range(2, x.ndim)], dtype=accumulator(x))


def _keep_grad(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, y, *ctx.function = inputs
    ctx.save_for_backward(y)


def _backward_grad(ctx: Any, ddx: Tensor) -> tuple:
    """Linear in dy; piecewise constant in y."""
    (y,) = ctx.saved_tensors
    return torch.ops.lafite.bias_act_grad(ddx, y, *ctx.function), None, None, None, None


torch.library.register_autograd("lafite::bias_act", _backward, setup_context=_keep)
torch.library.register_autograd("lafite::bias_act_grad", _backward_grad, setup_context=_keep_grad)
