"""StyleGAN2's convolution as its paper states it (arXiv:1912.04958, section 2.2): one modulated
weight a sample, loops over samples and channels, scipy's convolutions, float64.

Shape letters: N batch, I inputs, O outputs, H W image, K kernel.
"""

import numpy as np
import scipy.signal
from numpy.typing import NDArray

Array = NDArray[np.float64]
FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def modulated_weight(weight: Array, scale: Array, *, demodulate: bool) -> Array:
    """w'[o, i] = s[i] w[o, i], then divided by its norm for each o (eq. 1 and 3)."""
    modulated = np.empty_like(weight)
    for o in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            modulated[o, i] = scale[i] * weight[o, i]
        if demodulate:
            modulated[o] /= np.sqrt((modulated[o] ** 2).sum() + 1e-8)
    return modulated


def plain_channel(x: Array, kernel: Array) -> Array:
    """[H, W] -> [H, W], zeros outside; a network's convolution is a correlation."""
    return scipy.signal.correlate2d(x, kernel, mode="same")


def upsampled_channel(x: Array, kernel: Array) -> Array:
    """[H, W] -> [2H, 2W]: zeros between the samples, convolution, low-pass filter of gain 4."""
    height, width = x.shape
    spread = np.zeros((2 * height - 1, 2 * width - 1))
    spread[::2, ::2] = x
    transposed = scipy.signal.convolve2d(spread, kernel, mode="full")  # [2H + 1, 2W + 1]
    return scipy.signal.convolve2d(np.pad(transposed, 1), 4 * FILTER, mode="valid")


def modulated_convolution(
    x: Array, weight: Array, scale: Array, *, up: bool, demodulate: bool
) -> Array:
    """x [N, I, H, W], weight [O, I, K, K], scale [N, I] -> [N, O, H', W']."""
    one_channel = upsampled_channel if up else plain_channel
    samples = []
    for image, style in zip(x, scale, strict=True):
        own = modulated_weight(weight, style, demodulate=demodulate)
        samples.append(
            [
                sum(one_channel(image[i], own[o, i]) for i in range(len(image)))
                for o in range(len(own))
            ]
        )
    return np.array(samples)
