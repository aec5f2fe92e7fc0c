"""How an image becomes a square of a training: cropped, padded or stretched, then resized.

Shape letters: R resolution.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

MAX_PASS_PIXELS = 2**24  # of what lies between the two passes of a resampling


RESAMPLING = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}


@dataclass(frozen=True)
class SquareConfig:
    """How an image becomes a square; recorded with whatever was trained on it."""

    background: str = "white"  # shown through transparency, and around `pad`: a name, or #rrggbb
    resize: Literal["lanczos", "bicubic", "box"] = "lanczos"  # box: the mean over an area
    # the centre square, all of it out of proportion, or all of it with background on two sides
    crop: Literal["centre", "stretch", "pad"] = "centre"

    def __post_init__(self) -> None:
        if len(ImageColor.getrgb(self.background)) != 3:  # ValueError where there is no such colour
            raise ValueError(f"background {self.background!r} is transparent itself")

    @property
    def colour(self) -> tuple[int, int, int]:
        """Of the background, 0 to 255."""
        red, green, blue = ImageColor.getrgb(self.background)[:3]
        return red, green, blue


DEFAULT_SQUARES = SquareConfig()


def to_square(
    image: Image.Image, resolution: int, how: SquareConfig = DEFAULT_SQUARES
) -> np.ndarray:
    """[resolution, resolution, 3] uint8 of an RGB image."""
    size, method = (resolution, resolution), RESAMPLING[how.resize]
    if how.crop == "stretch":
        if image.height * resolution > MAX_PASS_PIXELS:  # the columns come first in Pillow
            image = image.resize((image.width, resolution), method)
        square = image.resize(size, method)
    elif how.crop == "pad":
        square = _padded(image, resolution, how)
    else:
        square = ImageOps.fit(image, size, method=method)
    return np.asarray(square)


def _padded(image: Image.Image, resolution: int, how: SquareConfig) -> Image.Image:
    size, method = (resolution, resolution), RESAMPLING[how.resize]
    if min(image.size) / max(image.size) * resolution > 0.5:
        return ImageOps.pad(image, size, method=method, color=how.colour)
    # a line of one pixel, where proportions would leave none
    width, height = (resolution, 1) if image.width > image.height else (1, resolution)
    square = Image.new("RGB", size, how.colour)
    place = (resolution - width + 1) // 2, (resolution - height + 1) // 2
    square.paste(image.resize((width, height), method), place)
    return square
