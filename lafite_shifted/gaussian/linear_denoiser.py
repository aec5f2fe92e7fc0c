"""The best linear denoiser under the data's Gaussian, Wiener's.

Shape letters: N batch, D embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lafite_shifted.gaussian.gaussian import Gaussian


@dataclass(frozen=True)
class LinearDenoiser:
    """E[z_0 | z_t] of z_0 ~ N(mu, Sigma) in a process of any Gaussian N(m, S).

    In the process's whitened coordinates z_t is sqrt(abar) y_0 + sqrt(1 - abar) n, and y_0 is
    N(nu, C) with nu = S^{-1/2} (mu - m), C = S^{-1/2} Sigma S^{-1/2} = Q diag(l) Q^T: along each
    column of Q one number is to be estimated. In the process of the data's own Gaussian nu is 0 and
    C is I: no column is needed.
    """

    process: Gaussian
    # nu [D], Q [D, D] and l [D]; None: the process is of the data's own Gaussian
    columns: tuple[Tensor, Tensor, Tensor] | None

    @staticmethod
    def of(data: Gaussian, process: Gaussian) -> "LinearDenoiser":
        """Both on the CPU, in float64."""
        if data is process:
            return LinearDenoiser(process, None)
        eye = torch.eye(data.dim, dtype=torch.float64)
        root = process.whiten_deviation(data.color(eye))  # Sigma^{1/2} S^{-1/2}
        variances, basis = torch.linalg.eigh(root.T @ root)
        return LinearDenoiser(process, (process.whiten(data.mean), basis, variances))

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "LinearDenoiser":
        """A copy for computing."""
        process = self.process.to(device, dtype)
        if self.columns is None:
            return LinearDenoiser(process, None)
        mean, basis, variances = (tensor.to(device, dtype) for tensor in self.columns)
        return LinearDenoiser(process, (mean, basis, variances))

    def __call__(self, z_t: Tensor, abar: Tensor) -> Tensor:
        """z_0 [N, D] from z_t [N, D] at noise levels abar [N, 1], or one for all."""
        signal = abar.sqrt()
        if self.columns is None:
            return self.process.mean + signal * (z_t - self.process.mean)
        mean, basis, variances = self.columns
        gain = signal * variances / (abar * variances + 1 - abar)  # [N, D]
        inside = (self.process.whiten(z_t) - signal * mean) @ basis
        return self.process.unwhiten(mean + (inside * gain) @ basis.T)
