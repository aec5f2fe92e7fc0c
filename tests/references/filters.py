"""upfirdn2d by scipy, and the adjoint of a linear map as a matrix."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def upfirdn1d(
    x: Array, taps: Sequence[float], *, up: int, down: int, padding: tuple[int, int], axis: int
) -> Array:
    """scipy gives the whole convolution; the wanted part begins where the padded signal would."""
    before, after = padding
    whole = scipy.signal.upfirdn(taps, x, up=up, down=1, axis=axis)
    length = x.shape[axis] * up + before + after - len(taps) + 1  # valid part, before `down`
    first = len(taps) - 1 - before
    take = np.arange(first, first + length, down)
    inside = (take >= 0) & (take < whole.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = len(take)
    clipped = np.take(whole, take.clip(0, whole.shape[axis] - 1), axis=axis)
    return clipped * inside.reshape(shape)


def upfirdn2d(
    x: Array, taps: Sequence[float], *, up: int, down: int, padding: tuple[int, int], gain: float
) -> Array:
    """Rows, then columns, of [N, C, H, W]."""
    for axis in (3, 2):
        x = upfirdn1d(x, taps, up=up, down=down, padding=padding, axis=axis)
    return x * gain


def matrix_of(linear: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Tensor:
    """The matrix of a linear map of images: one column for each unit vector."""
    size = int(np.prod(shape))
    columns = [linear(unit.view(*shape)).flatten() for unit in torch.eye(size).double()]
    return torch.stack(columns, dim=1)
