"""Augmentation of what the discriminator sees (arXiv:2006.06676, section 2 and appendix B).

Real and generated images pass it alike, so that a discriminator cannot memorise few images.
Each transformation happens with one probability p; below about .8 a generator can undo them in its
distribution and does not learn them. Randomness is an argument, all of it is twice differentiable.

Shape letters: N batch, C H W image, K taps, B frequency bands.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_utils.ops.upfirdn2d import upfirdn2d
from torch_utils.resample import resample

AVERAGED = 256  # samples over which the mean sign of D's logits is taken
NUM_DRAWS = 41  # uniform numbers that one image takes, whatever is switched on

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
HALF_BAND = (-1 / 32, 0.0, 9 / 32, 0.5, 9 / 32, 0.0, -1 / 32)  # sym2 with itself, mirrored
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of natural images, from low to high; eq. B.1
LUMA = (3**-0.5, 3**-0.5, 3**-0.5)  # the axis of grey


@dataclass(frozen=True)
class AugmentConfig:
    """How strong each transformation is, 0 being off, and how often it happens."""

    control: Literal["adaptive", "ramp", "fixed"] = "adaptive"
    probability: float = 0.8  # fixed: of each; ramp: where it ends; adaptive: never above
    target: float = 0.6  # adaptive: mean sign of D's logits of real images
    speed_kimg: float | None = None  # from 0 to 1; None: 500, in runs below 1000 kimg 50
    flip: float = 1.0  # 1: sideways
    turn: float = 1.0  # 1: by quarter turns
    shift: float = 0.125  # of the side at most, whole pixels
    scale: float = 0.2  # spread of log2
    rotate: float = 1.0  # of half a turn at most, either way
    stretch: float = 0.2  # spread of log2 of width over height
    drift: float = 0.125  # spread in sides, fractions of pixels
    brightness: float = 0.2  # spread; images have 2 from black to white
    contrast: float = 0.5  # spread of log2
    luma_flip: float = 1.0  # 1: light and dark change places, hues stay
    hue: float = 1.0  # of half a turn at most, either way
    saturation: float = 1.0  # spread of log2
    filter: float = 0.0  # spread of log2 of four frequency bands' gains; 1 in the paper
    noise: float = 0.0  # spread of the spread; 0.1 in the paper
    cutout: float = 0.0  # side of a grey square over the image's; 0.5 in the paper

    def __post_init__(self) -> None:
        for name in TRANSFORMATIONS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if max(self.flip, self.turn, self.rotate, self.luma_flip, self.hue, self.cutout) > 1:
            raise ValueError("flip, turn, rotate, luma_flip, hue and cutout are 1 at most")
        if not (0 <= self.probability <= 1 and -1 < self.target < 1):
            raise ValueError("probability must be in [0, 1] and target in (-1, 1)")
        if self.speed_kimg is not None and not 0 < self.speed_kimg < math.inf:
            raise ValueError(f"speed_kimg must be above 0, not {self.speed_kimg}")

    @property
    def is_on(self) -> bool:
        return self.probability > 0 and any(getattr(self, name) for name in TRANSFORMATIONS)


GEOMETRY = ("flip", "turn", "shift", "scale", "rotate", "stretch", "drift")
COLOUR = ("brightness", "contrast", "luma_flip", "hue", "saturation")
TRANSFORMATIONS = (*GEOMETRY, *COLOUR, "filter", "noise", "cutout")
_OFF = replace(AugmentConfig("fixed", 0.0), **dict.fromkeys(TRANSFORMATIONS, 0.0))

AUGMENTATIONS: dict[str, AugmentConfig] = {
    "ada": AugmentConfig(),
    # translation, colour and cutout, always (arXiv:2006.10738), with the spreads of that paper
    "diffaugment": replace(
        _OFF,
        probability=1.0,
        shift=0.125,
        brightness=0.29,
        contrast=0.42,
        saturation=1.0,
        cutout=0.5,
    ),
    "off": _OFF,
}


class RandomNumbers:
    """Uniform numbers [N, NUM_DRAWS], taken in order: what is switched off takes its share too."""

    def __init__(self, uniform: Tensor, probability: Tensor):
        self.probability = probability  # [N]
        self._columns = iter(uniform.unbind(dim=1))

    def gate(self, probability: Tensor | None = None) -> Tensor:
        """[N] bool: whether a transformation happens."""
        return next(self._columns) < (self.probability if probability is None else probability)

    def uniform(self) -> Tensor:
        """[N] in [0, 1)."""
        return next(self._columns)

    def symmetric(self) -> Tensor:
        """[N] in [-1, 1)."""
        return next(self._columns) * 2 - 1

    def normal(self) -> Tensor:
        """[N], standard; float32's smallest uniform number would be infinite."""
        return torch.special.ndtri(next(self._columns).clamp(1e-6, 1 - 1e-6))


