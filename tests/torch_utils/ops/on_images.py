"""The operators as functions of images alone, and how near their results must come."""

from collections.abc import Callable

import torch
from torch import Tensor

from torch_utils.ops import bias_act, synthesis_epilogue, upfirdn2d
from training.gan.augment.geometry import SYM6

TAPS = (0.5, -1.0, 2.0, 0.25)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((2, 16, 6, 8), (2, 3, 5, 7), (1, 1, 1, 1), (3, 5, 1, 4))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def epilogue(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    sides = [normal(n, channels, seed=1), normal(n, 1, height, width, seed=2)]
    sides += [torch.tensor(0.3), normal(channels, seed=3)]
    return synthesis_epilogue(x, *(side.to(kind) for side in sides))


def activated(x: Tensor) -> Tensor:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return bias_act(x, normal(x.shape[1], seed=1).to(kind), activation="leaky_relu", clamp=1.5)


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "bias_act": activated,
    "epilogue": epilogue,
    "up 2": lambda x: upfirdn2d(x, TAPS, up=2, padding=(2, 1), gain=4.0),
    "down 2": lambda x: upfirdn2d(x, TAPS, down=2, padding=(2, 2)),
    "filter": lambda x: upfirdn2d(x, TAPS, padding=(2, 1)),
    "up 2, 12 taps": lambda x: upfirdn2d(x, SYM6, up=2, padding=(6, 5), gain=4.0),
    "down 2, 12 taps": lambda x: upfirdn2d(x, SYM6, down=2, padding=(11, 10)),
    "any": lambda x: upfirdn2d(x, TAPS[:3], up=3, down=2, padding=(4, -1)),
}


def assert_close_as_a_whole(found: list[Tensor], expected: list[Tensor]) -> None:
    """Each tensor to 1e-5 of its length, and to float32's precision of the length of all: a noise
    strength's gradient is one number, the sum of terms that cancel.
    """
    whole = float(torch.stack([other.detach().norm() for other in expected]).norm())
    for one, other in zip(found, expected, strict=True):
        one, other = one.detach(), other.detach()
        precision = torch.finfo(torch.float32).eps * whole
        assert float((one - other).norm()) <= 1e-5 * float(other.norm()) + precision
