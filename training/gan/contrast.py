"""InfoNCE over a batch of which a process, or a micro-batch, has a part.

Shape letters: N samples of this process, A of all, D embedding.
"""

import torch
from torch import Tensor

from torch_utils import distributed
from training.gan.losses import info_nce, mean_kept
from training.gan.sums import Sums


class Contrast:
    """InfoNCE of features [A, D] against conditions over the whole batch, of which a micro-batch
    has its own rows with gradients; logged as `name`.
    """

    def __init__(
        self, condition: Tensor, keep: Tensor, *, temperature: float, weight: float, name: str
    ):
        self.temperature, self.weight, self.name = temperature, weight, name
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

    def term(self, features: Tensor, place: slice, sums: Sums) -> Tensor:
        """What the rows at `place` add to the loss of this process."""
        value = self.loss(features, place)
        sums.values[self.name] = value.detach()
        return self.weight * distributed.world_size() * value
