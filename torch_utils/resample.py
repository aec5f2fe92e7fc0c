"""Bilinear resampling of images under one affine map each, differentiable as often as wanted.

PyTorch's own grid_sample has no second derivative. For fixed maps the resampling is linear in the
image, so its backward is its adjoint, whose backward is the resampling again. Shape letters: N
batch, C H W image.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def resample(x: Tensor, maps: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Images [N, C, *size] whose point p shows what `x` [N, C, H, W] has at maps p.

    `maps` [N, 2, 3] take (column, row, 1) of the result to `x`; the edges of both are at -1 and 1.
    Beyond its edges `x` is mirrored. Gradients flow to `x` alone.
    """
    shape = [x.shape[0], x.shape[1], *size]
    grid = F.affine_grid(maps.to(x.dtype), shape, align_corners=False)
    return _Resample.apply(x, grid)  # type: ignore[return-value]


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


class _Resample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:  # type: ignore[override]
        with torch.enable_grad():  # a graph of its own, whose gradient is the adjoint
            x = x.detach().requires_grad_()
            y = _sample(x, grid)
        ctx.graph = x, y
        ctx.save_for_backward(grid)
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grid,) = ctx.saved_tensors
        return _Adjoint.apply(grads[0], grid, ctx.graph), None  # type: ignore[return-value]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, dy: Tensor, grid: Tensor, graph: tuple[Tensor, Tensor]
    ) -> Tensor:
        ctx.save_for_backward(grid)
        x, y = graph
        return torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grid,) = ctx.saved_tensors
        return _Resample.apply(grads[0], grid), None, None  # type: ignore[return-value]
