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
    column of Q one number is to be estimated. In the process of the data's own Gaussian C is I.
    """

    process: Gaussian
    mean: Tensor  # nu [D]
    basis: Tensor  # Q [D, D]
    variances: Tensor  # l [D]

    @staticmethod
    def of(data: Gaussian, process: Gaussian) -> "LinearDenoiser":
        """Both on the CPU, in float64."""
        eye = torch.eye(data.dim, dtype=torch.float64)
        root = process.whiten_deviation(data.color(eye))  # Sigma^{1/2} S^{-1/2}
        variances, basis = torch.linalg.eigh(root.T @ root)
        return LinearDenoiser(process, process.whiten(data.mean), basis, variances)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "LinearDenoiser":
        """A copy for computing."""
        tensors = (self.mean, self.basis, self.variances)
        moved = (tensor.to(device, dtype) for tensor in tensors)
        return LinearDenoiser(self.process.to(device, dtype), *moved)

    def __call__(self, z_t: Tensor, abar: Tensor) -> Tensor:
        """z_0 [N, D] from z_t [N, D] at noise levels abar [N, 1]."""
        signal = abar.sqrt()
        gain = signal * self.variances / (abar * self.variances + 1 - abar)  # [N, D]
        inside = (self.process.whiten(z_t) - signal * self.mean) @ self.basis
        return self.process.unwhiten(self.mean + (inside * gain) @ self.basis.T)
