"""A simple differentiable augmentation: translation, colour and cutout (DiffAugment,
arXiv:2006.10738).

Real and generated pictures pass it alike, so that a discriminator cannot memorise few pictures. Its
randomness is an argument. Shape letters: N batch, C H W picture.
"""

import torch
from torch import Tensor

NUM_DRAWS = 7  # uniform numbers that one picture takes


def diff_augment(pictures: Tensor, draws: Tensor, *, strength: float) -> Tensor:
    """Augment [N, 3, H, W] in about [-1, 1] with uniform `draws` [N, NUM_DRAWS] in [0, 1).

    `strength` 1 shifts by up to an eighth, cuts out a square of half the side, and moves
    brightness and contrast by up to +-.5, saturation by up to +-1; 0 changes nothing.
    """
    if strength == 0:
        return pictures
    centred = (2 * draws - 1) * strength
    x = _colour(pictures, centred[:, 0:3])
    x = _translate(x, centred[:, 3:5])
    return _cut_out(x, draws[:, 5:7], strength)


def _colour(x: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = (u[:, i, None, None, None] * 0.5 for i in range(3))
    x = x + brightness
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (1 + 2 * saturation)
    level = x.mean(dim=(1, 2, 3), keepdim=True)
    return level + (x - level) * (1 + contrast)


def _translate(x: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, the border repeated (black would be a give-away on white drawings)."""
    n, _, height, width = x.shape
    down, right = (u[:, 0] * height / 8).round().long(), (u[:, 1] * width / 8).round().long()
    rows = (torch.arange(height, device=x.device) - down[:, None]).clamp(0, height - 1)  # [N, H]
    columns = (torch.arange(width, device=x.device) - right[:, None]).clamp(0, width - 1)  # [N, W]
    flat = (
        (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(-1, x.shape[1], -1)
    )
    return x.flatten(2).gather(2, flat).view_as(x)


def _cut_out(x: Tensor, draws: Tensor, strength: float) -> Tensor:
    """A grey square of side strength / 2 at a random place."""
    height, width = x.shape[2:]
    y = torch.arange(height, device=x.device)
    z = torch.arange(width, device=x.device)
    inside_y = (y[None] - draws[:, 0:1] * height).abs() < height * strength / 4  # [N, H]
    inside_x = (z[None] - draws[:, 1:2] * width).abs() < width * strength / 4  # [N, W]
    return x.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)
