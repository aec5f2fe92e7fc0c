"""Scalars of a step."""

from torch import Tensor


class Sums:
    """Scalars of a step: means over the samples of this process."""

    def __init__(self, count: int):
        self.count, self.values = count, dict[str, Tensor]()

    def add(self, name: str, terms: Tensor) -> Tensor:
        """The part of terms [n] in the mean over all samples; logged without its graph."""
        part = terms.sum() / self.count
        self.values[name] = self.values.get(name, 0.0) + part.detach()
        return part
