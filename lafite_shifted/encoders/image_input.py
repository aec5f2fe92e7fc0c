"""Images that users hand over, as an encoder takes them. Shape letters: C H W image."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.errors import InputError

BACKGROUND = (255, 255, 255)  # shown through transparency, as in training


def as_rgb(image: Image.Image) -> Image.Image:
    """`image` in 8-bit RGB on white; InputError for what is no image."""
    if not isinstance(image, Image.Image):
        raise InputError(
            f"{type(image).__name__} is no image. Give a PIL image, such as "
            "PIL.Image.open('cat.png')."
        )
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    return image.convert("RGB")


def image_levels(image: Image.Image) -> Tensor:
    """[3, H, W] uint8."""
    return torch.from_numpy(np.asarray(as_rgb(image)).transpose(2, 0, 1).copy())
