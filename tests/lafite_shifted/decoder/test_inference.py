"""The frozen generator against the one that is trained."""

from dataclasses import replace

import pytest
import torch

from lafite_shifted.decoder.generator import Generator, GeneratorConfig
from lafite_shifted.decoder.inference import freeze_for_inference

CONFIG = GeneratorConfig(
    resolution=32,
    condition_dim=12,
    channel_base=256,
    channel_max=24,
    z_dim=16,
    w_dim=16,
    mapping_layers=2,
)


def generator(**changes: object) -> Generator:
    """With noise and biases that matter, and an average w."""
    torch.manual_seed(0)
    made = Generator(replace(CONFIG, **changes))
    with torch.no_grad():
        for layer in made.layers:
            layer.noise_strength.fill_(0.3)
            layer.bias.normal_()
        if made.start is not None:
            made.start.weight.normal_()
        made.mapping.w_average.normal_()
    return made


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("truncation", [1.0, 0.5])
@pytest.mark.parametrize("conditional_start", [False, True])
@torch.no_grad()
def test_images_are_those_of_the_generator(noise: bool, truncation: float, conditional_start: bool):
    trained = generator(conditional_start=conditional_start)
    z, condition = torch.randn(3, 16), torch.randn(3, 12)
    given = torch.randn(3, trained.num_noise) if noise else None
    expected = trained(z, condition, noise=given, truncation=truncation)
    frozen = freeze_for_inference(trained)
    found = frozen(z, condition, noise=given, truncation=truncation)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    alone = frozen(z[1:2], condition[1:2], noise=None if given is None else given[1:2])
    whole = frozen(z, condition, noise=given)
    torch.testing.assert_close(alone[0], whole[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_activations_have_the_dtype_that_was_chosen():
    trained = generator()
    z, condition = torch.randn(3, 16), torch.randn(3, 12)
    exact = freeze_for_inference(trained)(z, condition)
    rounded = freeze_for_inference(trained, dtype=torch.bfloat16)(z, condition)
    assert rounded.dtype == torch.float32
    assert not rounded.equal(exact)
    trained.compute_dtype = torch.bfloat16
    expected = trained(z, condition)
    apart = (rounded - exact).square().mean()
    assert apart < 2 * (expected - exact).square().mean() + 1e-6


def test_freezing_is_explicit():
    """Weights that change afterwards are seen by a generator that is frozen anew."""
    trained = generator()
    frozen = freeze_for_inference(trained)
    assert not any(p.requires_grad for p in trained.parameters())
    z, condition = torch.randn(2, 16), torch.randn(2, 12)
    with torch.no_grad():
        before = frozen(z, condition)
        for layer in trained.layers:
            layer.conv.weight.normal_()
        after = freeze_for_inference(trained)(z, condition)
        expected = trained(z, condition)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_what_edits_optimise():
    """w and the condition, through the frozen weights: the same as of the generator."""
    trained = generator()
    frozen = freeze_for_inference(trained)
    w, condition = torch.randn(2, 16), torch.randn(2, 12)
    found = []
    for network in (trained, frozen):
        inputs = w.clone().requires_grad_(), condition.clone().requires_grad_()
        image = network.synthesise(*inputs)
        found.append(torch.autograd.grad(image.square().sum(), inputs))
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
