"""Made-up embeddings for the tests of statistics and Gaussians."""

import torch
import torch.nn.functional as F
from torch import Tensor


def embeddings(count: int, dim: int, *, seed: int = 0) -> Tensor:
    """Unit rows around a common direction, with a spectrum that decays."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1, 0.1, dim)
    rows = (
        torch.randn(count, dim, generator=generator)
        * scale
        @ torch.randn(dim, dim, generator=generator)
    )
    return F.normalize(rows + 2, dim=1)
