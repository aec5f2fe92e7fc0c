"""Geometry of the augmentation (arXiv:2006.06676, appendix B): one affine map an image,
resampled at twice the resolution. Maps take points of the result to points of the image.

Shape letters: N batch, C H W image.
"""

import math

import torch
from torch import Tensor

from torch_utils.ops.upfirdn2d import upfirdn2d
from torch_utils.resample import resample
from torch_utils.sending import to_device
from training.gan.augment.config import AugmentConfig
from training.gan.augment.random_numbers import AugmentNumbers

# Daubechies' least asymmetric wavelet of 6 vanishing moments: up by 2 and down by 2 with it gives
# the image back exactly, so what is not moved is not blurred
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
# by how many samples it moves an image, being not quite symmetric; down again undoes it
DELAY = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6) - (len(SYM6) - 1) / 2


def move(x: Tensor, rows: Tensor, maps: Tensor) -> Tensor:
    """Images [N, 3, H, H], those at `rows` [M] seen through `maps` [M, 3, 3]; the others stay as
    they are, bit for bit, and cost nothing.
    """
    maps = maps.to(x.dtype)
    if len(rows) == len(x):
        return warp(x, maps)
    return x.index_copy(0, rows, warp(x[rows], maps))


def warp(x: Tensor, maps: Tensor) -> Tensor:
    """Images [N, 3, H, H] seen through `maps` [N, 3, 3], sampled at twice the resolution."""
    size, margin = x.shape[-1], len(SYM6) // 2
    doubled = upfirdn2d(
        _mirrored(x, margin),
        SYM6,
        up=2,
        padding=(len(SYM6) // 2 - 2 * margin, len(SYM6) // 2 - 1 - 2 * margin),
        gain=2.0,
    )  # [N, 3, 2H, 2H]
    side = 2 * size + len(SYM6)  # to the filter's margin
    wide, delay = side / (2 * size), DELAY / size
    # made on the host and sent once: a GPU is waited for where one number is written
    fixed = torch.tensor(
        [
            [[wide, 0, 0], [0, wide, 0], [0, 0, 1]],
            [[1, 0, delay], [0, 1, delay], [0, 0, 1]],
            [[1, 0, -delay], [0, 1, -delay], [0, 0, 1]],
        ],
        dtype=maps.dtype,
    )
    wider, there, back = to_device(fixed, maps.device)
    moved = resample(doubled, (there @ maps @ back @ wider)[:, :2], size=(side, side))
    mirrored = SYM6[::-1]
    crop = -1, 0
    return upfirdn2d(moved, mirrored, down=2, padding=crop, gain=0.5)


def _mirrored(x: Tensor, margin: int) -> Tensor:
    """`x` beyond its edges, as `resample` has it: the first pixel is repeated. In slices, whose
    gradient is slices too: that of an index is added up one pixel after another.
    """
    for axis in (2, 3):
        ends = x.narrow(axis, 0, margin), x.narrow(axis, x.shape[axis] - margin, margin)
        x = torch.cat([ends[0].flip(axis), x, ends[1].flip(axis)], dim=axis)
    return x


def movement_maps(numbers: AugmentNumbers, config: AugmentConfig, size: int) -> Tensor:
    """[N, 3, 3], the inverse of all movements, each with the given probability."""
    p = numbers.probability
    identity = torch.eye(3, dtype=p.dtype, device=p.device)

    def chosen(name: str, matrix: Tensor, probability: Tensor | None = None) -> Tensor:
        return torch.where(numbers.gate(name, probability)[:, None, None], matrix, identity)

    side = (numbers.uniform("flip.side") < 0.5) & bool(config.flip)
    maps = chosen("flip", _scaling(1 - 2 * side.to(p.dtype)))
    quarters = (numbers.uniform("turn.quarters") * 4).floor() * bool(config.turn)
    maps = maps @ chosen("turn", _rotation(quarters * (math.pi / 2)))
    across, down = (numbers.symmetric(name) * config.shift for name in ("shift.x", "shift.y"))
    pixels = ((u * size).round() / size for u in (across, down))
    maps = maps @ chosen("shift", _translation(*pixels))
    factor = torch.exp2(-numbers.normal("scale") * config.scale)
    maps = maps @ chosen("scale", _scaling(factor, factor))
    once = 1 - (1 - p).sqrt()  # of two rotations, so that either happens with probability p
    angle = numbers.symmetric("rotate_before") * math.pi * config.rotate
    maps = maps @ chosen("rotate_before", _rotation(angle), once)
    factor = torch.exp2(-numbers.normal("stretch") * config.stretch)
    maps = maps @ chosen("stretch", _scaling(factor, 1 / factor))
    angle = numbers.symmetric("rotate_after") * math.pi * config.rotate
    maps = maps @ chosen("rotate_after", _rotation(angle), once)
    across, down = (numbers.normal(name) * config.drift for name in ("drift.x", "drift.y"))
    return maps @ chosen("drift", _translation(across, down))


def _rows(*rows: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _scaling(across: Tensor, down: Tensor | None = None) -> Tensor:
    one, zero = torch.ones_like(across), torch.zeros_like(across)
    down = one if down is None else down
    return _rows([across, zero, zero], [zero, down, zero], [zero, zero, one])


def _rotation(angle: Tensor) -> Tensor:
    one, zero, cos, sin = torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), angle.sin()
    return _rows([cos, -sin, zero], [sin, cos, zero], [zero, zero, one])


def _translation(across: Tensor, down: Tensor) -> Tensor:
    """In sides of the image, which is 2 wide here."""
    one, zero = torch.ones_like(across), torch.zeros_like(across)
    return _rows([one, zero, -2 * across], [zero, one, -2 * down], [zero, zero, one])
