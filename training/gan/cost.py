"""What a GAN configuration costs: parameters, multiply-accumulates, memory, and time from a short
probe.

Shape letters: N batch, R resolution.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lafite_shifted.decoder.discriminator import Discriminator, conditional_logit
from lafite_shifted.decoder.generator import Generator
from lafite_shifted.encoders.clip import ClipEncoder
from torch_utils.autograd import saved_bytes
from torch_utils.device import pick_dtype
from training.gan.config import GanTrainConfig
from training.gan.features.backbone import Backbone
from training.gan.features.terms import FeatureTerms
from training.gan.losses import path_lengths, r1_penalty
from training.gan.probe import mean_seconds, probe_trainer

PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class GanCost:
    """What one configuration costs on one device."""

    generator_parameters: int
    discriminator_parameters: int
    generator_gmac: float  # an image, forward
    discriminator_gmac: float
    feature_parameters: int  # of the heads on features; 0 without
    feature_gmac: float  # of their frozen network and of themselves
    training_gib: float  # weights, optimizer, CLIP and the largest phase's activations
    seconds_per_kimg: float
    probe_images: int


def measure_gan(
    config: GanTrainConfig,
    encoder: ClipEncoder,
    *,
    device: torch.device,
    backbone: Backbone | None = None,
    probe_seconds: float = PROBE_SECONDS,
) -> GanCost:
    """Count on the meta device (no memory), then time real steps at a small batch. `backbone` is
    what `config.features` names.
    """
    with torch.device("meta"):
        generator, discriminator = Generator(config.generator), Discriminator(config.discriminator)
        dtype = pick_dtype(config.dtype, device)
        generator.compute_dtype = discriminator.compute_dtype = dtype
        generator.activation_checkpointing = discriminator.activation_checkpointing = (
            config.activation_checkpointing
        )
        size, dim = config.generator.resolution, config.generator.condition_dim
        z, condition = torch.empty(1, config.generator.z_dim), torch.empty(1, dim)
        images = torch.empty(1, 3, size, size)
        g_gmac = _gmac(lambda: generator(z, condition))
        d_gmac = _gmac(lambda: discriminator(images))
        phases = _phases(config, generator, discriminator)
    g_parameters = sum(p.numel() for p in generator.parameters())
    d_parameters = sum(p.numel() for p in discriminator.parameters())
    # weights, gradients and two Adam moments of both, the EMA of G
    state_bytes = 4 * (4 * (g_parameters + d_parameters) + g_parameters)
    state_bytes += sum(p.numel() * p.element_size() for p in encoder.model.parameters())
    if config.clip_weight > 0:
        seen = torch.zeros(1, 3, size, size, device=device, requires_grad=True)
        phases["generator"] += saved_bytes(lambda: encoder.embed_images(seen))
    features = _features_cost(config, backbone, device)
    phases["discriminator"] += features.heads_bytes
    phases["generator"] += features.all_bytes
    state_bytes += features.state_bytes
    seconds, images_timed = _probe(config, encoder, backbone, device, limit=probe_seconds)
    return GanCost(
        g_parameters,
        d_parameters,
        g_gmac,
        d_gmac,
        features.parameters,
        features.gmac,
        (state_bytes + max(phases.values()) * (config.micro_batch or config.batch)) / 2**30,
        seconds * 1000,
        images_timed,
    )


def _phases(
    config: GanTrainConfig, generator: Generator, discriminator: Discriminator
) -> dict[str, float]:
    """Bytes that each phase of a step saves for its backward pass, an image."""
    shape = config.generator
    z, condition = torch.empty(1, shape.z_dim), torch.empty(1, shape.condition_dim)
    images = torch.empty(1, 3, shape.resolution, shape.resolution)
    phases = {
        "discriminator": 2 * saved_bytes(lambda: _conditional(discriminator, images, condition)),
        "r1": saved_bytes(lambda: _penalty(discriminator, images, condition)),
        "generator": saved_bytes(
            lambda: _conditional(discriminator, generator(z, condition), condition)
        ),
    }
    if (config.micro_batch or config.batch) >= config.batch:  # G's graph waits for its step
        waiting = saved_bytes(lambda: generator(z, condition))
        phases["discriminator"] += waiting
        phases["r1"] += waiting
    if config.path_length_weight > 0:
        phases["path lengths"] = saved_bytes(lambda: _lengths(generator, z, condition))
    return phases


class FeaturesCost(NamedTuple):
    """What a discriminator on frozen features adds, an image; zeros without one."""

    parameters: int = 0
    gmac: float = 0.0
    state_bytes: int = 0
    heads_bytes: float = 0.0  # activations of the heads, for a real and a generated image
    all_bytes: float = 0.0  # those of the frozen network too


def _features_cost(
    config: GanTrainConfig, backbone: Backbone | None, device: torch.device
) -> FeaturesCost:
    """Of a small frozen network: counted by running it on one image."""
    if backbone is None:
        return FeaturesCost()
    size = config.generator.resolution
    images = torch.zeros(1, 3, size, size, device=device, requires_grad=True)
    condition = torch.zeros(1, config.discriminator.condition_dim, device=device)
    terms = FeatureTerms.of(config, backbone, dtype=pick_dtype(config.dtype, device), device=device)
    with torch.no_grad():
        maps = backbone(images)
    parameters = sum(p.numel() for p in terms.heads.parameters())
    frozen = sum(p.numel() * p.element_size() for p in backbone.parameters())
    return FeaturesCost(
        parameters=parameters,
        gmac=_gmac(lambda: terms.logit(backbone(images), condition)),
        state_bytes=16 * parameters + frozen,  # weights, gradients and two moments
        heads_bytes=saved_bytes(lambda: terms.heads([torch.cat([x, x]) for x in maps])),
        all_bytes=saved_bytes(lambda: terms.logit(backbone(images), condition)),
    )


def _conditional(discriminator: Discriminator, images: Tensor, condition: Tensor) -> Tensor:
    realness, feature = discriminator(images)
    return conditional_logit(realness, feature, condition)


def _penalty(discriminator: Discriminator, images: Tensor, condition: Tensor) -> Tensor:
    leaf = images.detach().requires_grad_(True)
    return r1_penalty(_conditional(discriminator, leaf, condition), leaf)


def _lengths(generator: Generator, z: Tensor, condition: Tensor) -> Tensor:
    w = generator.mapping(z)
    images = generator.synthesise(w, condition)
    return path_lengths(images, w, torch.empty_like(images))


def _gmac(run) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2e9


def _probe(
    config: GanTrainConfig,
    encoder: ClipEncoder,
    backbone: Backbone | None,
    device: torch.device,
    *,
    limit: float,
) -> tuple[float, int]:
    """(seconds an image, images timed) of training steps on grey images."""
    batch = min(
        config.batch,
        32 if config.generator.resolution <= 64 else 4 if config.generator.resolution <= 256 else 1,
    )
    group = math.gcd(config.discriminator.group, batch)
    discriminator = dataclasses.replace(config.discriminator, group=group)
    small = dataclasses.replace(config, batch=batch, micro_batch=None, discriminator=discriminator)
    trainer = probe_trainer(small, encoder, device=device, backbone=backbone)

    def timed(step: int) -> float:
        start = time.perf_counter()
        trainer.step(step * batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds, num_steps = mean_seconds(config, timed, limit=limit)
    return seconds / batch, num_steps * batch
