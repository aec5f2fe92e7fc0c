"""The batch of a step: images, conditions, and all random numbers, keyed by (seed, position of the
sample), so that neither the number of processes nor micro-batches change what a sample meets.

Shape letters: N samples of this process, D embedding, Z latent, R resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lafite_shifted.decoder.pseudo_text import pseudo_text
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from torch_utils import distributed, seeds
from torch_utils.sending import send
from training.gan.augment.plan import AugmentPlan
from training.gan.augment.random_numbers import NUM_COLUMNS
from training.gan.config import GanTrainConfig
from training.gan.data import GanData
from training.gan.host_numbers import HostNumbers

BATCHES_AHEAD = 2  # that are decoded while a step runs


@dataclass(frozen=True)
class Batch:
    """What one step works on: everything keyed by (seed, position of the sample)."""

    real: Tensor  # [N, 3, R, R] in [-1, 1]
    replaced: Tensor  # [N] bool: its image could not be read, and this is another
    z: Tensor  # [N, Z]
    noise: Tensor  # [N, num_noise]
    pseudo: Tensor  # [N, D] h', unit
    condition: Tensor  # [N, D] h' standardised, zero where dropped
    mismatch: Tensor  # [N, D] another image's condition
    keep: Tensor  # [N] bool: condition not dropped
    augment: AugmentPlan  # of the real image and of the generated one alike
    augment_noise: Tensor  # [N, 3, R, R], empty where there is none
    path_noise: Tensor  # [N, 3, R, R], empty where path lengths are off

    def __len__(self) -> int:
        return len(self.z)

    def parts(self, size: int) -> "Iterator[tuple[slice, Batch]]":
        """Micro-batches with their places."""
        for start in range(0, len(self), size):
            place = slice(start, min(start + size, len(self)))
            values = (getattr(self, field.name) for field in fields(self))
            yield place, Batch(*(_part(value, place) for value in values))


def _part(value: "Tensor | AugmentPlan", place: slice) -> Any:
    return value.part(place) if isinstance(value, AugmentPlan) else value[place]


class HostPart(NamedTuple):
    """What the host has of a step before its images."""

    keep: Tensor  # [N] bool
    augment: AugmentPlan


class BatchSampler:
    """Batches of a training. `standardiser` is the Gaussian that standardises conditions."""

    def __init__(
        self,
        config: GanTrainConfig,
        data: GanData,
        stats: EmbeddingStats,
        *,
        num_noise: int,
        device: torch.device,
    ):
        """`stats` of the training embeddings; `num_noise` is that of the generator. InputError
        where the processes cannot share a batch, or captions are set and there are none.
        """
        _check_shards(config)
        check_captions(config, len(data.captions))
        self.config, self.data, self.num_noise, self.device = config, data, num_noise, device
        self.standardiser = Gaussian.from_stats(stats, covariance_type="diagonal").to(device)
        shaped = config.pseudo_text_shape == "gaussian"
        self.noise_shape = Gaussian.from_stats(stats).to(device) if shaped else None
        self.host_numbers = HostNumbers(self._host_part)

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for images and numbers of the host, so far."""
        return self.data.images.waited + self.host_numbers.waited

    def prefetch(self, samples_seen: int, *, augment_probability: float) -> None:
        """Prepare the step after so many samples, in a thread."""
        self.host_numbers.prefetch(samples_seen, augment_probability)

    def sample(self, samples_seen: int, *, augment_probability: float) -> Batch:
        """This process's part of the batch of the samples [samples_seen, samples_seen + batch)."""
        config, data = self.config, self.data
        positions = distributed.shard(range(samples_seen, samples_seen + config.batch))
        wanted = self._rows(positions)
        rows, pixels = data.images.get_batch(wanted)
        for step in range(1, BATCHES_AHEAD + 1):
            later = range(
                positions.start + step * config.batch, positions.stop + step * config.batch
            )
            data.images.prefetch(self._rows(later))
        host = self.host_numbers.get(samples_seen, augment_probability)
        planned = {f"augment.{name}": tensor for name, tensor in host.augment.tensors().items()}
        replaced = torch.tensor([a != b for a, b in zip(wanted, rows, strict=True)])
        others = self._conditions_of(rows, positions)
        own = {"pixels": pixels, "replaced": replaced, "keep": host.keep}
        own["positions"] = torch.tensor(positions)
        sent = send(own | others | planned, self.device)
        random = self._random_numbers(samples_seen, sent["positions"])

        def conditions(embeddings: Tensor) -> Tensor:
            cosine, noise = config.pseudo_text_cosine, random["perturbation"]
            return pseudo_text(embeddings, noise, cosine=cosine, gaussian=self.noise_shape)

        pseudo, mismatch, keep = conditions(sent["h"]), sent["h"][:, :0], sent["keep"]
        if "text" in sent:
            pseudo = pseudo.index_copy(0, sent["text_rows"], sent["text"])
        if "mismatch" in sent:
            mismatch = self.standardiser.standardise(conditions(sent["mismatch"]))
        arrived = {name: sent[f"augment.{name}"] for name in host.augment.tensors()}
        return Batch(
            real=sent["pixels"].float() / 127.5 - 1,
            replaced=sent["replaced"],
            z=random["z"],
            noise=random["noise"],
            pseudo=pseudo,
            condition=self.standardiser.standardise(pseudo) * keep[:, None],
            mismatch=mismatch,
            keep=keep,
            augment=host.augment.sent(arrived),
            augment_noise=random["augment_noise"],
            path_noise=random["path_noise"],
        )

    def _conditions_of(self, rows: list[int], positions: range) -> dict[str, Tensor]:
        """Embeddings on the host: of these rows, of others, and of captions."""
        config, data = self.config, self.data
        found = {"h": data.embeddings[rows]}
        if config.caption_share > 0:
            found |= self._captions(rows, positions)
        if config.mismatch_weight > 0:
            offsets = self._random_indices("mismatch", positions, len(data.images) - 1)
            others = torch.tensor(rows) + 1 + offsets  # never the image itself
            found["mismatch"] = data.embeddings[others % len(data.images)]
        return found

    def _host_part(self, samples_seen: int, augment_probability: float) -> HostPart:
        config = self.config
        positions = distributed.shard(range(samples_seen, samples_seen + config.batch))
        shape, key = (1 + NUM_COLUMNS,), (config.seed, "uniform")
        uniform = seeds.uniform_per_sample(shape, key=key, indices=positions)
        plan = AugmentPlan.of(
            uniform[:, 1:],
            probability=augment_probability,
            config=config.augment,
            image_size=config.generator.resolution,
        )
        return HostPart(uniform[:, 0] >= config.condition_dropout, plan)

    def _random_numbers(self, samples_seen: int, positions: Tensor) -> dict[str, Tensor]:
        """What is random in the samples but for their images and augmentation, on the device."""
        config, size = self.config, self.config.generator.resolution

        def normal(what: str, *shape: int) -> Tensor:
            key = (config.seed, what)
            return seeds.normal_per_sample(shape, key=key, indices=positions)

        dim, n = self.data.embeddings.shape[1], len(positions)
        found = {"z": normal("z", config.generator.z_dim), "noise": normal("noise", self.num_noise)}
        found["perturbation"] = normal("perturbation", dim)
        if config.lengths_are_due(samples_seen):
            found["path_noise"] = normal("path", 3, size, size)
        else:
            found["path_noise"] = torch.empty(n, 0, size, size, device=self.device)
        if config.augment.noise > 0:
            found["augment_noise"] = normal("augment", 3, size, size)
        else:
            found["augment_noise"] = torch.empty(n, 0, size, size, device=self.device)
        return found

    def _rows(self, positions: range) -> list[int]:
        """Of the training images that the samples at these positions show, a share of a batch."""
        if self.data.order is not None:
            first = positions.start // self.config.batch * len(positions)  # of this process's own
            return self.data.order.rows(range(first, first + len(positions)))
        key = (self.config.seed, "images")
        return seeds.epoch_indices(positions, size=len(self.data.images), key=key)

    def _random_indices(self, what: str, positions: range, size: int) -> Tensor:
        """A number below `size` for each position."""
        key = (self.config.seed, what)
        uniform = seeds.uniform_per_sample((1,), key=key, indices=positions)[:, 0]
        return (uniform.double() * size).long()

    def _captions(self, rows: list[int], positions: range) -> dict[str, Tensor]:
        """A caption's embedding instead of the pseudo text, for a share of the captioned images
        (arXiv:2211.15388, section 4.3): "text" for the samples "text_rows".
        """
        captions, first = self.data.captions, self.data.first_caption
        which = torch.tensor(rows)
        counts = first[which + 1] - first[which]
        key = (self.config.seed, "captions")
        uniform = seeds.uniform_per_sample((2,), key=key, indices=positions)
        chosen = (counts > 0) & (uniform[:, 0] < self.config.caption_share)
        text = first[which] + (uniform[:, 1].double() * counts).long()
        return {"text": captions[text[chosen]], "text_rows": chosen.nonzero().flatten()}


def check_captions(config: GanTrainConfig, count: int) -> None:
    """InputError where captions are set and there are none."""
    if config.caption_share > 0 and not count:
        raise InputError(
            "caption_share is set, but no training image has a caption. Add captions, or leave "
            "it out."
        )


def _check_shards(config: GanTrainConfig) -> None:
    """InputError unless the processes can share a batch in whole groups."""
    processes, group = distributed.world_size(), config.discriminator.group
    shard, rest = divmod(config.batch, processes)
    if rest or (processes > 1 and shard % group):
        raise InputError(
            f"A batch of {config.batch} is not shared by {processes} processes in groups of "
            f"{group}, over which the minibatch standard deviation runs. Choose a --batch-size "
            f"that is a multiple of {processes * group}."
        )