def augment(
    images: Tensor,
    uniform: Tensor,
    *,
    config: AugmentConfig,
    probability: Tensor,
    noise: Tensor | None = None,
) -> Tensor:
    """Augment square images [N, 3, H, H] in about [-1, 1] with `uniform` [N, NUM_DRAWS] in
    [0, 1).

    `probability` [N] is of each transformation; `noise` [N, 3, H, H], standard normal, is needed
    where config.noise is not 0.
    """
    if not config.is_on or not bool(probability.any()):
        return images
    draws = RandomNumbers(uniform, probability)
    moved = _geometry(images, draws, config)
    coloured = _colour(moved, draws, config)
    filtered = _filter(coloured, draws, config)
    noisy = _noise(filtered, draws, config, noise)
    return _cut_out(noisy, draws, config)


# --- geometry: the maps take points of the result to points of the image


def _geometry(x: Tensor, draws: RandomNumbers, config: AugmentConfig) -> Tensor:
    maps = _maps(draws, config, x.shape[-1]).to(x.dtype)
    identity = torch.eye(3, dtype=maps.dtype, device=maps.device)
    (moved,) = (maps != identity).flatten(1).any(dim=1).nonzero(as_tuple=True)
    if not len(moved):
        return x
    return x.index_copy(0, moved, warp(x[moved], maps[moved]))  # the others cost nothing


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
    side = 2 * (size + 2 * margin)
    wider = torch.diag(maps.new_tensor([side / (2 * size)] * 2 + [1.0]))  # to the filter's margin
    there, back = (torch.eye(3).to(maps) for _ in range(2))
    there[:2, 2], back[:2, 2] = DELAY / size, -DELAY / size
    moved = resample(doubled, (there @ maps @ back @ wider)[:, :2], size=(side, side))
    mirrored = SYM6[::-1]
    crop = len(SYM6) // 2 - 1 - 2 * margin, len(SYM6) // 2 - 2 * margin
    return upfirdn2d(moved, mirrored, down=2, padding=crop, gain=0.5)


def _mirrored(x: Tensor, margin: int) -> Tensor:
    """`x` beyond its edges, as `resample` has it: the first pixel is repeated."""
    places = torch.arange(-margin, x.shape[-1] + margin, device=x.device)
    places = torch.where(places < 0, -1 - places, places)
    places = torch.where(places >= x.shape[-1], 2 * x.shape[-1] - 1 - places, places)
    return x[:, :, places][:, :, :, places]


