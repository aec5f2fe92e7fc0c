"""The batch of a step: images, conditions, and all random numbers, keyed by (seed, position of the
sample), so that neither the number of processes nor micro-batches change what a sample meets.

Shape letters: N samples of this process, D embedding, Z latent, R resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lafite_shifted.decoder.pseudo_text import pseudo_text
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from torch_utils import distributed, seeds
from training.gan.augment.random_numbers import NUM_COLUMNS
from training.gan.config import GanTrainConfig
from training.gan.data import GanData
from training.gan.random_numbers import RandomNumbers

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
    augment_probability: Tensor  # [N]
    augment_real: Tensor  # [N, NUM_COLUMNS]
    augment_fake: Tensor  # [N, NUM_COLUMNS]
    augment_noise: Tensor  # [N, 2, 3, R, R] of real and generated, empty where there is none
    path_noise: Tensor  # [N, 3, R, R], empty where path lengths are off

    def __len__(self) -> int:
        return len(self.z)

    def parts(self, size: int) -> "Iterator[tuple[slice, Batch]]":
        """Micro-batches with their places."""
        for start in range(0, len(self), size):
            place = slice(start, min(start + size, len(self)))
            yield place, Batch(*(getattr(self, field.name)[place] for field in fields(self)))


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
        self.random_numbers = RandomNumbers(self._random_numbers)

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for images and random numbers, so far."""
        return self.data.images.waited + self.random_numbers.waited

    def sample(self, samples_seen: int, *, augment_probability: Tensor) -> Batch:
        """This process's part of the batch of the samples [samples_seen, samples_seen + batch);
        `augment_probability` is a scalar on the device.
        """
        config, data = self.config, self.data
        positions = distributed.shard(range(samples_seen, samples_seen + self.config.batch))
        wanted = self._rows(positions)
        rows, pixels = data.images.get_batch(wanted)
        for step in range(1, BATCHES_AHEAD + 1):
            later = range(
                positions.start + step * self.config.batch,
                positions.stop + step * self.config.batch,
            )
            data.images.prefetch(self._rows(later))
        h = self._sent(data.embeddings[rows])
        random = self.random_numbers.get(samples_seen)
        self.random_numbers.prefetch(samples_seen + self.config.batch)
        z, noise, perturbation, uniform = (
            self._sent(random[name]) for name in ("z", "noise", "perturbation", "uniform")
        )

        def conditions(embeddings: Tensor) -> Tensor:
            cosine = config.pseudo_text_cosine
            return pseudo_text(embeddings, perturbation, cosine=cosine, gaussian=self.noise_shape)

        pseudo, mismatch = conditions(h), h[:, :0]
        if config.caption_share > 0:
            pseudo = self._with_captions(pseudo, rows, positions)
        if config.mismatch_weight > 0:
            offsets = self._random_indices("mismatch", positions, len(data.images) - 1)
            others = torch.tensor(rows) + 1 + offsets  # never the image itself
            others %= len(data.images)
            mismatch = self.standardiser.standardise(
                conditions(self._sent(data.embeddings[others]))
            )
        keep = uniform[:, 0] >= config.condition_dropout
        real = self._sent(pixels).float() / 127.5 - 1
        return Batch(
            real=real,
            replaced=torch.tensor([a != b for a, b in zip(wanted, rows, strict=True)]),
            z=z,
            noise=noise,
            pseudo=pseudo,
            condition=self.standardiser.standardise(pseudo) * keep[:, None],
            mismatch=mismatch,
            keep=keep,
            augment_probability=augment_probability.expand(len(real)),
            augment_real=uniform[:, 1 : 1 + NUM_COLUMNS],
            augment_fake=uniform[:, 1 + NUM_COLUMNS :],
            augment_noise=self._sent(random["augment_noise"]),
            path_noise=self._sent(random["path_noise"]),
        )

    def _random_numbers(self, samples_seen: int) -> dict[str, Tensor]:
        """What is random in the samples of `sample`, but for their images; on the CPU."""
        config, size = self.config, self.config.generator.resolution
        positions = distributed.shard(range(samples_seen, samples_seen + self.config.batch))

        def normal(what: str, *shape: int) -> Tensor:
            return seeds.normal_per_sample(shape, key=(config.seed, what), indices=positions)

        dim = self.data.embeddings.shape[1]
        sizes = [config.generator.z_dim, self.num_noise, dim]
        z, noise, perturbation = normal("normal", sum(sizes)).split(sizes, dim=1)
        uniform = seeds.uniform_per_sample(
            (1 + 2 * NUM_COLUMNS,), key=(config.seed, "uniform"), indices=positions
        )
        found = {"z": z, "noise": noise, "perturbation": perturbation, "uniform": uniform}
        n = len(positions)
        path_noise, augment_noise = torch.empty(n, 0, size, size), torch.empty(n, 1, 0)
        if self.config.lengths_are_due(samples_seen):
            path_noise = normal("path", 3, size, size)
        if config.augment.noise > 0:
            augment_noise = normal("augment", 2, 3, size, size)
        return found | {"path_noise": path_noise, "augment_noise": augment_noise}

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

    def _with_captions(self, pseudo: Tensor, rows: list[int], positions: range) -> Tensor:
        """A caption's embedding instead of the pseudo text, for a share of the captioned images
        (arXiv:2211.15388, section 4.3).
        """
        captions, first = self.data.captions, self.data.first_caption
        which = torch.tensor(rows)
        counts = first[which + 1] - first[which]
        key = (self.config.seed, "captions")
        uniform = seeds.uniform_per_sample((2,), key=key, indices=positions)
        chosen = (counts > 0) & (uniform[:, 0] < self.config.caption_share)
        text = first[which] + (uniform[:, 1].double() * counts).long()
        found = self._sent(captions[text[chosen]])
        return pseudo.index_copy(0, self._sent(chosen.nonzero().flatten()), found)

    def _sent(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the device, which is not waited for."""
        return tensor.to(self.device, non_blocking=True)


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
