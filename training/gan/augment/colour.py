"""Changes of colour (arXiv:2006.06676, appendix B): an affine map of (red, green, blue, 1) for
each image.

Shape letters: N batch, C H W image.
"""

import math

import torch
from torch import Tensor

from training.gan.augment.config import AugmentConfig
from training.gan.augment.random_numbers import AugmentNumbers

LUMA = 3**-0.5  # the axis of grey is (LUMA, LUMA, LUMA)


def recolour(x: Tensor, matrix: Tensor) -> Tensor:
    """Images [N, 3, H, W], recoloured by `matrix` [N, 3, 4]."""
    matrix = matrix.to(x.dtype)
    mixed = torch.einsum("nij,njhw->nihw", matrix[:, :, :3], x)
    return mixed + matrix[:, :, 3, None, None]


def colour_matrix(numbers: AugmentNumbers, config: AugmentConfig) -> Tensor:
    """[N, 4, 4], the product of all changes, each with the given probability."""
    p = numbers.probability
    identity = torch.eye(4, dtype=p.dtype, device=p.device)
    grey = torch.zeros_like(identity)  # projects on the axis of grey
    grey[:3, :3] = LUMA**2
    alpha = torch.zeros_like(identity)  # what is added, not multiplied
    alpha[3, 3] = 1.0
    white = torch.zeros_like(identity)  # adds to red, green and blue alike
    white[:3, 3] = 1.0

    def chosen(name: str, matrix: Tensor) -> Tensor:
        return torch.where(numbers.gate(name)[:, None, None], matrix, identity)

    level = (numbers.normal("brightness") * config.brightness)[:, None, None]
    matrix = chosen("brightness", identity + level * white)
    factor = torch.exp2(numbers.normal("contrast") * config.contrast)[:, None, None]
    matrix = chosen("contrast", factor * (identity - alpha) + alpha) @ matrix
    flips = (numbers.uniform("luma_flip.side") < 0.5) & bool(config.luma_flip)
    matrix = chosen("luma_flip", identity - 2 * grey * flips[:, None, None]) @ matrix
    angle = numbers.symmetric("hue") * math.pi * config.hue
    matrix = chosen("hue", _about_grey(angle)) @ matrix
    factor = torch.exp2(numbers.normal("saturation") * config.saturation)[:, None, None]
    faded = grey + alpha + factor * (identity - grey - alpha)
    return chosen("saturation", faded) @ matrix


def _about_grey(angle: Tensor) -> Tensor:
    """Rotations [N, 4, 4] about the axis of grey (Rodrigues); the last coordinate stays."""
    identity = torch.eye(4, dtype=angle.dtype, device=angle.device)
    cross = torch.zeros_like(identity)
    cross[0, 1], cross[1, 2], cross[2, 0] = -LUMA, -LUMA, -LUMA
    cross[1, 0], cross[2, 1], cross[0, 2] = LUMA, LUMA, LUMA
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return identity + sin * cross + (1 - cos) * (cross @ cross)
