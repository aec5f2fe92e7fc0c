"""synthesis_epilogue against its formula written out, and the derivatives that R1 takes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torch_utils.ops import synthesis_epilogue

SHAPE = (2, 3, 4, 5)


def inputs(*, shared_noise: bool = False) -> list[Tensor]:
    """x, demodulation, noise, strength, bias."""
    generator = torch.Generator().manual_seed(0)
    n, channels, height, width = SHAPE
    shapes = [SHAPE, (n, channels), (1 if shared_noise else n, 1, height, width), (), (channels,)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.mark.parametrize("shared_noise", [False, True])
@pytest.mark.parametrize(("gain", "clamp"), [(None, None), (0.5, None), (None, 0.7)])
def test_forward_matches_its_formula(shared_noise: bool, gain: float | None, clamp: float | None):
    x, demodulation, noise, strength, bias = inputs(shared_noise=shared_noise)
    found = synthesis_epilogue(x, demodulation, noise, strength, bias, gain=gain, clamp=clamp)
    for n, c, i, j in np.ndindex(*SHAPE):
        y = float(x[n, c, i, j] * demodulation[n, c] + bias[c])
        y += float(strength * noise[0 if shared_noise else n, 0, i, j])
        y = (y if y > 0 else 0.2 * y) * (math.sqrt(2) if gain is None else gain)
        expected = y if clamp is None else min(max(y, -clamp), clamp)
        assert float(found[n, c, i, j]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_the_scale_of_the_next_layer_multiplies_the_result():
    tensors = inputs()
    after = torch.tensor([[0.5, -2.0, 0.0], [3.0, 1.0, -0.25]], dtype=torch.float64)
    found = synthesis_epilogue(*tensors, clamp=0.7, after=after)
    alone = synthesis_epilogue(*tensors, clamp=0.7)
    torch.testing.assert_close(found, alone * after[:, :, None, None], rtol=1e-14, atol=0)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shared_noise", [False, True])
def test_gradients_match_finite_differences(shared_noise: bool, scaled: bool):
    arguments = inputs(shared_noise=shared_noise)
    if scaled:
        arguments.append(inputs()[1] + 0.1)

    def run(*tensors: Tensor) -> Tensor:
        return synthesis_epilogue(*tensors[:5], after=tensors[5] if scaled else None)

    arguments = [tensor.requires_grad_() for tensor in arguments]
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(lambda *tensors: run(*tensors).square(), arguments)


def r1(x: Tensor, rest: list[Tensor]) -> Tensor:
    """|grad_x sum(f(x)^2)|^2, as R1 sees an op inside a network."""
    value = synthesis_epilogue(x, *rest).square().sum()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    return gradient.square().sum()


def test_r1_gradient_matches_its_closed_form():
    """The case the ops exist for: a parameter's gradient of a squared input gradient.

    f = k (d x + s n + b) with k = sqrt 2 or .2 sqrt 2, constant nearly everywhere, so that
    |grad f^2|^2 = sum (2 k^2 d (d x + s n + b))^2; `factor` is k^2.
    """
    x, demodulation, noise, strength, bias = (tensor.requires_grad_() for tensor in inputs())
    rest = [demodulation, noise, strength, bias]
    found = torch.autograd.grad(r1(x, rest), rest)
    scale = demodulation[:, :, None, None]
    before = x * scale + strength * noise + bias[:, None, None]
    factor = 2 * 0.2**2 + (2 - 2 * 0.2**2) * (before > 0).double()
    closed = (2 * factor * scale * before).square().sum()
    expected = torch.autograd.grad(closed, rest)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_dtype_of_the_input_is_kept():
    x, *rest = inputs()
    found = synthesis_epilogue(x.bfloat16(), *(tensor.float() for tensor in rest))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), synthesis_epilogue(x, *rest), rtol=0.03, atol=0.03)


@pytest.mark.parametrize(
    ("number", "shape"),
    [
        (1, (2, 4)),
        (1, (1, 3)),
        (2, (2, 1, 4, 4)),
        (2, (3, 1, 4, 5)),
        (3, (2,)),
        (4, (4,)),
        (5, (2,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(number: int, shape: tuple[int, ...]):
    """A kernel would read beyond them."""
    arguments = [*inputs(), inputs()[1]]
    arguments[number] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match="do not fit"):
        synthesis_epilogue(*arguments[:5], after=arguments[5])
