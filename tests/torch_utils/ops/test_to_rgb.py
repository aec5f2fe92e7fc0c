"""to_rgb against its formula written out, and its derivatives."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.operators import using
from torch_utils.ops import native, to_rgb


def inputs(n: int = 2, channels: int = 5, height: int = 3, width: int = 4) -> list[Tensor]:
    """x, weight, bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, channels, height, width), (n, 3, channels), (3,)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 40, 5, 5), (2, 16, 6, 33), (1, 1, 1, 1)])
def test_forward_matches_its_formula(shape: tuple[int, ...], layout: torch.memory_format):
    x, weight, bias = inputs(*shape)
    found = to_rgb(x.contiguous(memory_format=layout), weight, bias)
    expected = np.einsum("noc,nchw->nohw", weight.numpy(), x.numpy()) + bias.numpy()[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert found.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_error_is_at_most_twice_that_of_plain_pytorch(
    dtype: torch.dtype, layout: torch.memory_format
):
    x, weight, bias = inputs(2, 40, 7, 9)
    x = x.to(dtype).contiguous(memory_format=layout)
    found = to_rgb(x, weight.float(), bias.float())
    with using(None):
        exact, plain = to_rgb(x.double(), weight, bias), to_rgb(x, weight.float(), bias.float())
    assert found.dtype == plain.dtype == torch.float32
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_match_finite_differences(layout: torch.memory_format):
    x, weight, bias = inputs(2, 3, 2, 2)
    x = x.contiguous(memory_format=layout)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert torch.autograd.gradcheck(to_rgb, leaves)
    assert torch.autograd.gradgradcheck(lambda *tensors: to_rgb(*tensors).square(), leaves)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_lies_as_the_activations_do(layout: torch.memory_format):
    x, weight, bias = inputs()
    x = x.contiguous(memory_format=layout).requires_grad_()
    (gradient,) = torch.autograd.grad(to_rgb(x, weight, bias).sum(), x)
    if native.is_compiled(x):
        assert gradient.is_contiguous(memory_format=layout)


def test_odd_strides_and_empty_batches():
    x, weight, bias = inputs()
    torch.testing.assert_close(
        to_rgb(x.transpose(2, 3), weight, bias), to_rgb(x, weight, bias).transpose(2, 3)
    )
    assert to_rgb(x[:0], weight[:0], bias).shape == (0, 3, 3, 4)


def test_what_is_not_finite_stays_in_its_pixel():
    x, weight, bias = inputs()
    x[1, 2, 0, 3] = float("nan")
    broken = ~to_rgb(x, weight, bias).isfinite()
    assert broken[1, :, 0, 3].all()
    assert int(broken.sum()) == 3


@pytest.mark.parametrize("wrong", [(2, 4, 5), (2, 3, 6), (1, 3, 5)])
def test_a_weight_that_does_not_fit_is_refused(wrong: tuple[int, ...]):
    x, _, bias = inputs()
    with pytest.raises(ValueError, match="do not fit"):
        to_rgb(x, torch.zeros(wrong, dtype=torch.float64), bias)
