"""The presets: sound as they stand, and what follows from a batch and a resolution."""

import dataclasses

import pytest

from lafite_shifted.errors import InputError
from training.config import choose
from training.gan.config import GanTrainConfig
from training.gan.presets import GAN_PRESETS, default_features
from training.gan.run import gan_config
from training.prior.presets import PRIOR_PRESETS
from training.prior.run import prior_config


@pytest.mark.parametrize(
    ("preset", "gamma"),
    [
        ("tiny", 1.0),  # set by hand
        ("small", 1.0),
        ("256", 0.0002 * 256**2 / 64),
        ("512", 0.0002 * 512**2 / 64),
        ("1024", 0.0002 * 1024**2 / 32),
    ],
)
def test_r1_weight_of_presets(preset: str, gamma: float):
    assert GAN_PRESETS[preset].gamma == pytest.approx(gamma)


def test_r1_weight_follows_resolution_and_batch():
    """0.0002 R^2 / batch (arXiv:2006.06676), unless it is set."""
    config = GAN_PRESETS["256"]
    assert config.gamma == pytest.approx(0.2048)
    assert dataclasses.replace(config, batch=16).gamma == pytest.approx(4 * 0.2048)
    assert dataclasses.replace(config, r1_gamma=7.0).gamma == 7.0
    assert dataclasses.replace(config, r1_gamma=0.0).gamma == 0.0


def test_the_half_life_follows_the_batch():
    config = GAN_PRESETS["256"]
    assert config.half_life_kimg == pytest.approx(20)
    assert dataclasses.replace(config, batch=32).half_life_kimg == pytest.approx(10)
    assert dataclasses.replace(config, ema_half_life_kimg=3.0).half_life_kimg == 3.0


def test_a_length_never_stretches_the_intervals():
    """However long a run is, it saves and logs as often as the preset; a short one more often."""
    usual = GAN_PRESETS["256"].run
    for kimg, log, evaluate, checkpoint in (
        (100_000.0, usual.log_kimg, usual.evaluate_kimg, usual.checkpoint_kimg),
        (10.0, 0.5, 2.0, 1.0),
    ):
        run = gan_config(GAN_PRESETS["256"], kimg=kimg).run
        found = (run.kimg, run.log_kimg, run.evaluate_kimg, run.checkpoint_kimg)
        assert found == pytest.approx((kimg, log, evaluate, checkpoint))
    prior = prior_config(PRIOR_PRESETS["base"], kimg=1e6).run
    assert prior == dataclasses.replace(PRIOR_PRESETS["base"].run, kimg=1e6)


@pytest.mark.parametrize("config", GAN_PRESETS.values(), ids=GAN_PRESETS)
def test_gan_presets_fit_together(config: GanTrainConfig):
    generator, discriminator = config.generator, config.discriminator
    assert generator.resolution == discriminator.resolution
    assert generator.condition_dim == discriminator.condition_dim
    assert config.batch % discriminator.group == 0  # whole groups for the minibatch statistic
    assert config.run.checkpoint_kimg <= config.run.kimg
    for resolution in (4, 32, generator.resolution):
        for network in (generator, discriminator):
            expected = min(network.channel_base // resolution, network.channel_max)
            assert network.channels(resolution) == expected


@pytest.mark.parametrize(
    ("preset", "clip", "expected"),
    [
        ("small", "starter", "clip"),
        ("small", "ViT-B-32/laion2b_s34b_b79k", None),
        ("tiny", "starter", None),
        ("256", "starter", None),
    ],
)
def test_features_are_on_where_they_were_measured(preset: str, clip: str, expected: str | None):
    assert default_features(preset, clip) == expected
    assert not GAN_PRESETS[preset].features.is_on  # who takes the preset as it is says so


def test_presets_are_named_after_their_resolution():
    assert {name: config.generator.resolution for name, config in GAN_PRESETS.items()} == {
        "tiny": 32,
        "small": 64,
        "256": 256,
        "512": 512,
        "1024": 1024,
    }


def test_prior_presets_differ_in_size_and_length_alone():
    """The base preset is the default; the process is the paper's everywhere."""
    tiny, base = PRIOR_PRESETS["tiny"], PRIOR_PRESETS["base"]
    assert (base.prior.width, base.prior.depth, base.prior.heads) == (512, 8, 8)
    assert tiny.prior.width < base.prior.width
    for config in (tiny, base):
        schedule = config.prior.schedule
        assert (schedule.name, schedule.num_steps) == ("linear", 1000)
        assert (schedule.beta_first, schedule.beta_last) == (1e-4, 0.02)
        assert (config.prior.process, config.prior.covariance) == ("shifted", "full")
        assert (config.beta1, config.beta2, config.weight_decay) == (0.9, 0.96, 0.06)
        assert config.evaluation_steps == 8


@pytest.mark.parametrize("presets", [GAN_PRESETS, PRIOR_PRESETS], ids=["gan", "prior"])
def test_choosing_a_preset(presets: dict):
    for name, config in presets.items():
        assert choose(presets, name) is config
    with pytest.raises(InputError, match="--preset huge: not known"):
        choose(presets, "huge")


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"r1_every": 0},
        {"learning_rate": -1.0},
        {"contrast_temperature": 0.0},
        {"pseudo_text_cosine": 1.1},
        {"condition_dropout": 1.0},
        {"discriminator": GAN_PRESETS["256"].discriminator},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_impossible_settings_are_refused(changes: dict):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(GAN_PRESETS["tiny"], **changes)
