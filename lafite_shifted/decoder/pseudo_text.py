"""Pseudo text features: an image embedding moved as far as a text embedding would be
(arXiv:2111.13792, section 3.1).

The authors state the noise as a factor; here it is the cosine between the embedding and its pseudo
text, exactly: h' = c h + sqrt(1 - c^2) u, with u a unit vector orthogonal to h.

Shape letters: N batch, D embedding.
"""

import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.gaussian.gaussian import Gaussian


def pseudo_text(
    h: Tensor, noise: Tensor, *, cosine: float, gaussian: Gaussian | None = None
) -> Tensor:
    """Unit vectors [N, D] at exactly `cosine` to the unit vectors h [N, D], in the direction of
    standard normal `noise` [N, D]: isotropic, or shaped by Sigma^{1/2} when `gaussian` is given.
    """
    if not 0 <= cosine <= 1:
        raise ValueError(f"cosine must be in [0, 1], not {cosine}")
    direction = noise if gaussian is None else gaussian.color(noise)
    across = F.normalize(direction - (direction * h).sum(dim=1, keepdim=True) * h, dim=1)
    return cosine * h + (1 - cosine**2) ** 0.5 * across
