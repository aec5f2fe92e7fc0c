"""upfirdn2d: insert zeros, pad, filter, keep every down-th sample, of each channel of a picture.

This is the pure-PyTorch reference. It filters rows, then columns, with shifted slices: a grouped
convolution is several times slower on CPUs. The operator is closed under differentiation: its
backward is itself with flipped taps and `up` and `down` swapped, so it is differentiable as often
as wanted, and no backward pass fills zeros for every slice.

Shape letters: N batch, C channels, H W picture, K taps.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def upfirdn2d(
    x: Tensor,
    taps: Sequence[float],
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Separable FIR filtering of [N, C, H, W] with the same `taps` along both axes.

    `padding` = (before, after) in upsampled samples, the same for both axes; negative values crop.
    A true convolution: the taps are flipped against the signal, as in scipy.signal.upfirdn. The
    result is multiplied by `gain`, which must not be negative. Raises ValueError where the taps do
    not fit.
    """
    if gain < 0 or min(up, down) < 1:
        raise ValueError(f"gain {gain} must be >= 0; up {up} and down {down} at least 1")
    scaled = tuple(float(tap) * gain**0.5 for tap in reversed(taps))
    for axis in (3, 2):
        x = _FilterAxis.apply(x, scaled, axis, up, down, padding)  # type: ignore[assignment]
    return x


class _FilterAxis(torch.autograd.Function):
    """Correlation with `taps` along one axis."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        taps: tuple[float, ...],
        axis: int,
        up: int,
        down: int,
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.taps, ctx.axis, ctx.up, ctx.down, ctx.padding = taps, axis, up, down, padding
        ctx.length = x.shape[axis]
        return _correlate(x, taps, axis=axis, up=up, down=down, padding=padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        num_taps = len(ctx.taps)
        before = num_taps - 1 - ctx.padding[0]
        after = (ctx.length - 1) * ctx.up + num_taps - dy.shape[ctx.axis] * ctx.down - before
        flipped = ctx.taps[::-1]
        dx = _FilterAxis.apply(dy, flipped, ctx.axis, ctx.down, ctx.up, (before, after))
        return dx, None, None, None, None, None  # type: ignore[return-value]


def _correlate(
    x: Tensor, taps: Sequence[float], *, axis: int, up: int, down: int, padding: tuple[int, int]
) -> Tensor:
    behind = [0, 0] * (x.ndim - 1 - axis)  # F.pad counts axes from the last
    if up > 1:
        shape = list(x.shape)
        shape[axis] *= up
        x = F.pad(x.unsqueeze(axis + 1), [*behind, 0, up - 1]).reshape(shape)
    if any(padding):
        x = F.pad(x, [*behind, *padding])
    length = (x.shape[axis] - len(taps)) // down + 1
    if length < 1:
        raise ValueError(f"{len(taps)} taps do not fit into {x.shape[axis]} samples of axis {axis}")
    windows = (
        x.narrow(axis, offset, (length - 1) * down + 1)[
            (slice(None),) * axis + (slice(None, None, down),)
        ]
        for offset in range(len(taps))
    )
    total = next(windows) * taps[0]
    for tap, window in zip(taps[1:], windows, strict=True):
        total.add_(window, alpha=tap)
    return total
