"""SynthesisTail against the operators that it chains, and when it takes them in one pass."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.operators import using
from torch_utils.ops import SynthesisTail, native, synthesis_epilogue, to_rgb, upfirdn2d
from torch_utils.ops.synthesis_tail import FUNCTION
from torch_utils.ops.upfirdn2d import TAPS, upsample

EXACT = torch.float64


@dataclass
class Inputs:
    """Of one layer; float64."""

    x: Tensor
    sides: list[Tensor]
    rgb: tuple[Tensor, Tensor]
    lower: Tensor
    after: Tensor


def inputs(
    n: int, channels: int, height: int, width: int, *, filtered: bool, num_noises: int | None = None
) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=EXACT)

    x = normal(n, channels, height + filtered, width + filtered)
    return Inputs(
        x.to(memory_format=torch.channels_last),
        [
            *(normal(n, channels), normal(num_noises or n, 1, height, width)),
            *(normal(), normal(channels)),
        ],
        (normal(n, 3, channels), normal(3)),
        normal(n, 3, height // 2, width // 2),
        normal(n, channels),
    )


def run(
    given: Inputs, *, dtype: torch.dtype, filtered: bool, rgb: bool, lower: bool, after: bool
) -> tuple[Tensor | None, Tensor | None]:
    own = EXACT if dtype == EXACT else torch.float32  # of all but the activations
    tail = SynthesisTail(
        *(side.to(own) for side in given.sides),
        dtype=dtype,
        filtered=filtered,
        rgb=(given.rgb[0].to(own), given.rgb[1].to(own)) if rgb else None,
        after=given.after.to(own) if after else None,
    )
    return tail(given.x.to(dtype), given.lower.to(own) if lower else None)


def chained(
    given: Inputs, *, filtered: bool, rgb: bool, lower: bool, after: bool
) -> tuple[Tensor | None, Tensor | None]:
    x = upfirdn2d(given.x, TAPS, padding=(1, 1), gain=4.0) if filtered else given.x
    y, image = synthesis_epilogue(x, *given.sides), None
    if rgb:
        image = to_rgb(y, *given.rgb)
        if lower:
            image = image + upsample(given.lower)
        if not after:
            return None, image
    return y * given.after[:, :, None, None] if after else y, image


CASES = pytest.mark.parametrize(
    ("filtered", "rgb", "lower", "after"),
    [
        (True, False, False, True),
        (True, False, False, False),
        (False, True, True, True),
        (False, True, True, False),
        (False, True, False, True),
        (True, True, True, True),
        (True, True, True, False),
        (False, False, False, True),
    ],
)
SHAPES = pytest.mark.parametrize(
    "shape", [(2, 5, 6, 8), (1, 40, 4, 4), (3, 64, 8, 22), (1, 512, 4, 4), (2, 16, 40, 40)]
)


@CASES
@pytest.mark.parametrize("num_noises", [1, None])
@SHAPES
def test_it_is_what_its_operators_give_one_after_the_other(
    shape: tuple[int, ...],
    num_noises: int | None,
    filtered: bool,
    rgb: bool,
    lower: bool,
    after: bool,
):
    parts = {"filtered": filtered, "rgb": rgb, "lower": lower, "after": after}
    given = inputs(*shape, filtered=filtered, num_noises=num_noises)
    expected = chained(given, **parts)
    found = run(given, dtype=EXACT, **parts)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-11)
    if found[0] is not None:
        assert found[0].is_contiguous(memory_format=torch.channels_last)


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_is_at_most_twice_that_of_plain_pytorch(
    dtype: torch.dtype, filtered: bool, rgb: bool, lower: bool, after: bool
):
    parts = {"filtered": filtered, "rgb": rgb, "lower": lower, "after": after}
    given = inputs(2, 64, 8, 22, filtered=filtered)
    given.x = given.x.to(dtype).to(EXACT)
    found = run(given, dtype=dtype, **parts)
    with using(None):
        exact, plain = chained(given, **parts), run(given, dtype=dtype, **parts)
    for one, other, truth in zip(found, plain, exact, strict=True):
        if one is None or other is None or truth is None:
            continue
        assert one.dtype == other.dtype
        unit = torch.finfo(one.dtype).eps * truth.abs().max()
        assert (one - truth).abs().max() <= 2 * (other - truth).abs().max() + unit


def passes(
    monkeypatch: pytest.MonkeyPatch, *, gradient: bool, layout: torch.memory_format
) -> list[str]:
    """Names of the compiled functions that one tail calls."""
    called: list[str] = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda *given: (called.append(given[0]), call(*given)))
    given = inputs(2, 16, 8, 8, filtered=True)
    given.x = given.x.contiguous(memory_format=layout).requires_grad_(gradient)
    run(given, dtype=EXACT, filtered=True, rgb=True, lower=True, after=True)
    return called


def test_one_pass_is_taken_where_no_gradient_is_recorded(
    monkeypatch: pytest.MonkeyPatch, implementation: str
):
    found = passes(monkeypatch, gradient=False, layout=torch.channels_last)
    assert found == ([] if implementation == "reference" else [FUNCTION])
    assert FUNCTION not in passes(monkeypatch, gradient=True, layout=torch.channels_last)
    assert FUNCTION not in passes(monkeypatch, gradient=False, layout=torch.contiguous_format)


def test_a_gradient_that_is_wanted_only_later_is_recorded():
    given = inputs(1, 16, 4, 4, filtered=False)
    tail = SynthesisTail(*given.sides, dtype=EXACT, rgb=given.rgb)
    x = given.x.requires_grad_()
    _, image = tail(x, given.lower)
    assert image is not None
    (gradient,) = torch.autograd.grad(image.sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_a_gradient_of_a_side_that_is_wanted_only_later_is_recorded():
    given = inputs(1, 16, 4, 4, filtered=False)
    bias = given.sides[3]
    with torch.no_grad():
        tail = SynthesisTail(*given.sides, dtype=EXACT)
    bias.requires_grad_()
    y, _ = tail(given.x)
    (gradient,) = torch.autograd.grad(y.sum(), bias)
    assert gradient.abs().max() > 0


def test_what_does_not_fit_is_refused():
    given = inputs(2, 16, 4, 4, filtered=False)
    for number in range(4):
        sides = list(given.sides)
        sides[number] = torch.randn(3, dtype=EXACT)
        with pytest.raises((ValueError, IndexError)):
            SynthesisTail(*sides, dtype=EXACT)
    with pytest.raises(ValueError, match="do not fit"):
        SynthesisTail(*given.sides, dtype=EXACT, after=given.after[:, :3])
    with pytest.raises(ValueError, match="do not fit"):
        SynthesisTail(*given.sides, dtype=EXACT, rgb=(given.rgb[0][:1], given.rgb[1]))
    with pytest.raises(ValueError, match="at least 0"):
        SynthesisTail(*given.sides, dtype=EXACT, clamp=-1.0)
    tail = SynthesisTail(*given.sides, dtype=EXACT, rgb=given.rgb)
    for lower in (given.lower[:, :, :1], given.lower[:1]):
        with pytest.raises(ValueError, match="not of the result"):
            tail(given.x, lower)
    with pytest.raises(ValueError, match="do not fit"):
        tail(given.x[:1], given.lower)
    with pytest.raises(ValueError, match="no image"):
        SynthesisTail(*given.sides, dtype=EXACT)(given.x, given.lower)


@pytest.mark.parametrize("gradient", [False, True])
def test_an_odd_image_has_no_lower_one(gradient: bool):
    given = inputs(2, 16, 9, 7, filtered=False)
    tail = SynthesisTail(*given.sides, dtype=EXACT, rgb=given.rgb)
    with pytest.raises(ValueError, match="not of the result"):
        tail(given.x.requires_grad_(gradient), given.lower)


def test_the_image_has_one_dtype_with_and_without_gradients():
    given = inputs(1, 16, 4, 4, filtered=False)
    sides, rgb = [side.float() for side in given.sides], tuple(one.float() for one in given.rgb)
    tail = SynthesisTail(*sides, dtype=torch.float32, rgb=rgb)
    x, lower = given.x.float(), given.lower.bfloat16()
    _, found = tail(x, lower)
    _, recorded = tail(x.requires_grad_(), lower)
    assert found.dtype == recorded.dtype == torch.float32
    torch.testing.assert_close(found, recorded.detach(), rtol=1e-4, atol=1e-4)


def test_an_empty_batch():
    given = inputs(0, 16, 4, 4, filtered=True)
    parts = {"filtered": True, "rgb": True, "lower": True, "after": True}
    y, image = run(given, dtype=torch.float32, **parts)
    assert y is not None
    assert image is not None
    assert (y.shape, image.shape) == ((0, 16, 4, 4), (0, 3, 4, 4))
