"""upfirdn2d: insert zeros, pad, filter, keep every down-th sample, of each channel of a picture.

This is the pure-PyTorch reference. It filters by rows and columns with shifted slices: a grouped convolution is several
times slower on CPUs, and slices are differentiable as often as wanted.

Shape letters: N batch, C H W picture, K taps.
"""

from collections.abc import Sequence

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

    `padding` = (before, after) in upsampled samples, the same for both axes; negative values crop. A true convolution:
    the taps are flipped against the signal, as in scipy.signal.upfirdn. The result is multiplied by `gain`.
    """
    scaled = [float(tap) * abs(gain) ** 0.5 for tap in reversed(taps)]
    y = _along(x, scaled, axis=3, up=up, down=down, padding=padding)
    y = _along(y, scaled, axis=2, up=up, down=down, padding=padding)
    return -y if gain < 0 else y


def _along(x: Tensor, taps: Sequence[float], *, axis: int, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    if up > 1:
        shape = list(x.shape)
        stuffed = F.pad(x.unsqueeze(axis + 1), [0, 0] * (x.ndim - 1 - axis) + [0, up - 1])
        shape[axis] *= up
        x = stuffed.reshape(shape)
    if any(padding):
        x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + list(padding))
    length = (x.shape[axis] - len(taps)) // down + 1
    if length < 1:
        raise ValueError(f"{len(taps)} taps do not fit into {x.shape[axis]} samples of axis {axis}")
    total = None
    for offset, tap in enumerate(taps):
        window = x.narrow(axis, offset, (length - 1) * down + 1)
        if down > 1:
            window = window[(slice(None),) * axis + (slice(None, None, down),)]
        total = window * tap if total is None else total.add(window, alpha=tap)
    assert total is not None
    return total
