"""The random numbers of one augmented image, by name. What is switched off has its own too, so that
no setting moves another's. Shape letters: N batch, C columns.
"""

import torch
from torch import Tensor

COLUMNS = (
    *("flip.gate", "flip.side", "turn.gate", "turn.quarters"),
    *("shift.gate", "shift.x", "shift.y", "scale.gate", "scale"),
    *("rotate_before.gate", "rotate_before", "stretch.gate", "stretch"),
    *("rotate_after.gate", "rotate_after", "drift.gate", "drift.x", "drift.y"),
    *("brightness.gate", "brightness", "contrast.gate", "contrast"),
    *("luma_flip.gate", "luma_flip.side", "hue.gate", "hue", "saturation.gate", "saturation"),
    *(f"band_{number}{part}" for number in range(4) for part in (".gate", "")),
    *("noise.gate", "noise", "cutout.gate", "cutout.x", "cutout.y"),
)
NUM_COLUMNS = len(COLUMNS)
_INDEX = {name: number for number, name in enumerate(COLUMNS)}


class AugmentNumbers:
    """Uniform numbers [N, C] in [0, 1), and the probability [N] of each transformation."""

    def __init__(self, uniform: Tensor, probability: Tensor):
        self.probability = probability
        self._uniform = uniform

    def gate(self, name: str, probability: Tensor | None = None) -> Tensor:
        """[N] bool: whether the transformation `name` happens."""
        probability = self.probability if probability is None else probability
        return self.uniform(f"{name}.gate") < probability

    def uniform(self, name: str) -> Tensor:
        """[N] in [0, 1)."""
        return self._uniform[:, _INDEX[name]]

    def symmetric(self, name: str) -> Tensor:
        """[N] in [-1, 1)."""
        return self.uniform(name) * 2 - 1

    def normal(self, name: str) -> Tensor:
        """[N], standard; float32's smallest uniform number would be infinite."""
        return torch.special.ndtri(self.uniform(name).clamp(1e-6, 1 - 1e-6))
