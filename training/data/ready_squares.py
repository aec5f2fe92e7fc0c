"""Squares that were made while their images were embedded: each file is read and decoded once for
both.
"""

from PIL import Image
from torch import Tensor, from_numpy

from training.data.decoding.decode import SquareConfig, to_square


class ReadySquares:
    """By name, each until it is taken. Threads may add."""

    def __init__(self, resolution: int, how: SquareConfig):
        self._resolution, self._how = resolution, how
        self._loader: dict[str, Tensor] = {}

    def add(self, name: str, image: Image.Image) -> None:
        """Keep the square of a decoded image."""
        self._loader[name] = square_of(image, self._resolution, self._how)

    def get_batch(self, name: str) -> Tensor | None:
        """[3, R, R] uint8, once; None where there is none."""
        return self._loader.pop(name, None)


def square_of(image: Image.Image, resolution: int, how: SquareConfig) -> Tensor:
    """[3, R, R] uint8 of an RGB image."""
    return from_numpy(to_square(image, resolution, how).copy()).permute(2, 0, 1)
