"""Plain DDPM (arXiv:2006.11239) and DDIM (arXiv:2010.02502) in numpy, written from their papers.

Shape letters: N batch, D dimension. Times count from 1 to T; betas[t - 1] belongs to time t.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Denoiser = Callable[[Array, int], Array]  # (y_t [N, D], t) -> y_0 [N, D]


def cumulative_alpha(betas: Array, t: int) -> float:
    """alpha-bar of time t; 1 at time 0."""
    return float(np.prod(1 - betas[:t]))


def forward_jump(y0: Array, t: int, noise: Array, betas: Array) -> Array:
    """arXiv:2006.11239, eq. 4."""
    abar = cumulative_alpha(betas, t)
    return np.sqrt(abar) * y0 + np.sqrt(1 - abar) * noise


def posterior(y0: Array, yt: Array, t: int, betas: Array) -> tuple[Array, float]:
    """Mean and variance of q(y_{t-1} | y_t, y_0), arXiv:2006.11239, eq. 6 and 7."""
    abar, before = cumulative_alpha(betas, t), cumulative_alpha(betas, t - 1)
    beta = betas[t - 1]
    mean = (np.sqrt(before) * beta * y0 + np.sqrt(1 - beta) * (1 - before) * yt) / (1 - abar)
    return mean, (1 - before) / (1 - abar) * beta


def ancestral_chain(denoise: Denoiser, noises: Sequence[Array], betas: Array) -> Array:
    """y_0 after all T steps; noises[0] is y_T, noises[i] is used in the i-th step."""
    y = noises[0]
    num_times = len(betas)
    for number, t in enumerate(range(num_times, 0, -1), start=1):
        mean, variance = posterior(denoise(y, t), y, t, betas)
        y = mean + np.sqrt(variance) * noises[number] if t > 1 else mean
    return y


def strided_chain(
    denoise: Denoiser, noises: Sequence[Array], betas: Array, times: Sequence[int], *, eta: float
) -> Array:
    """arXiv:2010.02502, eq. 12 with the sigma of eq. 16, over descending `times`."""
    y = noises[0]
    for number, (t, s) in enumerate(zip(times, [*times[1:], 0], strict=True), start=1):
        abar_t, abar_s = cumulative_alpha(betas, t), cumulative_alpha(betas, s)
        sigma = eta * np.sqrt((1 - abar_s) / (1 - abar_t)) * np.sqrt(1 - abar_t / abar_s)
        y0 = denoise(y, t)
        noise = (y - np.sqrt(abar_t) * y0) / np.sqrt(1 - abar_t)
        y = np.sqrt(abar_s) * y0 + np.sqrt(1 - abar_s - sigma**2) * noise
        if s > 0:
            y = y + sigma * noises[number]
    return y


def dpm_solver_chain(denoise: Denoiser, start: Array, betas: Array, times: Sequence[int]) -> Array:
    """DPM-Solver++(2M), arXiv:2211.01095, algorithm 2, over descending `times`, then the prediction
    at the last: x_i = sigma_i / sigma_{i-1} x_{i-1} - alpha_i (exp(-h_i) - 1) D_i.
    """

    def level(t: int) -> tuple[float, float, float]:
        abar = cumulative_alpha(betas, t)
        return np.sqrt(abar), np.sqrt(1 - abar), np.log(np.sqrt(abar) / np.sqrt(1 - abar))

    x, predictions = start, list[Array]()
    for i in range(1, len(times)):
        predictions.append(denoise(x, times[i - 1]))
        (_, sigma_t, lambda_t), (alpha_s, sigma_s, lambda_s) = level(times[i - 1]), level(times[i])
        h = lambda_s - lambda_t
        d = predictions[-1]
        if i > 1:
            r = (lambda_t - level(times[i - 2])[2]) / h
            d = (1 + 1 / (2 * r)) * predictions[-1] - 1 / (2 * r) * predictions[-2]
        x = sigma_s / sigma_t * x - alpha_s * (np.exp(-h) - 1) * d
    return denoise(x, times[-1])