def _maps(draws: RandomNumbers, config: AugmentConfig, size: int) -> Tensor:
    """[N, 3, 3], the inverse of all movements, each with the given probability."""
    p = draws.probability
    found: Tensor | None = None

    def then(gate: Tensor, matrix: Tensor) -> None:
        nonlocal found
        identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        matrix = torch.where(gate[:, None, None], matrix, identity)
        found = matrix if found is None else found @ matrix

    gate, side = draws.gate(), draws.uniform() < 0.5
    then(gate & side & bool(config.flip), _scaling(1 - 2 * side.to(p.dtype)))
    gate, turns = draws.gate(), (draws.uniform() * 4).floor()
    then(gate & bool(config.turn), _rotation(turns * (math.pi / 2)))
    gate, across, down = draws.gate(), draws.symmetric(), draws.symmetric()
    then(gate, _translation(*((u * config.shift * size).round() / size for u in (across, down))))
    gate, factor = draws.gate(), torch.exp2(-draws.normal() * config.scale)
    then(gate, _scaling(factor, factor))
    once = 1 - (1 - p).sqrt()  # of two rotations, so that either happens with probability p
    gate, angle = draws.gate(once), draws.symmetric() * math.pi * config.rotate
    then(gate, _rotation(angle))
    gate, factor = draws.gate(), torch.exp2(-draws.normal() * config.stretch)
    then(gate, _scaling(factor, 1 / factor))
    gate, angle = draws.gate(once), draws.symmetric() * math.pi * config.rotate
    then(gate, _rotation(angle))
    gate, across, down = draws.gate(), draws.normal(), draws.normal()
    then(gate, _translation(across * config.drift, down * config.drift))
    assert found is not None
    return found


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


# --- colour: affine maps of (red, green, blue, 1)


def _colour(x: Tensor, draws: RandomNumbers, config: AugmentConfig) -> Tensor:
    matrix = _colour_matrix(draws, config).to(x.dtype)
    if not any(getattr(config, name) for name in COLOUR):
        return x
    mixed = torch.einsum("nij,njhw->nihw", matrix[:, :3, :3], x)
    return mixed + matrix[:, :3, 3, None, None]


def _colour_matrix(draws: RandomNumbers, config: AugmentConfig) -> Tensor:
    """[N, 4, 4], the product of all changes, each with the given probability."""
    p = draws.probability
    axis = torch.tensor([*LUMA, 0.0], dtype=p.dtype, device=p.device)
    identity = torch.eye(4, dtype=p.dtype, device=p.device)
    grey = axis[:, None] * axis[None, :]  # projects on the axis of grey
    alpha = torch.diag(identity[3])  # what is added, not multiplied

    def chosen(gate: Tensor, matrix: Tensor) -> Tensor:
        return torch.where(gate[:, None, None], matrix, identity)

    gate, level = draws.gate(), draws.normal() * config.brightness
    lift = level[:, None, None] * torch.outer(axis.sign(), identity[3])
    matrix = chosen(gate, identity + lift)
    gate, factor = draws.gate(), torch.exp2(draws.normal() * config.contrast)
    matrix = chosen(gate, factor[:, None, None] * (identity - alpha) + alpha) @ matrix
    gate, flip = draws.gate(), draws.uniform() < 0.5
    matrix = chosen(gate & flip & bool(config.luma_flip), identity - 2 * grey) @ matrix
    gate, angle = draws.gate(), draws.symmetric() * math.pi * config.hue
    matrix = chosen(gate, _about(axis, angle)) @ matrix
    gate, factor = draws.gate(), torch.exp2(draws.normal() * config.saturation)
    faded = grey + alpha + factor[:, None, None] * (identity - grey - alpha)
    return chosen(gate, faded) @ matrix


