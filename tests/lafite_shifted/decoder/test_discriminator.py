"""The discriminator: shapes, sizes, gradients, groups, and that it can tell images from noise.

Shape letters: N batch, D embedding, C H W image.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    ResidualBlock,
    conditional_logit,
    minibatch_standard_deviation,
)
from tests.real_images import eight_images
from tests.references import parameter_counts
from training.gan.presets import GAN_PRESETS

TINY = DiscriminatorConfig(resolution=16, condition_dim=6, channel_base=128, channel_max=16)

PARAMETERS = {
    "tiny": 560_065,
    "small": 912_017,
    "256": 24_132_417,
    "512": 24_162_081,
    "1024": 29_143_841,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(*, group: int) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(dataclasses.replace(TINY, group=group))


# --- shapes and sizes


@pytest.mark.parametrize("preset", PARAMETERS)
def test_presets_have_their_shape_and_parameter_count(preset: str):
    config = GAN_PRESETS[preset].discriminator
    with torch.device("meta"):
        discriminator = Discriminator(config)
        images = torch.empty(4, 3, config.resolution, config.resolution)
        realness, feature = discriminator(images)
    assert realness.shape == (4,)
    assert feature.shape == (4, config.condition_dim)
    count = sum(parameter.numel() for parameter in discriminator.parameters())
    assert count == PARAMETERS[preset] == parameter_counts.discriminator(config)


@pytest.mark.parametrize("resolution", [8, 16, 64])
@pytest.mark.parametrize("num", [1, 3, 8])
def test_every_resolution_and_batch_size_works(resolution: int, num: int):
    config = dataclasses.replace(TINY, resolution=resolution, channel_base=256)
    realness, feature = Discriminator(config)(normal(num, 3, resolution, resolution))
    assert realness.shape == (num,)
    assert feature.shape == (num, 6)
    assert realness.dtype == feature.dtype == torch.float32


@pytest.mark.parametrize("changes", [{"channel_base": 8}, {"group": 0}, {"channel_max": 0}])
def test_empty_networks_are_refused(changes: dict[str, int]):
    with pytest.raises(ValueError, match="at least 1"):
        dataclasses.replace(TINY, **changes)


def test_bfloat16_is_close_to_float32():
    discriminator = tiny(group=4)
    with torch.no_grad():
        exact = discriminator(normal(4, 3, 16, 16))
        discriminator.compute_dtype = torch.bfloat16
        rounded = discriminator(normal(4, 3, 16, 16))
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0.05, atol=0.05)


# --- what depends on what


@pytest.mark.parametrize("group", [1, 4])
def test_every_parameter_gets_a_gradient(group: int):
    discriminator = tiny(group=group)
    realness, feature = discriminator(normal(4, 3, 16, 16))
    conditional_logit(realness, feature, normal(4, 6, seed=1)).square().sum().backward()
    silent = [n for n, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("group", [1, 2, 4])
def test_samples_depend_on_their_group_of_consecutive_ones_alone(group: int):
    images = normal(8, 3, 16, 16).requires_grad_()
    realness, feature = tiny(group=group)(images)
    picked = realness[5] + feature[5].sum()
    (gradient,) = torch.autograd.grad(picked, images)
    first = 5 - 5 % group
    touched = gradient.flatten(1).abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == list(range(first, first + group))


def test_a_batch_gives_what_its_groups_give_alone():
    discriminator, images = tiny(group=4), normal(8, 3, 16, 16)
    with torch.no_grad():
        together = discriminator(images)
        for i in (0, 4):
            for whole, part in zip(together, discriminator(images[i : i + 4]), strict=True):
                torch.testing.assert_close(whole[i : i + 4], part, rtol=1e-4, atol=1e-5)


def test_a_block_adds_both_branches_at_half_their_power():
    torch.manual_seed(0)
    block, x = ResidualBlock(8, 12), normal(2, 8, 16, 16)
    with torch.no_grad():
        found = block(x)
        expected = (block.second(block.first(x)) + block.skip(x)) / math.sqrt(2)
    assert found.shape == (2, 12, 8, 8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# --- minibatch standard deviation


@pytest.mark.parametrize(("num", "group", "size"), [(8, 4, 4), (6, 4, 2), (3, 4, 1), (4, 2, 2)])
def test_minibatch_standard_deviation_matches_numpy(num: int, group: int, size: int):
    x = normal(num, 3, 4, 5)
    found = minibatch_standard_deviation(x, group=group)
    assert found.shape == (num, 4, 4, 5)
    assert found[:, :3].equal(x)
    for first in range(0, num, size):
        members = x[first : first + size].numpy().astype(np.float64)
        expected = np.sqrt(members.var(axis=0) + 1e-8).mean()
        extra = found[first : first + size, 3]
        torch.testing.assert_close(extra, torch.full_like(extra, expected), rtol=1e-5, atol=1e-6)


def test_identical_samples_have_no_spread_and_finite_gradients():
    x = normal(1, 3, 4, 4).repeat(4, 1, 1, 1).requires_grad_()
    found = minibatch_standard_deviation(x, group=4)
    torch.testing.assert_close(found[:, 3], torch.full((4, 4, 4), 1e-4), rtol=1e-3, atol=0)
    found.square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("num", [8, 6, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_kinds_that_are_judged_at_once_are_judged_as_each_alone(num: int, checkpointing: bool):
    torch.manual_seed(0)
    network = Discriminator(TINY)
    network.activation_checkpointing = checkpointing
    real, fake = normal(num, 3, 16, 16), normal(num, 3, 16, 16, seed=1) * 0.1
    with torch.no_grad():
        alone = [network(images) for images in (real, fake)]
        both = network(torch.cat([real, fake]), kinds=2)
    for found, of_each in zip(both, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(of_each), rtol=1e-5, atol=1e-5)


# --- the conditional logit


def test_conditional_logit_matches_its_formula_sample_by_sample():
    realness, feature, condition = normal(5), normal(5, 6, seed=1), normal(5, 6, seed=2)
    found = conditional_logit(realness, feature, condition)
    for i in range(5):
        product = sum(float(feature[i, j] * condition[i, j]) for j in range(6))
        assert float(found[i]) == pytest.approx(
            float(realness[i]) + product / math.sqrt(6), rel=1e-5
        )


def test_without_a_condition_the_logit_is_the_realness():
    realness, feature = normal(5), normal(5, 6, seed=1)
    assert conditional_logit(realness, feature, torch.zeros(5, 6)).equal(realness)


# --- learning


def test_it_separates_eight_real_images_from_noise():
    """Also from noise that it never saw."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(
        resolution=32, condition_dim=16, channel_base=512, channel_max=32, group=1
    )
    discriminator = Discriminator(config)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.002, betas=(0.0, 0.99))
    real = eight_images(32)

    def noise(seed: int) -> Tensor:
        """The same brightness and contrast as the images."""
        return normal(8, 3, 32, 32, seed=seed) * real.std() + real.mean()

    for step in range(30):
        real_logit, fake_logit = discriminator(real)[0], discriminator(noise(step))[0]
        loss = (F.softplus(-real_logit) + F.softplus(fake_logit)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(discriminator(real)[0].min()) > 1
        assert float(discriminator(noise(1000))[0].max()) < -1
