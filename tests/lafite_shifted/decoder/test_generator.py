"""The generator: shapes, sizes, gradients, noise, truncation, and that it can learn images.

Shape letters: N batch, Z latent, D embedding, C H W image.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from lafite_shifted.decoder.generator import Generator, GeneratorConfig, to_uint8
from tests.real_images import eight_images
from tests.references import parameter_counts
from training.gan.presets import GAN_PRESETS

TINY = GeneratorConfig(
    resolution=16,
    condition_dim=6,
    channel_base=128,
    channel_max=16,
    z_dim=10,
    w_dim=12,
    mapping_layers=2,
)

PARAMETERS = {
    "tiny": 1_235_203,
    "small": 2_311_416,
    "256": 34_484_706,
    "512": 35_531_143,
    "1024": 42_714_124,
}


@pytest.fixture
def generator() -> Generator:
    """Untrained, with noise switched on and an average w that is not zero."""
    torch.manual_seed(0)
    made = Generator(TINY)
    with torch.no_grad():
        for layer in made.layers:
            layer.noise_strength.fill_(0.3)
        made.mapping.w_average.normal_()
    return made


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents(num: int = 4) -> tuple[Tensor, Tensor]:
    return normal(num, 10), normal(num, 6, seed=1)


# --- shapes and sizes


def test_a_conditional_start_begins_as_the_constant_and_learns_a_map_for_each_sample(
    generator: Generator,
):
    started = Generator(dataclasses.replace(TINY, conditional_start=True))
    missing, unexpected = started.load_state_dict(generator.state_dict(), strict=False)
    assert (missing, unexpected) == (["start.weight", "start.bias"], [])
    z, condition = latents()
    torch.testing.assert_close(started(z, condition), generator(z, condition), rtol=0, atol=0)
    started(z, condition).square().mean().backward()
    assert started.start is not None
    assert float(started.start.weight.grad.abs().min()) > 0  # type: ignore[union-attr]
    style = normal(4, 24)
    assert started.first_map(style).equal(started.constant.expand(4, -1, -1, -1))
    with torch.no_grad():
        started.start.weight.normal_()
        maps = (style @ started.start.weight.T / 24**0.5).view(4, 16, 4, 4)
        torch.testing.assert_close(started.first_map(style), started.constant + maps)
        assert float((maps[0] - maps[1]).abs().max()) > 0.1


@pytest.mark.parametrize("preset", PARAMETERS)
def test_presets_have_their_shape_and_parameter_count(preset: str):
    config = GAN_PRESETS[preset].generator
    with torch.device("meta"):
        generator = Generator(config)
        images = generator(torch.empty(2, config.z_dim), torch.empty(2, config.condition_dim))
    assert images.shape == (2, 3, config.resolution, config.resolution)
    count = sum(parameter.numel() for parameter in generator.parameters())
    assert count == PARAMETERS[preset] == parameter_counts.generator(config)


@pytest.mark.parametrize("resolution", [8, 16, 64])
def test_every_resolution_gives_float32_images(resolution: int):
    generator = Generator(dataclasses.replace(TINY, resolution=resolution, channel_base=256))
    with torch.no_grad():
        images = generator(*latents(3))
    assert images.shape == (3, 3, resolution, resolution)
    assert images.dtype == torch.float32
    assert generator.num_noise == sum(
        (1 if size == 4 else 2) * size**2 for size in (4, 8, 16, 32, 64) if size <= resolution
    )


@pytest.mark.parametrize("resolution", [0, 4, 24, 8192])
def test_other_resolutions_are_refused(resolution: int):
    with pytest.raises(ValueError, match="power of two"):
        GeneratorConfig(resolution=resolution)


@pytest.mark.parametrize("changes", [{"channel_base": 8}, {"z_dim": 0}, {"channel_max": 0}])
def test_empty_networks_are_refused(changes: dict[str, int]):
    with pytest.raises(ValueError, match="at least 1"):
        dataclasses.replace(TINY, **changes)


def test_bfloat16_is_close_to_float32(generator: Generator):
    with torch.no_grad():
        exact = generator(*latents())
        generator.compute_dtype = torch.bfloat16
        rounded = generator(*latents())
    assert rounded.dtype == torch.float32
    error = (rounded - exact).square().mean() / exact.square().mean()
    assert 0 < float(error) < 1e-3


# --- what depends on what


def test_every_parameter_gets_a_gradient(generator: Generator):
    generator(*latents()).square().sum().backward()
    silent = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_noise_is_off_at_first_but_its_strength_learns():
    torch.manual_seed(0)
    generator = Generator(TINY)
    with torch.no_grad():
        noise = normal(4, generator.num_noise)
        assert generator(*latents(), noise=noise).equal(generator(*latents()))
    generator(*latents()).square().sum().backward()
    assert all(bool(layer.noise_strength.grad) for layer in generator.layers)


def test_no_sample_depends_on_another_in_its_batch(generator: Generator):
    z, condition = (tensor.requires_grad_() for tensor in latents())
    noise = normal(4, generator.num_noise, seed=2).requires_grad_()
    picked = generator(z, condition, noise=noise)[2].square().sum()
    for gradient in torch.autograd.grad(picked, [z, condition, noise]):
        rows = gradient.abs().sum(dim=1)
        assert rows[2] > 0
        assert rows[[0, 1, 3]].count_nonzero() == 0


def test_a_batch_gives_what_its_samples_give_alone(generator: Generator):
    z, condition = latents()
    with torch.no_grad():
        together = generator(z, condition)
        for i in range(4):
            alone = generator(z[i : i + 1], condition[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_latent_and_condition_both_change_the_image(generator: Generator):
    z, condition = latents()
    with torch.no_grad():
        reference = generator(z, condition)
        for changed in (generator(z.roll(1, 0), condition), generator(z, condition.roll(1, 0))):
            assert ((changed - reference).flatten(1).norm(dim=1) > 1e-3).all()


def test_the_latent_is_normalised_before_it_is_mapped(generator: Generator):
    z, condition = latents()
    with torch.no_grad():
        found = generator(7 * z, condition)
        torch.testing.assert_close(found, generator(z, condition), rtol=1e-4, atol=1e-5)


# --- noise


def test_the_buffers_are_the_noise_of_none(generator: Generator):
    buffers = torch.cat([layer.noise_buffer.flatten() for layer in generator.layers])
    assert len(buffers) == generator.num_noise
    with torch.no_grad():
        fixed = generator(*latents())
        assert generator(*latents(), noise=buffers.expand(4, -1)).equal(fixed)
        assert generator(*latents()).equal(fixed)


def test_every_number_of_noise_changes_the_image(generator: Generator):
    noise = normal(1, generator.num_noise).requires_grad_()
    generator(*latents(1), noise=noise).square().sum().backward()
    assert bool((noise.grad != 0).all())


def test_noise_of_the_wrong_length_is_refused(generator: Generator):
    with pytest.raises(RuntimeError, match="split"):
        generator(*latents(), noise=normal(4, generator.num_noise + 1))


# --- the average w


def test_truncation_pulls_w_towards_its_average(generator: Generator):
    z, condition = latents()
    with torch.no_grad():
        w, average = generator.mapping(z), generator.mapping.w_average
        for truncation in (0.0, 0.3, 0.7, 1.5):
            found = generator(z, condition, truncation=truncation)
            expected = generator.synthesise(average + truncation * (w - average), condition)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert generator(z, condition, truncation=1.0).equal(generator.synthesise(w, condition))


def test_full_truncation_forgets_the_latent(generator: Generator):
    z, condition = latents()
    with torch.no_grad():
        first = generator(z, condition, truncation=0.0)
        assert generator(z.roll(1, 0), condition, truncation=0.0).equal(first)
        assert ((first[0] - first[1]).abs() > 1e-3).any()  # the condition is left


def test_the_average_follows_the_mean_of_w(generator: Generator):
    mapping = generator.mapping
    before, w = mapping.w_average.clone(), normal(4, 12)
    mapping.track(w.mean(dim=0), decay=0.9)
    torch.testing.assert_close(mapping.w_average, 0.9 * before + 0.1 * w.mean(dim=0))
    for _ in range(2000):
        mapping.track(w.mean(dim=0))
    torch.testing.assert_close(mapping.w_average, w.mean(dim=0), rtol=1e-3, atol=1e-4)
    assert not mapping.w_average.requires_grad
    with pytest.raises(AssertionError):
        mapping.track(w)  # a batch of them, or their mean over V too, would be averaged away


def test_the_average_is_stored_with_the_weights(generator: Generator):
    copy = Generator(TINY)
    copy.load_state_dict(generator.state_dict())
    with torch.no_grad():
        assert copy(*latents(), truncation=0.5).equal(generator(*latents(), truncation=0.5))


# --- images


def test_bytes_match_the_formula_written_out():
    values = [-3.0, -1.0, -0.5, 0.0, 0.0039, 0.9961, 1.0, 3.0]
    images = torch.tensor(values).view(1, 1, 2, 4).expand(1, 3, 2, 4)
    found = to_uint8(images)
    expected = [min(max(round((v + 1) * 127.5), 0), 255) for v in values]
    assert found.shape == (1, 2, 4, 3)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found[0, :, :, 1].flatten(), expected)


def test_every_byte_survives_a_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert to_uint8(levels.permute(0, 3, 1, 2).float() / 127.5 - 1).equal(levels)


def test_it_learns_eight_real_images_by_heart():
    """Plain regression from fixed latents: 25 dB that the architecture can hold images."""
    torch.manual_seed(0)
    real, num_steps = eight_images(32), 320
    config = GeneratorConfig(
        resolution=32,
        condition_dim=16,
        channel_base=1024,
        channel_max=64,
        z_dim=64,
        w_dim=64,
        mapping_layers=2,
    )
    generator = Generator(config)
    z, condition = normal(8, 64), torch.zeros(8, 16)
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.05, betas=(0.9, 0.99))
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = 0.05 * min(1, (step + 1) / 20, 2 - 2 * step / num_steps)
        loss = (generator(z, condition) - real).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decibels = 10 * torch.log10(4 / loss.detach())  # of a range from -1 to 1
    assert float(decibels) > 25
