"""The loss of a CLIP (arXiv:2103.00020, section 2.3). Shape letters: N batch, D embedding."""

import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor, *, same: Tensor, smoothing: float
) -> Tensor:
    """Symmetric InfoNCE over unit vectors [N, D]; pairs that `same` [N, N] marks (one name) share
    the target.
    """
    logits = scale * images @ texts.T  # [N, N]
    target = same / same.sum(dim=1, keepdim=True)
    target = (1 - smoothing) * target + smoothing / len(target)
    rows = F.cross_entropy(logits, target)
    columns = F.cross_entropy(logits.T, target.T / target.T.sum(dim=1, keepdim=True))
    return (rows + columns) / 2
