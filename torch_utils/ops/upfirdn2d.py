"""upfirdn2d: insert zeros, pad, filter, keep every down-th sample, of each channel of an image.

The operator is closed under differentiation: its backward is itself with flipped taps and `up` and
`down` swapped, so it is differentiable as often as wanted. The pure-PyTorch reference filters rows,
then columns, with shifted slices: a grouped convolution is several times slower on CPUs.

Shape letters: N batch, C channels, H W image, K taps.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ops_cuda.library import MAX_TAPS, Upfirdn2dShape
from torch_utils.ops import native
from torch_utils.ops.layouts import dense_like, is_channels_last, laid_out, pointers

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)  # StyleGAN2's low-pass filter, normalised


def upfirdn2d(
    x: Tensor,
    taps: Sequence[float],
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
    add: Tensor | None = None,
) -> Tensor:
    """Separable FIR filtering of [N, C, H, W] with the same `taps` along both axes.

    `padding` = (before, after) in upsampled samples, the same for both axes; negative values crop.
    A true convolution: the taps are flipped against the signal, as in scipy.signal.upfirdn. The
    result is multiplied by `gain`, which must not be negative; then `add`, of its shape and dtype,
    is added. Raises ValueError where the taps do not fit.
    """
    if gain < 0 or min(up, down) < 1:
        raise ValueError(f"gain {gain} must be >= 0; up {up} and down {down} at least 1")
    if not 1 <= len(taps) <= MAX_TAPS:
        raise ValueError(f"{len(taps)} taps: there must be 1 to {MAX_TAPS}")
    size = [(length * up + sum(padding) - len(taps)) // down + 1 for length in x.shape[2:]]
    if min(size) < 1:
        raise ValueError(
            f"{len(taps)} taps do not fit into {list(x.shape[2:])} samples at up {up} and padding "
            f"{padding}"
        )
    if add is not None and add.shape != (*x.shape[:2], *size):
        raise ValueError(f"add {list(add.shape)} is not of the result's shape, {size} pixels")
    scaled = _scaled(taps, gain)
    if native.is_compiled(x):
        steps = ([up, up], [down, down], [padding[0], padding[0]])
        return native.run(torch.ops.lafite.upfirdn2d, _forward, x, add, scaled, *steps, size)
    y = reference(x, tuple(scaled), up=up, down=down, padding=padding)
    return y if add is None else y + add


def upsample(x: Tensor, *, add: Tensor | None = None) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W], low-pass filtered, plus `add`; gain 4 makes up for inserted
    zeros.
    """
    return upfirdn2d(x, TAPS, up=2, padding=(2, 1), gain=4.0, add=add)


def _scaled(taps: Sequence[float], gain: float) -> list[float]:
    """In the order of a correlation, along one of two axes."""
    return [float(tap) * gain**0.5 for tap in reversed(taps)]


def reference(
    x: Tensor, taps: tuple[float, ...], *, up: int, down: int, padding: tuple[int, int]
) -> Tensor:
    """upfirdn2d in pure PyTorch, with the taps of a correlation."""
    for axis in (3, 2):
        x = _FilterAxis.apply(x, taps, axis, up, down, padding)  # type: ignore[assignment]
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
    if max(padding) > 0:
        x = F.pad(x, [*behind, *(max(pad, 0) for pad in padding)])
    if min(padding) < 0:  # crop what was padded too
        before, after = (max(-pad, 0) for pad in padding)
        x = x.narrow(axis, before, max(x.shape[axis] - before - after, 0))
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


# --- the compiled operator

# taps in the order of a correlation; up, down, before (padding) and size are (y, x)
torch.library.define(
    "lafite::upfirdn2d",
    "(Tensor x, Tensor? add, float[] taps, int[] up, int[] down, int[] before, int[] size) -> "
    "Tensor",
)


@lru_cache(maxsize=1024)  # a network has a few dozen
def _native_shape(numbers: tuple[int, ...], taps: tuple[float, ...]) -> Upfirdn2dShape:
    padded = (ctypes.c_double * MAX_TAPS)(*taps)
    return Upfirdn2dShape(*numbers, len(taps), len(taps), padded, padded)


def native_filter(
    shape: tuple[int, ...], out_shape: tuple[int, ...], *, layout: int, up: int, padding: int
) -> Any:
    """The interface's pointer to the numbers of a filter by `TAPS` with gain 4."""
    numbers = (*shape, *out_shape[2:], layout, up, up, 1, 1, padding, padding)
    return ctypes.byref(_native_shape(numbers, tuple(_scaled(TAPS, 4.0))))


def _forward(
    x: Tensor,
    add: Tensor | None,
    taps: list[float],
    up: list[int],
    down: list[int],
    before: list[int],
    size: list[int],
) -> Tensor:
    if add is not None and add.device != x.device:
        raise ValueError(f"activations are on {x.device}, what is added on {add.device}")
    x, layout = laid_out(x)
    y = _forward_shape(x, add, taps, up, down, before, size)
    add = None if add is None else dense_like(add.to(x.dtype), y)
    numbers = (*x.shape, *size, layout, *up, *down, *before)
    shape = _native_shape(numbers, tuple(taps))
    native.call("ls_upfirdn2d", x, *pointers(x, add, y), ctypes.byref(shape))
    return y


torch.library.impl("lafite::upfirdn2d", ("cpu", "cuda"), _forward)


@torch.library.register_fake("lafite::upfirdn2d")
def _forward_shape(
    x: Tensor, _add: Tensor | None, _taps: list, _up: list, _down: list, _before: list, size: list
) -> Tensor:
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    shape = (*x.shape[:2], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, _, *ctx.filter = inputs
    ctx.in_size = list(x.shape[2:])


def _backward(ctx: Any, dy: Tensor) -> tuple:
    taps, up, down, before, _ = ctx.filter
    dx = None
    if ctx.needs_input_grad[0]:
        behind = [len(taps) - 1 - pad for pad in before]
        flipped = taps[::-1]
        dx = torch.ops.lafite.upfirdn2d(dy, None, flipped, down, up, behind, ctx.in_size)
    return dx, dy if ctx.needs_input_grad[1] else None, None, None, None, None, None


torch.library.register_autograd("lafite::upfirdn2d", _backward, setup_context=_keep)
