"""The compiled operators on images: dtypes, layouts, odd tensors, derivatives.

On each implementation, see conftest.py.
"""

import pytest
import torch

from tests.operators import using
from tests.torch_utils.ops.on_images import DTYPES, OPERATORS, SHAPES, normal
from torch_utils.ops import native


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    name: str, dtype: torch.dtype, layout: torch.memory_format
):
    run = OPERATORS[name]
    for shape in SHAPES:
        x = normal(*shape).to(dtype).contiguous(memory_format=layout)
        found = run(x)
        with using(None):
            exact, plain = run(x.double()), run(x)
        assert found.dtype == dtype
        unit = torch.finfo(dtype).eps * exact.abs().max().clamp(min=1)
        if dtype == torch.float64:  # its own reference, which adds up in another order
            unit *= 8
        bound = 2 * (plain.double() - exact).abs().max() + unit
        assert (found.double() - exact).abs().max() <= bound, shape


@pytest.mark.parametrize("name", OPERATORS)
def test_channels_last_stays_and_is_read_without_a_copy(name: str):
    x = normal(2, 16, 6, 8).float().contiguous(memory_format=torch.channels_last)
    with torch.profiler.profile() as profile:
        y = OPERATORS[name](x)
    if native.is_compiled(x):
        assert y.is_contiguous(memory_format=torch.channels_last)
        copied = [event for event in profile.key_averages() if event.key == "aten::clone"]
        assert copied == []


@pytest.mark.parametrize("name", OPERATORS)
def test_any_strides_give_the_same(name: str):
    run, x = OPERATORS[name], normal(2, 6, 8, 9).float()
    for odd in (
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([x, x], dim=1)[:, :6],
        torch.stack([x, x], dim=-1)[..., 0],
    ):
        assert not odd.is_contiguous()
        torch.testing.assert_close(run(odd), run(x))


@pytest.mark.parametrize("name", OPERATORS)
def test_empty_batches_pass_with_their_gradient(name: str):
    x = torch.empty(0, 4, 6, 6, requires_grad=True)
    y = OPERATORS[name](x)
    assert y.shape[:2] == (0, 4)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(name: str, bad: float):
    x = normal(1, 16, 6, 8).float()
    x[0, 3, 2, 2] = bad
    y = OPERATORS[name](x)
    with using(None):
        expected = OPERATORS[name](x)
    assert (~y.isfinite()).equal(~expected.isfinite())


@pytest.mark.parametrize("name", ["epilogue", "up 2", "down 2", "bias_act"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_first_and_second_derivatives_match_finite_differences(
    name: str, layout: torch.memory_format
):
    x = normal(2, 2, 4, 4).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(OPERATORS[name], (x,))
    assert torch.autograd.gradgradcheck(lambda x: OPERATORS[name](x).square(), (x,))
