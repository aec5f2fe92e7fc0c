"""Sizes that are known to work, as constants: what `--preset` chooses from."""

import dataclasses

from lafite_shifted.decoder.discriminator import DiscriminatorConfig
from lafite_shifted.decoder.generator import GeneratorConfig
from lafite_shifted.io.starter import STARTER
from training.config import RunConfig
from training.gan.config import GanTrainConfig
from training.gan.features.config import CLIP_TOWER, FeatureConfig


def _gan(
    resolution: int,
    channel_base: int,
    channel_max: int,
    *,
    latent: int,
    mapping_layers: int,
    batch: int,
    kimg: float,
    slow_layers: float = 0.01,
    noise: bool = True,
    discriminator: tuple[int, int] | None = None,
    **changes: float | FeatureConfig,
) -> GanTrainConfig:
    """`discriminator` has its channel_base and channel_max where they differ from G's."""
    generator = GeneratorConfig(
        resolution=resolution,
        channel_base=channel_base,
        channel_max=channel_max,
        z_dim=latent,
        w_dim=latent,
        mapping_layers=mapping_layers,
        mapping_lr_multiplier=slow_layers,
        condition_lr_multiplier=slow_layers,
        noise=noise,
    )
    of_d, max_of_d = discriminator or (channel_base, channel_max)
    config = GanTrainConfig(
        generator=generator,
        discriminator=DiscriminatorConfig(
            resolution=resolution, channel_base=of_d, channel_max=max_of_d
        ),
        batch=batch,
        run=RunConfig(kimg=kimg),
    )
    return dataclasses.replace(config, **changes)


# For laptops: thousands of steps, not hundreds of thousands, on hundreds or thousands of drawings.
# So small batches, no slowed layers (in 16 kimg the papers' multiplier .01 reached a cosine of
# CLIP(G(h)) to h of .24, 1 reached .37), more R1, and no noise in every pixel, which speckles flat
# drawings. What that gives: docs/gan.md.
_SHORT_RUNS = {
    "batch": 16,
    "r1_gamma": 1.0,
    "r1_every": 8,
    "slow_layers": 1.0,
    "noise": False,
    "pseudo_text_cosine": 0.95,  # nearer than 0.9: a prior gives image embeddings
}

# Beside heads on features a discriminator of pixels of half the width does, and takes a quarter.
_SMALL = {"discriminator": (1024, 128), "features": FeatureConfig(weight=0.3, matching_weight=10.0)}

GAN_PRESETS: dict[str, GanTrainConfig] = {
    "tiny": _gan(32, 1024, 96, latent=96, mapping_layers=2, kimg=100, **_SHORT_RUNS),
    "small": _gan(64, 2048, 128, latent=128, mapping_layers=2, kimg=300, **_SHORT_RUNS, **_SMALL),
    "256": _gan(256, 16384, 512, latent=512, mapping_layers=8, batch=64, kimg=25000),
    "512": _gan(512, 16384, 512, latent=512, mapping_layers=8, batch=64, kimg=25000),
    "1024": _gan(1024, 32768, 512, latent=512, mapping_layers=8, batch=32, kimg=25000),
}


def default_features(preset: str, clip: str) -> str | None:
    """The network that a discriminator on features looks at where none is named: measured for
    drawings of 64 pixels under the shipped CLIP, whose tower is small; else none.
    """
    return CLIP_TOWER if preset == "small" and clip == STARTER else None
