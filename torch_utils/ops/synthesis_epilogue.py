"""synthesis_epilogue: everything between two convolutions of StyleGAN2's synthesis
(arXiv:1912.04958, section 2.2), in one read and one write.

The gradient is one pass too. Its own derivative, which only path-length regularisation asks for, is
plain PyTorch. Shape letters: N batch, C H W activation.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ops_cuda.library import EpilogueShape
from torch_utils.ops import native
from torch_utils.ops.bias_act import DEFAULT_GAIN, native_activation
from torch_utils.ops.bias_act import reference as bias_act_reference
from torch_utils.ops.layouts import (
    accumulator,
    dense_like,
    laid_out,
    pointers,
    side_inputs,
)

PIXELS_PER_PART = 1024  # partial sums of the gradient: the same on every device


def synthesis_epilogue(
    x: Tensor,
    demodulation: Tensor,
    noise: Tensor,
    strength: Tensor,
    bias: Tensor,
    *,
    gain: float | None = None,
    clamp: float | None = None,
    after: Tensor | None = None,
) -> Tensor:
    """leaky_relu(x * demodulation + strength * noise + bias) * gain, clamped, times `after`, in the
    dtype of x.

    x [N, C, H, W], demodulation [N, C], noise [N or 1, 1, H, W], strength scalar, bias [C], after
    [N, C]: the scale that the next layer modulates its input by. Twice differentiable. ValueError
    for a gain that is not above 0, a negative clamp, or shapes that do not fit.
    """
    check_sides(x.shape, demodulation, noise, strength, bias, after)
    gain = DEFAULT_GAIN["leaky_relu"] if gain is None else gain
    if not gain > 0 or (clamp is not None and not clamp >= 0):
        raise ValueError(f"gain {gain} must be above 0 and clamp {clamp} at least 0")
    if native.is_compiled(x):
        arguments = (x, demodulation, noise, strength, bias, after, gain, clamp)
        return native.run(torch.ops.lafite.synthesis_epilogue, _forward, *arguments)
    y = reference(x, demodulation, noise, strength, bias, gain=gain, clamp=clamp)
    return y if after is None else y * after.to(x.dtype)[:, :, None, None]


def check_sides(
    shape: tuple[int, ...],
    demodulation: Tensor,
    noise: Tensor,
    strength: Tensor,
    bias: Tensor,
    after: Tensor | None,
) -> None:
    """ValueError unless they fit activations of this shape."""
    fits = len(shape) == 4
    if fits:
        n, channels, height, width = shape
        fits = (
            demodulation.shape == (n, channels)
            and noise.shape in ((n, 1, height, width), (1, 1, height, width))
            and strength.numel() == 1
            and bias.shape == (channels,)
            and (after is None or after.shape == (n, channels))
        )
    if not fits:
        sides = {"demodulation": demodulation, "noise": noise, "strength": strength, "bias": bias}
        sides |= {} if after is None else {"after": after}
        told = ", ".join(f"{name} {list(side.shape)}" for name, side in sides.items())
        raise ValueError(f"{told} do not fit activations {list(shape)}")


def reference(
    x: Tensor,
    demodulation: Tensor,
    noise: Tensor,
    strength: Tensor,
    bias: Tensor,
    *,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """synthesis_epilogue without `after` in pure PyTorch."""
    x = x * demodulation.to(x.dtype)[:, :, None, None]
    x = x + (noise * strength).to(x.dtype)
    return bias_act_reference(x, bias, activation="leaky_relu", gain=gain, clamp=clamp)


# --- the compiled operator

torch.library.define(
    "lafite::synthesis_epilogue",
    "(Tensor x, Tensor demodulation, Tensor noise, Tensor strength, Tensor bias, Tensor? after, "
    "float gain, float? clamp) -> Tensor",
)
# dx, and sums [3, N, C] of g * x, g and g * noise, where g is the gradient before the activation
torch.library.define(
    "lafite::synthesis_epilogue_grad",
    "(Tensor dy, Tensor y, Tensor x, Tensor demodulation, Tensor noise, float gain, float? clamp) "
    "-> (Tensor, Tensor)",
)


@lru_cache(maxsize=256)  # a network has one a layer
def native_shape(n: int, channels: int, pixels: int, num_noises: int, layout: int) -> EpilogueShape:
    """The shape as the C interface takes it."""
    return EpilogueShape(n, channels, pixels, num_noises, layout)


def _forward(
    x: Tensor,
    demodulation: Tensor,
    noise: Tensor,
    strength: Tensor,
    bias: Tensor,
    after: Tensor | None,
    gain: float,
    clamp: float | None,
) -> Tensor:
    x, layout = laid_out(x)
    y = torch.empty_like(x)
    sides = side_inputs(x, demodulation, noise, strength, bias, after)
    n, channels, height, width = x.shape
    shape = native_shape(n, channels, height * width, noise.shape[0], layout)
    function = native_activation("leaky_relu", gain, clamp)
    native.call("ls_synthesis_epilogue", x, *pointers(x, *sides, y), shape, function)
    return y


torch.library.impl("lafite::synthesis_epilogue", ("cpu", "cuda"), _forward)


@torch.library.impl("lafite::synthesis_epilogue_grad", ("cpu", "cuda"))
def _grad(
    dy: Tensor,
    y: Tensor,
    x: Tensor,
    demodulation: Tensor,
    noise: Tensor,
    gain: float,
    clamp: float | None,
) -> tuple[Tensor, Tensor]:
    y, layout = laid_out(y)
    x, dy = dense_like(x, y), dense_like(dy, y)
    dx = torch.empty_like(y)
    sides = side_inputs(x, demodulation, noise)
    n, channels, height, width = x.shape
    parts = max(1, -(-height * width // PIXELS_PER_PART))
    sums = torch.empty(3, n, parts, channels, dtype=accumulator(x), device=x.device)
    addresses = pointers(dy, y, x, *sides, dx, sums)
    function = native_activation("leaky_relu", gain, clamp)
    shape = native_shape(n, channels, height * width, noise.shape[0], layout)
    native.call("ls_synthesis_epilogue_grad", x, *addresses, parts, shape, function)
    return dx, sums.sum(dim=2)


@torch.library.register_fake("lafite::synthesis_epilogue")
def _forward_shape(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(laid_out(x)[0])


@torch.library.register_fake("lafite::synthesis_epilogue_grad")
def _grad_shape(_dy: Tensor, y: Tensor, x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    n, channels = x.shape[:2]
    return torch.empty_like(laid_out(y)[0]), x.new_empty(3, n, channels, dtype=accumulator(x))


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, after, ctx.gain, ctx.clamp = inputs
    ctx.dtypes = [value.dtype for value in tensors[1:]]
    ctx.save_for_backward(*tensors, after, output if after is None else None)


def _backward(ctx: Any, dy: Tensor) -> tuple:
    inputs = ctx.saved_tensors  # asked for once: recomputed activations are given once
    x, demodulation, noise, strength, _, after, y = inputs
    function = (ctx.gain, ctx.clamp)
    d_after = None
    if after is not None:  # one more pass here, one activation less in memory until now
        y = torch.ops.lafite.synthesis_epilogue(*inputs[:5], None, *function)
        if ctx.needs_input_grad[5]:
            d_after = (dy * y).sum(dim=(2, 3), dtype=accumulator(x)).to(after.dtype)
        dy = dy * after.to(x.dtype)[:, :, None, None]
    dx, sums = torch.ops.lafite.synthesis_epilogue_grad(dy, y, x, demodulation, noise, *function)
    d_noise = None
    if ctx.needs_input_grad[2]:
        g = torch.ops.lafite.bias_act_grad(dy, y, "leaky_relu", *function)
        d_noise = _sum_for_noise(g.to(sums.dtype), noise) * strength
    gradients = (sums[0], d_noise, sums[2].sum().view_as(strength), sums[1].sum(dim=0))
    cast = (
        None if gradient is None else gradient.to(dtype)
        for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
    )
    return dx, *cast, d_after, None, None


def _sum_for_noise(g: Tensor, noise: Tensor) -> Tensor:
    total = g.sum(dim=1, keepdim=True)  # [N, 1, H, W]
    return total if noise.shape[0] == len(total) else total.sum(dim=0, keepdim=True)


def _keep_grad(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.gain, ctx.clamp = inputs
    ctx.save_for_backward(*tensors)


def _backward_grad(ctx: Any, ddx: Tensor, dsums: Tensor) -> tuple:
    """With g = dy * slope(y): dx = g demodulation, sums = (sum g x, sum g, sum g noise)."""
    dy, y, x, demodulation, noise = ctx.saved_tensors
    slope = ("leaky_relu", ctx.gain, ctx.clamp)
    g = torch.ops.lafite.bias_act_grad(dy, y, *slope)
    with_x, alone, with_noise = (part[:, :, None, None] for part in dsums.to(x.dtype))
    d_g = ddx * demodulation.to(x.dtype)[:, :, None, None]
    d_g = d_g + with_x * x + alone + with_noise * noise.to(x.dtype)
    d_dy = torch.ops.lafite.bias_act_grad(d_g, y, *slope)
    d_demodulation = (g * ddx).sum(dim=(2, 3), dtype=demodulation.dtype)
    d_noise = _sum_for_noise(g * with_noise, noise).to(noise.dtype)
    return d_dy, None, g * with_x, d_demodulation, d_noise, None, None


torch.library.register_autograd("lafite::synthesis_epilogue", _backward, setup_context=_keep)
torch.library.register_autograd(
    "lafite::synthesis_epilogue_grad", _backward_grad, setup_context=_keep_grad
)
