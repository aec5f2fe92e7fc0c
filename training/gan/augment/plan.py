"""What augmentation does to each image of a batch, as numbers made on the host before the images
are: on a GPU they come in one message, and nothing waits to learn what they are.

Shape letters: N batch, M images that geometry moves, K taps.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.gan.augment.colour import colour_matrix
from training.gan.augment.config import COLOUR, AugmentConfig
from training.gan.augment.corruption import band_taps, noise_spread, square_edges
from training.gan.augment.geometry import movement_maps
from training.gan.augment.random_numbers import AugmentNumbers


@dataclass(frozen=True)
class AugmentPlan:
    """Tensors are empty where their transformation is off; `rows` are those of `moved`, known to
    the host.
    """

    size: int  # N
    rows: tuple[int, ...]
    moved: Tensor  # [M] int64
    maps: Tensor  # [M, 3, 3], of points of the result
    colour: Tensor  # [N, 3, 4]
    taps: Tensor  # [N, K]
    spread: Tensor  # [N], of noise
    squares: Tensor  # [N, 2, 2]: rows and columns from, to, in sides

    @staticmethod
    def of(
        uniform: Tensor, *, probability: float, config: AugmentConfig, image_size: int
    ) -> "AugmentPlan":
        """From `uniform` [N, NUM_COLUMNS] in [0, 1), on the CPU; each transformation happens with
        `probability`.
        """
        happens = config.is_on and probability > 0
        n = len(uniform) if happens else 0
        numbers = AugmentNumbers(uniform[:n], uniform.new_full((n,), probability))
        maps = movement_maps(numbers, config, image_size)  # [n, 3, 3]
        moves = (maps != torch.eye(3, dtype=maps.dtype)).flatten(1).any(dim=1)
        (moved,) = moves.nonzero(as_tuple=True)
        colour = any(getattr(config, name) for name in COLOUR)
        return AugmentPlan(
            len(uniform),
            tuple(moved.tolist()),
            moved,
            maps[moved],
            colour_matrix(numbers, config)[:, :3] if colour else maps[:0, :, :],
            band_taps(numbers, config) if config.filter else maps[:0, 0],
            noise_spread(numbers, config) if config.noise else maps[:0, 0, 0],
            square_edges(numbers, config) if config.cutout else maps[:0, :2, :2],
        )

    def part(self, place: slice) -> "AugmentPlan":
        """That of the images at `place`."""
        first, last = (bisect_left(self.rows, row) for row in (place.start, place.stop))
        own = {name: tensor[place] for name, tensor in self._of_images().items()}
        return AugmentPlan(
            len(range(self.size)[place]),
            tuple(row - place.start for row in self.rows[first:last]),
            moved=self.moved[first:last] - place.start,
            maps=self.maps[first:last],
            **own,
        )

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be sent to a device."""
        return {"moved": self.moved, "maps": self.maps} | self._of_images()

    def sent(self, tensors: Mapping[str, Tensor]) -> "AugmentPlan":
        """The plan with its tensors as they have arrived."""
        return AugmentPlan(self.size, self.rows, **tensors)

    def _of_images(self) -> dict[str, Tensor]:
        names = ("colour", "taps", "spread", "squares")
        return {name: getattr(self, name) for name in names}
