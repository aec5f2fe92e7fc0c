"""The energy score: a proper scoring rule by samples alone, as a loss of the prior and as a metric.

Shape letters: N rows, M samples a row, D embedding.
"""

import torch
from torch import Tensor


def energy_score(samples: Tensor, true: Tensor) -> Tensor:
    """Mean distance of M samples [N, M, D] to the true value [N, D], less half their mean distance
    to each other, [N]: smallest in expectation where the samples have the distribution of the truth
    (Gneiting and Raftery 2007, section 4.3).
    """
    m = samples.shape[1]
    if m < 2:
        raise ValueError("the energy score needs at least 2 samples")
    first, second = torch.triu_indices(m, m, offset=1, device=samples.device)
    apart = (samples[:, first] - samples[:, second]).norm(dim=2)  # [N, M (M - 1) / 2]
    return (samples - true[:, None]).norm(dim=2).mean(dim=1) - apart.mean(dim=1) / 2
