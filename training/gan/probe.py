"""Steps of a training on made-up images, to be timed: by kind, because R1 and path lengths come
lazily.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from lafite_shifted.encoders.clip import ClipEncoder
from training.data.image_cache import ImageLoader
from training.gan.config import GanTrainConfig
from training.gan.data import GanData
from training.gan.features.backbone import Backbone
from training.gan.trainer import GanTrainer

MOST_STEPS = 100  # are enough


class Kind(NamedTuple):
    """Lazy terms of a step."""

    r1: bool
    lengths: bool

    @staticmethod
    def of(step: int, config: GanTrainConfig) -> "Kind":
        """The lazy terms of a step."""
        lengths = config.path_length_weight > 0 and step % config.path_length_every == 0
        return Kind(step % config.r1_every == 0, lengths)


def step_kinds(config: GanTrainConfig) -> dict[Kind, tuple[int, float]]:
    """A step of each kind there is, and the kind's share of all; the plainest first."""
    every, lengths = config.r1_every, config.path_length_every
    if config.path_length_weight == 0:
        found = [(1, 1 - 1 / every), (0, 1 / every)]
    else:
        period = math.lcm(every, lengths)
        num_r1, num_lengths = period // every - 1, period // lengths - 1  # of one term alone
        num_plain = period - num_r1 - num_lengths - 1
        steps = (1, num_plain), (lengths, num_lengths), (every, num_r1), (0, 1)
        found = [(step, count / period) for step, count in steps]
    return {Kind.of(step, config): (step, share) for step, share in found if share > 0}


def mean_seconds(
    config: GanTrainConfig, timed: Callable[[int], float], *, limit: float
) -> tuple[float, int]:
    """(mean over the kinds of the median `timed` seconds of a step, steps counted), within about
    `limit` seconds: a step of each kind, then as many as come, in their order.

    The first of a kind, which sets up more, counts only where no other has come; a very first one
    that takes as long as all may is itself the measurement.
    """
    kinds = step_kinds(config)
    opening: dict[Kind, float] = {}
    for kind, (step, _) in kinds.items():
        opening[kind] = timed(step)
        if len(opening) == 1 and opening[kind] > limit:
            return opening[kind], 1
    spent, later = sum(opening.values()), {kind: list[float]() for kind in kinds}
    for step in range(1, 1 + MOST_STEPS):
        if spent > limit:
            break
        seconds = timed(step)
        later[Kind.of(step, config)].append(seconds)
        spent += seconds
    counted = {kind: later[kind] or [opening[kind]] for kind in kinds}
    mean = sum(share * statistics.median(counted[kind]) for kind, (_, share) in kinds.items())
    return mean, sum(map(len, counted.values()))


def probe_trainer(
    config: GanTrainConfig,
    encoder: ClipEncoder,
    *,
    device: torch.device,
    backbone: Backbone | None = None,
) -> GanTrainer:
    """A trainer of `config` on grey images, one caption each, augmented as in the middle of a run;
    features take part from the start.
    """
    size, num = config.generator.resolution, max(2 * config.batch, 4)
    generator = torch.Generator().manual_seed(0)
    embeddings = nn.functional.normalize(
        torch.randn(num, encoder.id.dim, generator=generator), dim=1
    )
    pixels = torch.full((num, 3, size, size), 128, dtype=torch.uint8)
    squares, nothing = ImageLoader.of(pixels), ImageLoader.of(pixels[:0])
    first_caption = torch.arange(num + 1)
    data = GanData(
        squares,
        *(embeddings, nothing, embeddings[:0], encoder.id, "probe", embeddings, first_caption),
    )
    features = dataclasses.replace(config.features, start_kimg=0.0)
    config = dataclasses.replace(config, features=features)
    trainer = GanTrainer(config, data, encoder, device=device, backbone=backbone)
    if config.augment.control != "fixed":  # it rises from 0
        trainer.augment.probability = config.augment.probability / 2
    return trainer
