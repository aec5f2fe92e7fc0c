"""to_rgb: three weighted sums over the channels of each pixel, the modulated 1x1 convolution to an
image (arXiv:1912.04958, section 2.2).

With a weight for each sample it is a product of matrices with three rows, far fewer than a library
is made for: the kernels read the activations once.

Shape letters: N batch, C channels, H W image.
"""

from typing import Any

import torch
from torch import Tensor

from torch_utils.ops import native
from torch_utils.ops.layouts import accumulator, is_channels_last, laid_out, pointers, side_inputs


def to_rgb(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y[n, o] = sum over c of weight[n, o, c] x[n, c], plus bias[o].

    x [N, C, H, W], weight [N, 3, C], bias [3] -> [N, 3, H, W], contiguous, float64 where x is, else
    float32. Twice differentiable. ValueError where the weight does not fit.
    """
    if weight.shape != (x.shape[0], 3, x.shape[1]) or bias.shape != (3,):
        raise ValueError(
            f"weight {list(weight.shape)} and bias {list(bias.shape)} do not fit {list(x.shape)}"
        )
    if native.is_compiled(x):
        return native.run(torch.ops.lafite.to_rgb, _forward, x, weight, bias)
    return reference(x, weight, bias)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """to_rgb in pure PyTorch: the product in the dtype of x."""
    pixels = _pixels(x)
    y = torch.bmm(weight.to(x.dtype), pixels.transpose(1, 2))  # [N, 3, H W]
    return y.view(x.shape[0], 3, *x.shape[2:]).to(accumulator(x)) + bias[:, None, None]


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H W, C]."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2] * x.shape[3], x.shape[1])


# --- the compiled operator

torch.library.define("lafite::to_rgb", "(Tensor x, Tensor weight, Tensor bias) -> Tensor")


def _forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x, layout = laid_out(x)
    y = _forward_shape(x)
    sides = side_inputs(x, weight, bias)
    n, channels, height, width = x.shape
    native.call("ls_to_rgb", x, *pointers(x, *sides, y), n, channels, height * width, layout)
    return y


torch.library.impl("lafite::to_rgb", ("cpu", "cuda"), _forward)


@torch.library.register_fake("lafite::to_rgb")
def _forward_shape(x: Tensor, *_: object) -> Tensor:
    shape = (x.shape[0], 3, *x.shape[2:])
    return torch.empty(shape, dtype=accumulator(x), device=x.device)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_dtype = bias.dtype


def _backward(ctx: Any, dy: Tensor) -> tuple:
    """Products of matrices in the dtype of x, which are differentiable themselves."""
    x, weight = ctx.saved_tensors
    rows = dy.flatten(2).to(x.dtype)  # [N, 3, H W]
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:
        scaled = weight.to(x.dtype)
        if is_channels_last(x):
            dx = torch.bmm(rows.transpose(1, 2), scaled)  # [N, H W, C]
            dx = dx.view(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
        else:
            dx = torch.bmm(scaled.transpose(1, 2), rows).view(x.shape)
    if ctx.needs_input_grad[1]:
        dweight = torch.bmm(rows, _pixels(x)).to(weight.dtype)
    if ctx.needs_input_grad[2]:
        dbias = dy.sum(dim=(0, 2, 3), dtype=ctx.bias_dtype)
    return dx, dweight, dbias


torch.library.register_autograd("lafite::to_rgb", _backward, setup_context=_keep)