def _about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations [N, 4, 4] about the unit axis [4] (Rodrigues); the last coordinate stays."""
    x, y, z = axis[:3].tolist()
    cross = torch.zeros(4, 4, dtype=axis.dtype, device=axis.device)
    cross[:3, :3] = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=axis.dtype)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    identity = torch.eye(4, dtype=axis.dtype, device=axis.device)
    return identity + sin * cross + (1 - cos) * (cross @ cross)


# --- filter, noise, cutout


def bands() -> Tensor:
    """Taps [B, K] of four octave bands from low to high, whose sum is one at the middle."""
    low = torch.tensor(HALF_BAND, dtype=torch.float64)
    one = torch.zeros_like(low)
    one[len(low) // 2] = 1.0
    lower, rows = torch.ones(1, dtype=torch.float64), []
    for level in range(3):
        spread = [_spread(taps, 2**level) for taps in (low, one - low)]
        rows.append(_convolve(lower, spread[1]))
        lower = _convolve(lower, spread[0])
    rows.append(lower)
    width = len(lower)
    centred = [F.pad(row, [(width - len(row)) // 2] * 2) for row in rows]
    return torch.stack(centred[::-1])


def _spread(taps: Tensor, every: int) -> Tensor:
    wide = torch.zeros((len(taps) - 1) * every + 1, dtype=taps.dtype)
    wide[::every] = taps
    return wide


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    return F.conv1d(a[None, None], b.flip(0)[None, None], padding=len(b) - 1)[0, 0]


def _filter(x: Tensor, draws: RandomNumbers, config: AugmentConfig) -> Tensor:
    factors = [
        torch.where(draws.gate(), torch.exp2(draws.normal() * config.filter), 1.0)
        for _ in BAND_POWER
    ]
    if config.filter == 0:
        return x
    gains = torch.stack(factors, dim=1)  # [N, B]
    power = gains.new_tensor(BAND_POWER)
    # the power that natural images have stays as it was
    gains = gains / (power * gains.square()).sum(dim=1, keepdim=True).sqrt()
    taps = (gains @ bands().to(gains)).to(x.dtype)  # [N, K]
    margin = taps.shape[1] // 2
    for _ in range(2):  # along rows, then columns
        wide = F.pad(x.transpose(2, 3), [margin, margin, 0, 0], mode="replicate")
        weight = taps[:, None, None, :]  # [N, 1, 1, K]
        x = F.conv2d(wide.transpose(0, 1), weight, groups=len(taps)).transpose(0, 1)
    return x


def _noise(x: Tensor, draws: RandomNumbers, config: AugmentConfig, noise: Tensor | None) -> Tensor:
    gate, spread = draws.gate(), draws.normal().abs() * config.noise
    if config.noise == 0:
        return x
    assert noise is not None
    return x + torch.where(gate, spread, 0.0)[:, None, None, None].to(x.dtype) * noise


def _cut_out(x: Tensor, draws: RandomNumbers, config: AugmentConfig) -> Tensor:
    """A grey square at a random place."""
    gate, across, down = draws.gate(), draws.uniform(), draws.uniform()
    if config.cutout == 0:
        return x
    centres = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]
    rows, columns = ((centres - u[:, None]).abs() < config.cutout / 2 for u in (down, across))
    inside = gate[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return x.masked_fill(inside[:, None], 0.0)


# --- how often


class AugmentControl(nn.Module):
    """The probability of each transformation while a training runs (section 3)."""

    probability: Tensor
    overfitting: Tensor
    speed_kimg: Tensor

    def __init__(self, config: AugmentConfig, *, speed_kimg: float):
        """`speed_kimg` is of the run's beginning: a run that is made longer keeps it."""
        super().__init__()
        self.config = config
        start = config.probability if config.control == "fixed" else 0.0
        self.register_buffer("probability", torch.tensor(start))
        self.register_buffer("overfitting", torch.tensor(config.target))  # r_t, averaged
        self.register_buffer("speed_kimg", torch.tensor(speed_kimg))

    def update(self, sign: Tensor, *, samples: int) -> None:
        """After a step on `samples`, of whose real logits `sign` [] is the mean sign: up where D is
        surer of its training images than the target, else down.
        """
        self.overfitting.lerp_(sign, min(samples / AVERAGED, 1.0))
        if self.config.control == "fixed":
            return
        step = samples / (self.speed_kimg * 1000)
        if self.config.control == "adaptive":
            step = step * torch.sign(self.overfitting - self.config.target)
        self.probability.add_(step).clamp_(0.0, self.config.probability)
