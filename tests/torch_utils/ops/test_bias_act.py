"""bias_act against its formula written out, and its derivatives."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.torch_utils.ops.on_images import normal
from torch_utils.ops import bias_act
from torch_utils.ops.bias_act import Activation


def tensors(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return x, torch.randn(shape[1], dtype=torch.float64, generator=generator)


def written_out(
    x: float, bias: float, activation: Activation, gain: float | None, clamp: float | None
) -> float:
    y = x + bias
    if activation == "leaky_relu":
        y = y if y > 0 else 0.2 * y
        gain = math.sqrt(2) if gain is None else gain
    y *= 1.0 if gain is None else gain
    return y if clamp is None else min(max(y, -clamp), clamp)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("activation", ["linear", "leaky_relu"])
@pytest.mark.parametrize("gain", [None, 1.0, 0.7])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_forward_matches_its_formula(
    shape: tuple[int, ...], activation: Activation, gain: float | None, clamp: float | None
):
    x, bias = tensors(*shape)
    found = bias_act(x, bias, activation=activation, gain=gain, clamp=clamp)
    for index in np.ndindex(*shape):
        expected = written_out(float(x[index]), float(bias[index[1]]), activation, gain, clamp)
        assert float(found[index]) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_no_bias_is_a_bias_of_zero():
    x, bias = tensors(2, 3, 4, 4)
    found = bias_act(x, activation="leaky_relu")
    assert found.equal(bias_act(x, torch.zeros_like(bias), activation="leaky_relu"))


@pytest.mark.parametrize("activation", ["linear", "leaky_relu"])
@pytest.mark.parametrize("clamp", [None, 0.8])
def test_gradients_match_finite_differences(activation: Activation, clamp: float | None):
    x, bias = (tensor.requires_grad_() for tensor in tensors(2, 3, 2, 2))

    def run(x: Tensor, bias: Tensor) -> Tensor:
        return bias_act(x, bias, activation=activation, clamp=clamp)

    assert torch.autograd.gradcheck(run, (x, bias))
    assert torch.autograd.gradgradcheck(lambda *inputs: run(*inputs).square(), (x, bias))


def test_leaky_relu_keeps_the_second_moment_roughly():
    x = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    second_moment = float(bias_act(x, activation="leaky_relu").square().mean())
    assert second_moment == pytest.approx(1.04, abs=0.02)  # (1 + slope^2) / 2 * gain^2


def test_the_dtype_of_the_input_is_kept():
    x, bias = tensors(2, 3, 4, 4)
    assert bias_act(x.bfloat16(), bias.float(), activation="leaky_relu").dtype == torch.bfloat16


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_biass_gradient_in_bfloat16_is_rounded_once_a_sample(layout: torch.memory_format):
    x = normal(4, 6, 24, 24).bfloat16().contiguous(memory_format=layout).requires_grad_()
    bias = torch.zeros(6, requires_grad=True)
    weight = (normal(4, 6, 24, 24, seed=1) + 0.1).bfloat16()
    dx, db = torch.autograd.grad(bias_act(x, bias, activation="leaky_relu"), (x, bias), weight)
    of_samples = dx.double().sum(dim=(2, 3))  # [N, C]
    assert db.dtype == torch.float32
    rounding = 2.0**-8 * of_samples.abs().sum(dim=0)
    assert ((db - of_samples.sum(dim=0)).abs() <= rounding).all()


@pytest.mark.parametrize("length", [0, 1, 2, 4])
def test_a_bias_that_does_not_fit_is_refused(length: int):
    with pytest.raises(ValueError, match="does not fit"):
        bias_act(torch.zeros(2, 3, 4, 4), torch.zeros(length))
