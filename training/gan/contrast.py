"""InfoNCE over a batch of which a process, or a micro-batch, has a part.

Shape letters: N samples of this process, A of all, D embedding.
"""

import torch
from torch import Tensor

from torch_utils import distributed
from training.gan.losses import info_nce, mean_kept


class Contrast:
    """InfoNCE of features [A, D] against conditions over the whole batch, of which a micro-batch
    has its own rows with gradients.
    """

    def __init__(self, condition: Tensor, keep: Tensor, *, temperature: float):
        self.temperature = temperature
        self.condition = distributed.all_gather_rows(condition)  # [A, D]
        self.keep = distributed.all_gather_rows(keep.to(torch.uint8)).bool()  # gloo has no bool
        self.first = distributed.rank() * len(condition)
        self.features: Tensor | None = None  # [A, D], constants

    def prepare(self, features: Tensor) -> None:
        """The features [N, D] of all samples of this process."""
        self.features = distributed.all_gather_rows(features.detach())

    def loss(self, features: Tensor, place: slice) -> Tensor:
        """The whole loss, with gradients of the rows at `place` of this process alone."""
        if self.features is None:
            self.prepare(features)  # a batch in one piece
        assert self.features is not None
        start, end = self.first + place.start, self.first + place.stop
        rows = torch.cat([self.features[:start], features, self.features[end:]])
        terms = info_nce(rows, self.condition, temperature=self.temperature, keep=self.keep)
        return mean_kept(terms, self.keep)
