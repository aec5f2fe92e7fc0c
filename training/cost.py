"""What a GAN configuration costs: parameters, multiply-accumulates, memory, and time from a short
probe.

Shape letters: N batch, R resolution.
"""

import dataclasses
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lafite_shifted.clip import ClipEncoder
from lafite_shifted.discriminator import Discriminator, conditional_logit
from lafite_shifted.generator import Generator
from torch_utils.device import pick_dtype
from training.gan_config import GanTrainConfig
from training.gan_data import GanData
from training.gan_loop import GanTrainer
from training.losses import r1_penalty
from training.squares import Squares

LONG_PROBE_SECONDS = 20.0  # a first step that takes this long is itself the measurement


@dataclass(frozen=True)
class GanCost:
    """Figures of one configuration on one device."""

    generator_parameters: int
    discriminator_parameters: int
    generator_gmac: float  # a picture, forward
    discriminator_gmac: float
    training_gib: float  # weights, optimizer, CLIP and the largest phase's activations
    seconds_per_kimg: float
    probe_pictures: int


def measure_gan(config: GanTrainConfig, encoder: ClipEncoder, *, device: torch.device) -> GanCost:
    """Count on the meta device (no memory), then time real steps at a small batch."""
    with torch.device("meta"):
        generator, discriminator = Generator(config.generator), Discriminator(config.discriminator)
        dtype = pick_dtype(config.dtype, device)
        generator.compute_dtype = discriminator.compute_dtype = dtype
        generator.recompute = discriminator.recompute = config.recompute
        size, dim = config.generator.resolution, config.generator.condition_dim
        z, condition = torch.empty(1, config.generator.z_dim), torch.empty(1, dim)
        pictures = torch.empty(1, 3, size, size)
        g_gmac = _gmac(lambda: generator(z, condition))
        d_gmac = _gmac(lambda: discriminator(pictures))
        phases = {
            "discriminator": 2
            * saved_bytes(lambda: _conditional(discriminator, pictures, condition)),
            "r1": saved_bytes(lambda: _penalty(discriminator, pictures, condition)),
            "generator": saved_bytes(
                lambda: _conditional(discriminator, generator(z, condition), condition)
            ),
        }
    g_parameters = sum(p.numel() for p in generator.parameters())
    d_parameters = sum(p.numel() for p in discriminator.parameters())
    # weights, gradients and two Adam moments of both, one averaged copy of G
    state_bytes = 4 * (4 * (g_parameters + d_parameters) + g_parameters)
    state_bytes += sum(p.numel() * p.element_size() for p in encoder.model.parameters())
    if config.clip_weight > 0:
        seen = torch.zeros(1, 3, size, size, device=device, requires_grad=True)
        phases["generator"] += saved_bytes(lambda: encoder.embed_images(seen))
    seconds, pictures_timed = _probe(config, encoder, device)
    return GanCost(
        g_parameters,
        d_parameters,
        g_gmac,
        d_gmac,
        (state_bytes + max(phases.values()) * (config.micro_batch or config.batch)) / 2**30,
        seconds * 1000,
        pictures_timed,
    )


def _conditional(discriminator: Discriminator, pictures: Tensor, condition: Tensor) -> Tensor:
    realness, feature = discriminator(pictures)
    return conditional_logit(realness, feature, condition)


def _penalty(discriminator: Discriminator, pictures: Tensor, condition: Tensor) -> Tensor:
    leaf = pictures.detach().requires_grad_(True)
    return r1_penalty(_conditional(discriminator, leaf, condition), leaf)


def _gmac(run) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2e9


def saved_bytes(run) -> float:
    """Bytes that autograd keeps for one picture, parameters left out; each storage counted once."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return float(sum(seen.values()))


def _probe(config: GanTrainConfig, encoder: ClipEncoder, device: torch.device) -> tuple[float, int]:
    """(seconds a picture, pictures timed) of training steps on grey pictures, one in r1_every of
    them with R1.
    """
    batch = min(
        config.batch,
        32 if config.generator.resolution <= 64 else 4 if config.generator.resolution <= 256 else 1,
    )
    group = math.gcd(config.discriminator.group, batch)
    discriminator = dataclasses.replace(config.discriminator, group=group)
    changes = {"batch": batch, "micro_batch": None, "discriminator": discriminator}
    small = dataclasses.replace(config, **changes)
    size, num = config.generator.resolution, max(2 * batch, 4)
    generator = torch.Generator().manual_seed(0)
    embeddings = nn.functional.normalize(
        torch.randn(num, encoder.id.dim, generator=generator), dim=1
    )
    pixels = torch.full((num, 3, size, size), 128, dtype=torch.uint8)
    none = torch.zeros(num + 1, dtype=torch.long)
    empty = embeddings[:0]
    squares, nothing = Squares.of(pixels), Squares.of(pixels[:0])
    data = GanData(squares, embeddings, nothing, empty, encoder.id, "probe", empty, none)
    trainer = GanTrainer(small, data, encoder, device=device)

    if config.augment.control != "fixed":  # it rises from 0: as in the middle of a run
        trainer.augment.probability.fill_(config.augment.probability / 2)

    def timed(step: int) -> float:
        start = time.perf_counter()
        trainer.step(step * batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    first = timed(1)
    if first > LONG_PROBE_SECONDS:
        return first / batch, batch
    plain = min(timed(2), timed(3))
    with_r1 = timed(config.r1_every)
    return (plain + max(with_r1 - plain, 0.0) / config.r1_every) / batch, 4 * batch
