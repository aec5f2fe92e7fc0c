"""Layers: the modulated convolution against per-sample weights, filters, and unit variance."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.layers import (
    EqualConv2d,
    EqualLinear,
    EqualLinears,
    ModulatedConv2d,
    ModulatedToRgb,
)
from tests.references import convolutions


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def modulated(*, up: bool) -> ModulatedConv2d:
    torch.manual_seed(1)
    return ModulatedConv2d(5, 4, style_dim=6, up=up).double()


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [False, True])
def test_modulated_convolution_matches_one_weight_per_sample(up: bool, demodulate: bool):
    conv = modulated(up=up)
    x, style = normal(3, 5, 6, 8).double(), normal(3, 6, seed=1).double()
    with torch.no_grad():
        scale = conv.to_scale(style)
        found, demodulation = conv(x, style)
    if demodulate:
        found = found * demodulation[:, :, None, None]
    expected = convolutions.modulated_convolution(
        x.numpy(),
        conv.weight.detach().numpy() / math.sqrt(5 * 3**2),
        scale.numpy(),
        up=up,
        demodulate=demodulate,
    )
    assert expected.shape == ((3, 4, 12, 16) if up else (3, 4, 6, 8))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_to_rgb_matches_one_weight_per_sample():
    torch.manual_seed(1)
    layer = ModulatedToRgb(5, style_dim=6).double()
    torch.nn.init.normal_(layer.bias)
    x, style = normal(3, 5, 6, 8).double(), normal(3, 6, seed=1).double()
    with torch.no_grad():
        found = layer(x, style)
        expected = convolutions.modulated_convolution(
            x.numpy(),
            layer.weight.numpy() / math.sqrt(5),
            layer.to_scale(style).numpy(),
            up=False,
            demodulate=False,
        )
    np.testing.assert_allclose(
        found, expected + layer.bias.detach().numpy()[:, None, None], atol=1e-6
    )


def test_the_scale_is_an_affine_map_of_the_style_around_one():
    conv = modulated(up=False)
    style = normal(3, 6).double()
    expected = style @ conv.to_scale.weight.T / math.sqrt(6) + 1
    torch.testing.assert_close(conv.to_scale(style), expected)


def test_demodulation_undoes_the_size_of_the_style():
    """A style twice as large changes nothing (arXiv:1912.04958, section 2.2)."""
    conv = modulated(up=False)
    torch.nn.init.zeros_(conv.to_scale.bias)  # the scale is then proportional to the style
    x, style = normal(2, 5, 6, 6).double(), normal(2, 6, seed=1).double()
    with torch.no_grad():
        one, other = (
            y * demodulation[:, :, None, None]
            for y, demodulation in (conv(x, style), conv(x, 2 * style))
        )
    torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-6)


def test_linears_side_by_side_match_one_after_the_other():
    torch.manual_seed(0)
    together = EqualLinears(3, 7, 4, learning_rate_multiplier=0.1)
    torch.nn.init.normal_(together.bias)
    x = normal(3, 5, 7)
    found = together(x)
    for number in range(3):
        alone = EqualLinear(7, 4, activation="leaky_relu", learning_rate_multiplier=0.1)
        alone.load_state_dict({k: v[number] for k, v in together.state_dict().items()})
        torch.testing.assert_close(found[number], alone(x[number]))


def test_equal_linear_matches_its_formula():
    torch.manual_seed(0)
    layer = EqualLinear(7, 3, activation="leaky_relu", bias_init=0.5, learning_rate_multiplier=0.1)
    x = normal(4, 7)
    assert float(layer.bias.detach()[0]) == pytest.approx(5.0)
    expected = x @ (layer.weight * 0.1 / math.sqrt(7)).T + layer.bias * 0.1
    expected = F.leaky_relu(expected, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_the_multiplier_slows_learning_and_nothing_else(multiplier: float):
    """An Adam step of size lr moves the effective weight by lr times multiplier."""
    torch.manual_seed(0)
    layer = EqualLinear(400, 400, learning_rate_multiplier=multiplier)
    effective = (layer.weight * layer.weight_gain).detach()
    assert float(effective.std()) == pytest.approx(1 / 20, rel=0.02)
    moved = ((layer.weight + 1) * layer.weight_gain).detach() - effective
    torch.testing.assert_close(moved, torch.full_like(moved, multiplier / 20), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("down", [False, True])
def test_equal_convolution_matches_its_steps(kernel: int, down: bool):
    """Low-pass filter, every second sample, convolution: by scipy, channel by channel."""
    torch.manual_seed(0)
    layer = EqualConv2d(3, 4, kernel=kernel, down=down).double()
    torch.nn.init.normal_(layer.bias)
    x = normal(2, 3, 8, 6).double()
    weight = layer.weight.detach().numpy() / math.sqrt(3 * kernel**2)
    expected = np.zeros((2, 4, 4, 3) if down else (2, 4, 8, 6))
    for n, o, i in np.ndindex(2, 4, 3):
        plane = x[n, i].numpy()
        if down and kernel == 1:
            plane = scipy.signal.convolve2d(np.pad(plane, 1), convolutions.FILTER, mode="valid")
            expected[n, o] += plane[::2, ::2] * weight[o, i, 0, 0]
        elif down:
            plane = scipy.signal.convolve2d(np.pad(plane, 2), convolutions.FILTER, mode="valid")
            filtered = scipy.signal.correlate2d(plane, weight[o, i], mode="valid")
            expected[n, o] += filtered[::2, ::2]
        else:
            expected[n, o] += scipy.signal.correlate2d(plane, weight[o, i], mode="same")
    expected += layer.bias.detach().numpy()[:, None, None]
    expected = np.where(expected > 0, expected, 0.2 * expected) * math.sqrt(2)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(layer(x, gain=0.5), expected / 2, rtol=0, atol=1e-12)


def inner_variance(y: Tensor) -> float:
    """Away from the border, where zeros outside take part."""
    return float(y[:, :, 4:-4, 4:-4].square().mean())


@pytest.mark.parametrize(("up", "expected"), [(False, 1.0), (True, (15 / 8) ** 2 / 9)])
def test_demodulated_convolution_keeps_the_variance_of_white_noise(up: bool, expected: float):
    """Upsampling removes what is above the old Nyquist frequency: by the taps, 15/8 of 3 an axis
    remain.
    """
    torch.manual_seed(0)
    conv = ModulatedConv2d(64, 64, style_dim=32, up=up)
    with torch.no_grad():
        y, demodulation = conv(normal(4, 64, 24, 24), normal(4, 32, seed=1))
    assert inner_variance(y * demodulation[:, :, None, None]) == pytest.approx(expected, rel=0.1)


def test_layers_have_unit_variance_at_the_start():
    torch.manual_seed(0)
    x = normal(4, 64, 24, 24)
    with torch.no_grad():
        assert inner_variance(EqualConv2d(64, 64, kernel=3)(x)) == pytest.approx(1.04, rel=0.1)
        assert float(EqualLinear(512, 512)(normal(64, 512)).square().mean()) == pytest.approx(
            1.0, rel=0.05
        )


def test_bfloat16_activations_stay_bfloat16():
    torch.manual_seed(0)
    conv = ModulatedConv2d(5, 4, style_dim=6, up=True)
    x, style = normal(2, 5, 6, 6), normal(2, 6, seed=1)
    with torch.no_grad():
        exact, _ = conv(x, style)
        rounded, demodulation = conv(x.bfloat16(), style)
    assert demodulation.dtype == torch.float32
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
    assert EqualConv2d(5, 4, kernel=3, down=True)(x.bfloat16()).dtype == torch.bfloat16
