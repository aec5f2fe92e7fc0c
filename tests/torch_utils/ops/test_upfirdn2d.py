"""upfirdn2d against scipy, and its derivatives."""

from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.references import convolutions, filters
from torch_utils.ops import upfirdn2d
from torch_utils.ops.upfirdn2d import upsample

ASYMMETRIC = (0.5, -1.0, 2.0, 0.25)

CASES = [
    pytest.param({"up": up, "down": down, "padding": padding}, id=f"up{up}-down{down}-pad{padding}")
    for up, down, padding in [
        (1, 1, (0, 0)),
        (1, 1, (2, 1)),
        (2, 1, (2, 1)),
        (1, 2, (1, 1)),
        (2, 3, (5, 0)),
        (3, 2, (-2, 4)),
        (2, 1, (-1, -3)),
        (1, 2, (-1, 2)),
        (1, 3, (0, 7)),
    ]
]


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def asymmetric(x: Tensor, options: dict[str, Any]) -> Tensor:
    return upfirdn2d(x, ASYMMETRIC, gain=1.5, **options)


@pytest.mark.parametrize("options", CASES)
def test_forward_matches_scipy(options: dict[str, Any]):
    x = image(2, 3, 7, 10)
    expected = filters.upfirdn2d(x.numpy(), ASYMMETRIC, gain=1.5, **options)
    np.testing.assert_allclose(asymmetric(x, options), expected, rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    taps=st.lists(st.floats(-2, 2), min_size=1, max_size=6),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    up=st.integers(1, 3),
    down=st.integers(1, 3),
    padding=st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
)
def test_any_filter_matches_scipy(
    taps: list[float], size: tuple[int, int], up: int, down: int, padding: tuple[int, int]
):
    x = image(1, 2, *size)
    if min(size) * up + sum(padding) < len(taps):
        with pytest.raises(ValueError, match="taps do not fit"):
            upfirdn2d(x, taps, up=up, down=down, padding=padding)
        return
    found = upfirdn2d(x, taps, up=up, down=down, padding=padding, gain=2.0)
    expected = filters.upfirdn2d(x.numpy(), taps, up=up, down=down, padding=padding, gain=2.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", CASES)
def test_backward_is_the_adjoint(options: dict[str, Any]):
    """<A x, y> = <x, A' y>."""
    x = image(1, 2, 7, 6).requires_grad_()
    ax = asymmetric(x, options)
    y = image(*ax.shape, seed=1)
    (adjoint,) = torch.autograd.grad(ax, x, y)
    assert float((ax * y).sum().detach()) == pytest.approx(float((x * adjoint).sum().detach()))


@pytest.mark.parametrize("options", CASES)
def test_backward_matches_the_transposed_matrix(options: dict[str, Any]):
    matrix = filters.matrix_of(lambda x: asymmetric(x, options), (1, 1, 6, 5))
    x = image(1, 1, 6, 5).requires_grad_()
    ax = asymmetric(x, options)
    y = image(*ax.shape, seed=1)
    (adjoint,) = torch.autograd.grad(ax, x, y)
    torch.testing.assert_close(adjoint.flatten(), matrix.T @ y.flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", CASES)
def test_gradients_match_finite_differences(options: dict[str, Any]):
    x = image(1, 1, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: asymmetric(x, options), x)
    assert torch.autograd.gradgradcheck(lambda x: asymmetric(x, options).square(), x)


@pytest.mark.parametrize("options", CASES)
def test_a_third_derivative_exists(options: dict[str, Any]):
    """Closed under differentiation: the chain of derivatives of |A x|_4^4 / 24 along ones."""
    x = image(1, 1, 6, 5).requires_grad_()
    value = asymmetric(x, options).pow(4).sum() / 24
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        value = gradient.sum()
    matrix = filters.matrix_of(lambda x: asymmetric(x, options), (1, 1, 6, 5))
    third = matrix.T @ (matrix.sum(dim=1) ** 2 * (matrix @ x.detach().flatten()))
    torch.testing.assert_close(gradient.detach().flatten(), third, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", ["channels_last", "expanded", "transposed", "sliced"])
def test_odd_layouts_give_the_same(layout: str):
    x = image(2, 3, 8, 8)
    odd = {
        "channels_last": lambda: x.contiguous(memory_format=torch.channels_last),
        "expanded": lambda: x[:1].expand(2, -1, -1, -1),
        "transposed": lambda: x.transpose(2, 3),
        "sliced": lambda: x[:, ::2, 1:, ::2],
    }[layout]()
    found = upfirdn2d(odd, ASYMMETRIC, up=2, padding=(2, 1))
    assert found.equal(upfirdn2d(odd.contiguous(), ASYMMETRIC, up=2, padding=(2, 1)))


def test_the_input_is_left_alone():
    x = image(1, 1, 5, 5)
    before = x.clone()
    upfirdn2d(x, (1.0,))
    upfirdn2d(x, ASYMMETRIC)
    assert x.equal(before)


def test_bfloat16_stays_bfloat16():
    x = image(1, 2, 8, 8)
    found = upfirdn2d(x.bfloat16(), (0.125, 0.375, 0.375, 0.125), up=2, padding=(2, 1), gain=4.0)
    expected = upfirdn2d(x, (0.125, 0.375, 0.375, 0.125), up=2, padding=(2, 1), gain=4.0)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("options", [{"gain": -1.0}, {"up": 0}, {"down": 0}])
def test_impossible_options_are_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match="must be >= 0"):
        upfirdn2d(image(1, 1, 8, 8), ASYMMETRIC, **options)


def test_taps_longer_than_the_signal_are_refused():
    with pytest.raises(ValueError, match=r"4 taps do not fit into \[3, 3\] samples"):
        upfirdn2d(image(1, 1, 3, 3), ASYMMETRIC)


@pytest.mark.parametrize("padding", [(-3, 5), (5, -3)])
def test_a_row_may_be_cropped_further_than_it_is_long(padding: tuple[int, int]):
    x = image(1, 1, 4, 1).requires_grad_()
    found = upfirdn2d(x, (1.0, 2.0), padding=padding)
    wide = F.pad(x, [max(padding[0], 0), max(padding[1], 0)] * 2)
    start, behind = (max(-p, 0) for p in padding)
    cut = wide[:, :, start : wide.shape[2] - behind, start : wide.shape[3] - behind]
    torch.testing.assert_close(found, upfirdn2d(cut, (1.0, 2.0)))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.isfinite().all()


def test_upsampling_matches_scipy_and_keeps_a_flat_image():
    x = image(1, 1, 5, 6)
    spread = np.zeros((10, 12))
    spread[::2, ::2] = x[0, 0].numpy()
    expected = scipy.signal.convolve2d(
        np.pad(spread, ((2, 1), (2, 1))), 4 * convolutions.FILTER, mode="valid"
    )
    np.testing.assert_allclose(upsample(x)[0, 0], expected, rtol=0, atol=1e-12)
    flat = upsample(torch.full((1, 2, 6, 6), 0.7))
    torch.testing.assert_close(flat[:, :, 2:-2, 2:-2], torch.full((1, 2, 8, 8), 0.7))


def test_what_is_added_must_have_the_shape_of_the_result():
    with pytest.raises(ValueError, match="not of the result's shape"):
        upfirdn2d(image(2, 3, 4, 4), (1.0,), add=image(1, 3, 4, 4))
