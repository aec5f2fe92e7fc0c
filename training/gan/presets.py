"""Sizes that are known to work, as constants: what `--preset` chooses from."""

import dataclasses

from lafite_shifted.decoder.discriminator import DiscriminatorConfig
from lafite_shifted.decoder.generator import GeneratorConfig
from training.config import RunConfig
from training.gan.config import GanTrainConfig


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
    **changes: float,
) -> GanTrainConfig:
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
    discriminator = DiscriminatorConfig(
        resolution=resolution, channel_base=channel_base, channel_max=channel_max
    )
    config = GanTrainConfig(
        generator=generator, discriminator=discriminator, batch=batch, run=RunConfig(kimg=kimg)
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

GAN_PRESETS: dict[str, GanTrainConfig] = {
    "tiny": _gan(32, 1024, 96, latent=96, mapping_layers=2, kimg=100, **_SHORT_RUNS),
    "small": _gan(64, 2048, 128, latent=128, mapping_layers=2, kimg=300, **_SHORT_RUNS),
    "256": _gan(256, 16384, 512, latent=512, mapping_layers=8, batch=64, kimg=25000),
    "512": _gan(512, 16384, 512, latent=512, mapping_layers=8, batch=64, kimg=25000),
    "1024": _gan(1024, 32768, 512, latent=512, mapping_layers=8, batch=32, kimg=25000),
}
