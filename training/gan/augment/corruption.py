"""What spoils an image (arXiv:2006.06676, appendix B): other gains of its frequency bands, noise,
and a grey square.

Shape letters: N batch, C H W image, K taps, B frequency bands.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.gan.augment.config import AugmentConfig
from training.gan.augment.random_numbers import AugmentNumbers

HALF_BAND = (-1 / 32, 0.0, 9 / 32, 0.5, 9 / 32, 0.0, -1 / 32)  # sym2 with itself, mirrored
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of natural images, from low to high; eq. B.1


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


def band_taps(numbers: AugmentNumbers, config: AugmentConfig) -> Tensor:
    """Taps [N, K] that give each frequency band a gain of its own."""
    names = [f"band_{number}" for number in range(len(BAND_POWER))]
    factors = [torch.exp2(numbers.normal(name) * config.filter) for name in names]
    gated = [torch.where(numbers.gate(n), f, 1.0) for n, f in zip(names, factors, strict=True)]
    gains = torch.stack(gated, dim=1)  # [N, B]
    # the power that natural images have stays as it was
    power = sum(share * gain.square() for share, gain in zip(BAND_POWER, gated, strict=True))
    gains = gains / torch.as_tensor(power).sqrt()[:, None]
    return gains @ bands().to(gains.dtype)


def filter_bands(x: Tensor, taps: Tensor) -> Tensor:
    """Images [N, 3, H, W] filtered with `taps` [N, K] along rows and columns."""
    margin = taps.shape[1] // 2
    weight = taps.to(x.dtype)[:, None, None, :]  # [N, 1, 1, K]
    for _ in range(2):  # along rows, then columns
        wide = F.pad(x.transpose(2, 3), [margin, margin, 0, 0], mode="replicate")
        x = F.conv2d(wide.transpose(0, 1), weight, groups=len(taps)).transpose(0, 1)
    return x


def noise_spread(numbers: AugmentNumbers, config: AugmentConfig) -> Tensor:
    """Of each image, [N]."""
    return torch.where(numbers.gate("noise"), numbers.normal("noise").abs() * config.noise, 0.0)


def add_noise(x: Tensor, spread: Tensor, noise: Tensor) -> Tensor:
    """`noise` [N, 3, H, W], standard normal, times a spread [N] of each image's own."""
    return x + spread[:, None, None, None].to(x.dtype) * noise


def square_edges(numbers: AugmentNumbers, config: AugmentConfig) -> Tensor:
    """Rows and columns from, to of a grey square at a random place, [N, 2, 2] in sides of the
    image; nowhere where chance has none.
    """
    middle = torch.stack([numbers.uniform("cutout.y"), numbers.uniform("cutout.x")], dim=1)
    half = torch.where(numbers.gate("cutout"), config.cutout / 2, -1.0)[:, None]
    return torch.stack([middle - half, middle + half], dim=2)


def cut_out(x: Tensor, squares: Tensor) -> Tensor:
    """Images [N, 3, H, H] grey between the edges `squares` [N, 2, 2]."""
    places = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1]  # [H]
    along = (places > squares[..., :1]) & (places < squares[..., 1:])  # [N, 2, H]
    inside = along[:, 0, :, None] & along[:, 1, None, :]
    return x.masked_fill(inside[:, None], 0.0)
