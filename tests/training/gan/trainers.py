"""A small GAN's trainer on made-up data, and the gradients of its steps."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.discriminator import (
    DiscriminatorConfig,
)
from lafite_shifted.decoder.generator import GeneratorConfig
from lafite_shifted.encoders.clip import ClipEncoder
from training.data.image_cache import ImageLoader
from training.gan.config import GanTrainConfig
from training.gan.data import GanData
from training.gan.trainer import GanTrainer

SMALL = GanTrainConfig(
    generator=GeneratorConfig(
        resolution=16,
        channel_base=64,
        channel_max=8,
        z_dim=8,
        w_dim=8,
        mapping_layers=1,
        conditional_start=True,
    ),
    discriminator=DiscriminatorConfig(resolution=16, channel_base=64, channel_max=8),
    batch=16,
    dtype="float32",
    clip_weight=0.3,
    pixel_matching_weight=0.7,
)
EVERYTHING: dict[str, Any] = {
    "r2": True,
    "path_length_weight": 2.0,
    "mismatch_weight": 0.5,
    "caption_share": 0.5,
    "r1_every": 1,
    "path_length_every": 1,
}
CPU = torch.device("cpu")


def data_of(clip: ClipEncoder, *, count: int = 40) -> GanData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)

    def rows(n: int) -> Tensor:
        return F.normalize(torch.randn(n, clip.id.dim, generator=generator) + 0.3, dim=1)

    first = torch.arange(count + 1).clamp(max=30)  # thirty have one caption
    images, none = ImageLoader.of(pixels), ImageLoader.of(pixels[:0])
    return GanData(images, rows(count), none, rows(0), clip.id, "made up", rows(30), first)


def trainer_of(clip: ClipEncoder, **changes: Any) -> GanTrainer:
    trainer = GanTrainer(dataclasses.replace(SMALL, **changes), data_of(clip), clip, device=CPU)
    for layer in trainer.generator.layers:  # noise that does nothing would hide its gradients
        torch.nn.init.constant_(layer.noise_strength, 0.1)
    return trainer


def gradients(trainer: GanTrainer, *, samples_seen: int = 0) -> dict[str, Tensor]:
    """Of D, then of G against the same D."""
    batch, found = trainer.sample_batch(samples_seen), {}
    seen = trainer.steps.see(batch)
    trainer.steps.discriminator_gradients(batch, regularise=True, seen=seen)
    found |= {f"D.{n}": p.grad.clone() for n, p in trainer.discriminator.named_parameters()}
    mean = torch.tensor(0.5) if trainer.config.path_length_weight else None
    _, w_mean = trainer.steps.generator_gradients(batch, path_length_mean=mean, seen=seen)
    named = trainer.generator.named_parameters()
    found |= {f"G.{n}": p.grad.clone() for n, p in named if p.grad is not None}
    return found | {"w": w_mean}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        scale = float(expected[name].abs().max()) or 1.0
        difference = float((found[name] - expected[name]).abs().max())
        assert difference < 1e-5 * max(scale, 1e-2), name
