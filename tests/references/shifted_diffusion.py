"""The formulas of shifted diffusion (arXiv:2211.15388, section 3.2) as the paper writes them, with
its own symbols, in numpy.

Times count from 1 to T; betas[t - 1] belongs to time t.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def forward_moments(
    z0: Array, t: int, mean: Array, covariance: Array, betas: Array
) -> tuple[Array, Array]:
    """Mean and covariance of z_t after t single steps q(z_i | z_{i-1}) = N(sqrt(alpha_i) z_{i-1} +
    s_i, beta_i Sigma), s_i = (1 - sqrt(alpha_i)) mu.
    """
    moment, spread = z0, np.zeros_like(covariance)
    for beta in betas[:t]:
        alpha = 1 - beta
        moment = np.sqrt(alpha) * moment + (1 - np.sqrt(alpha)) * mean
        spread = alpha * spread + beta * covariance
    return moment, spread


def posterior(
    z0: Array, zt: Array, t: int, mean: Array, covariance: Array, betas: Array
) -> tuple[Array, Array]:
    """nu and Lambda of q(z_{t-1} | z_t, z_0), in extended precision."""
    alphas = 1 - betas.astype(np.longdouble)
    alpha, beta = alphas[t - 1], 1 - alphas[t - 1]
    abar, before = np.prod(alphas[:t]), np.prod(alphas[: t - 1])
    shift = (1 - np.sqrt(alpha)) * mean
    gamma = (1 - before) * np.sqrt(alpha) / (1 - abar)
    eta = beta * np.sqrt(before) / (1 - abar)
    tau = beta / (1 - abar)
    nu = gamma * (zt - shift) + eta * z0 + tau * (1 - np.sqrt(before)) * mean
    return nu.astype(np.float64), ((1 - before) * beta / (1 - abar) * covariance).astype(np.float64)
