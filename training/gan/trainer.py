"""Training the decoder on images alone: StyleGAN2 (arXiv:1912.04958) with Lafite's conditioning
and contrastive losses (arXiv:2111.13792), each image's own CLIP embedding being its condition.

Shape letters: N samples of this process, D embedding, Z latent, R resolution.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lafite_shifted.decoder.discriminator import Discriminator
from lafite_shifted.decoder.generator import Generator, to_uint8
from lafite_shifted.decoder.pseudo_text import pseudo_text
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import DivergedError, InputError
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.png import save_png
from lafite_shifted.model_folder import best_metric, save_generator
from lafite_shifted.pipeline import latents
from torch_utils import distributed, seeds
from torch_utils.device import pick_dtype
from torch_utils.ema import RAMP as EMA_RAMP
from torch_utils.ema import Ema
from torch_utils.loss_scale import LossScale
from training.gan.augment.control import AugmentControl
from training.gan.augment.random_numbers import NUM_COLUMNS
from training.gan.config import GanTrainConfig
from training.gan.data import GanData
from training.gan.evaluate import (
    EvalSet,
    discriminator_logits,
    embed_uint8,
    gan_metrics,
    grid,
    real_metrics,
)
from training.gan.random_numbers import RandomNumbers
from training.gan.step import Batch, GanSteps
from training.gan.transfer import Start, freeze
from training.metrics.distances import few_samples_note
from training.run_folder import Evaluation

PATH_LENGTH_DECAY = 0.01  # arXiv:1912.04958, appendix B
MAX_SKIPPED = 20  # steps in a row whose gradients are not finite
BATCHES_AHEAD = 2  # that are decoded while a step runs


class Running(nn.Module):
    """What a training carries from step to step, beside weights and moments."""

    path_length_mean: Tensor
    skipped: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("path_length_mean", torch.zeros(()))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))  # in a row


class GanTrainer:
    """One step: D on real and generated images, lazily R1, then G. The processes of torchrun
    share the batch.
    """

    def __init__(
        self,
        config: GanTrainConfig,
        data: GanData,
        clip: ClipEncoder,
        *,
        device: torch.device,
        start: Start | None = None,
    ):
        self.config, self.data, self.clip, self.device = config, data, clip, device
        self.batch = config.batch
        _check_shares(config)
        check_captions(config, len(data.captions))
        torch.manual_seed(seeds.seed_of(config.seed, "gan weights"))
        self.generator = Generator(config.generator).to(device)
        self.discriminator = Discriminator(config.discriminator).to(device)
        networks = self.generator, self.discriminator
        self.kept = start.apply(*networks, data.encoder_id) if start else []  # lines to show
        freeze(config, *networks)
        dtype = pick_dtype(config.dtype, device)
        self.generator.compute_dtype = self.discriminator.compute_dtype = dtype
        self.generator.activation_checkpointing = self.discriminator.activation_checkpointing = (
            config.activation_checkpointing
        )
        half_life = config.half_life_kimg * 1000
        # weights that are no random ones need not be forgotten soon
        ramp = math.inf if start else EMA_RAMP
        self.ema = Ema(self.generator, half_life=half_life, ramp=ramp)
        self.ema.network.compute_dtype = dtype
        self.running = Running().to(device)
        speed = config.augment_speed_kimg
        self.augment = AugmentControl(config.augment, speed_kimg=speed).to(device)
        self.stats = EmbeddingStats.of(data.embeddings, data.encoder_id)
        self.standardiser = Gaussian.from_stats(self.stats, covariance_type="diagonal").to(device)
        shaped = config.pseudo_text_shape == "gaussian"
        self.noise_shape = Gaussian.from_stats(self.stats).to(device) if shaped else None
        self.eval_set = EvalSet.of(data)
        few = few_samples_note(*self.eval_set.embeddings.shape)
        self.notes = [few] if few else []  # lines to show
        self.g_scale, self.d_scale = LossScale(dtype).to(device), LossScale(dtype).to(device)
        self.steps = GanSteps(
            config, self.generator, self.discriminator, clip, self.g_scale, self.d_scale
        )
        options = {
            "lr": config.step_size,
            "betas": (0.0, config.beta2),
            "eps": 1e-8,
            "fused": True,
        }
        self.random_numbers = RandomNumbers(self._random_numbers)
        self.g_optimizer = Adam(self.generator.parameters(), **options)
        self.d_optimizer = Adam(self.discriminator.parameters(), **options)

    @property
    def waited(self) -> float:
        return self.data.images.waited + self.random_numbers.waited

    def parts(self) -> Mapping[str, nn.Module | Optimizer]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema.network,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
            "running": self.running,
            "augment": self.augment,
            "g_scale": self.g_scale,
            "d_scale": self.d_scale,
        }

    def sample_batch(self, samples_seen: int) -> Batch:
        """This process's part of the batch of the samples [samples_seen, samples_seen + batch)."""
        config, data = self.config, self.data
        positions = distributed.shard(range(samples_seen, samples_seen + self.batch))
        wanted = self._rows(positions)
        rows, pixels = data.images.get_batch(wanted)
        for step in range(1, BATCHES_AHEAD + 1):
            later = range(positions.start + step * self.batch, positions.stop + step * self.batch)
            data.images.prefetch(self._rows(later))
        h = self._sent(data.embeddings[rows])
        random = self.random_numbers.get(samples_seen)
        self.random_numbers.prefetch(samples_seen + self.batch)
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
            augment_probability=self.augment.probability.expand(len(real)),
            augment_real=uniform[:, 1 : 1 + NUM_COLUMNS],
            augment_fake=uniform[:, 1 + NUM_COLUMNS :],
            augment_noise=self._sent(random["augment_noise"]),
            path_noise=self._sent(random["path_noise"]),
        )

    def _random_numbers(self, samples_seen: int) -> dict[str, Tensor]:
        """What is random in the samples of `sample_batch`, but for their images; on the CPU."""
        config, size = self.config, self.config.generator.resolution
        positions = distributed.shard(range(samples_seen, samples_seen + self.batch))

        def normal(what: str, *shape: int) -> Tensor:
            return seeds.normal_per_sample(shape, key=(config.seed, what), indices=positions)

        dim = self.data.embeddings.shape[1]
        sizes = [config.generator.z_dim, self.generator.num_noise, dim]
        z, noise, perturbation = normal("normal", sum(sizes)).split(sizes, dim=1)
        uniform = seeds.uniform_per_sample(
            (1 + 2 * NUM_COLUMNS,), key=(config.seed, "uniform"), indices=positions
        )
        found = {"z": z, "noise": noise, "perturbation": perturbation, "uniform": uniform}
        n = len(positions)
        path_noise, augment_noise = torch.empty(n, 0, size, size), torch.empty(n, 1, 0)
        if self._lengths_are_due(samples_seen):
            path_noise = normal("path", 3, size, size)
        if config.augment.noise > 0:
            augment_noise = normal("augment", 2, 3, size, size)
        return found | {"path_noise": path_noise, "augment_noise": augment_noise}

    def _rows(self, positions: range) -> list[int]:
        """Of the training images that the samples at these positions show, a share of a batch."""
        if self.data.order is not None:
            first = positions.start // self.batch * len(positions)  # of this process's own
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

    def _is_due(self, samples_seen: int, every: int) -> bool:
        return (samples_seen // self.batch) % every == 0

    def _lengths_are_due(self, samples_seen: int) -> bool:
        every = self.config.path_length_every
        return self.config.path_length_weight > 0 and self._is_due(samples_seen, every)

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        batch, config = self.sample_batch(samples_seen), self.config
        self.data.images.sync()
        self.d_optimizer.zero_grad(set_to_none=True)
        logged = self.steps.discriminator_gradients(
            batch, regularise=self._is_due(samples_seen, config.r1_every)
        )
        if not self._apply(self.d_optimizer, self.d_scale):
            return self._skipped()
        sign = logged["ada_rt"].clone()
        distributed.all_reduce_mean([sign])
        self.augment.update(sign, samples=self.batch)
        self.g_optimizer.zero_grad(set_to_none=True)
        lengths_are_due = self._lengths_are_due(samples_seen)
        mean = self.running.path_length_mean if lengths_are_due else None
        of_generator, w_mean = self.steps.generator_gradients(batch, path_length_mean=mean)
        if not self._apply(self.g_optimizer, self.g_scale):
            return self._skipped()
        self.running.skipped.zero_()
        if lengths_are_due:
            length = of_generator["path_length"].clone()
            distributed.all_reduce_mean([length])
            self.running.path_length_mean.lerp_(length, PATH_LENGTH_DECAY)
        self.generator.mapping.track(w_mean)
        self.ema.update(self.generator, batch=self.batch, samples_seen=samples_seen + self.batch)
        more = {
            "ada_p": self.augment.probability.clone(),
            "skipped": torch.zeros(()),
            "replaced": batch.replaced.float().mean(),
        }
        return logged | of_generator | more

    def _apply(self, optimizer: Optimizer, scale: LossScale) -> bool:
        """Take the step unless a gradient is not finite: gradients are the same in all processes,
        and so is what is decided.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        finite = _is_finite(norm)
        if finite:
            scale.unscale(parameters)
            optimizer.step()
        scale.update(finite=finite)
        return finite

    def _skipped(self) -> Mapping[str, Tensor]:
        """What is logged of a step that D or G did not take; DivergedError after MAX_SKIPPED in a
        row.
        """
        self.running.skipped += 1
        if int(self.running.skipped) >= MAX_SKIPPED:
            raise DivergedError(
                f"Training diverged: the gradients of {MAX_SKIPPED} steps in a row were not "
                "finite. The last checkpoint is intact; start a new run with a lower learning "
                "rate or a higher R1 gamma."
            )
        return {"skipped": torch.ones(())}

    # --- evaluation

    @torch.no_grad()
    def render(self, embeddings: Tensor, *, first_seed: int = 0) -> Tensor:
        """Images [N, R, R, 3] uint8 of the averaged generator, seeds from `first_seed` on."""
        parts = []
        for start in range(0, len(embeddings), 64):
            h = embeddings[start : start + 64].to(self.device)
            indices = range(first_seed + start, first_seed + start + len(h))
            z = latents(indices, self.config.generator.z_dim).to(self.device)
            parts.append(to_uint8(self.ema.network(z, self.standardiser.standardise(h))))
        return torch.cat(parts)

    @torch.no_grad()
    def evaluate(self, samples_seen: int, folder: Path) -> Evaluation:
        """Figures of the averaged generator (see `training.gan.evaluate`); writes a grid and
        `folder/generator`, and `folder/best/generator` where the kernel distance, which few images
        do not bias, is the smallest so far of the same reference.
        """
        training = {
            "kimg": round(samples_seen / 1000, 3),
            "num_images": len(self.data.images),
            "pseudo_text_cosine": self.config.pseudo_text_cosine,
            "hold_out": self.config.hold_out,
            **dataclasses.asdict(self.config.images),
        }
        eval_set, reference = self.eval_set, self.eval_set.reference
        save_generator(folder / "generator", self.ema.network, self.stats, training=training)
        image = grid(eval_set, self.render, self._embed_pixels)
        path = folder / "grids" / f"samples-{samples_seen:010d}.png"
        save_png(path, image, {"kimg": f"{samples_seen / 1000:g}"})
        made = self.render(eval_set.embeddings)
        seen = self._embed_pixels(made)
        found = gan_metrics(eval_set, seen)
        metrics = {f"{eval_set.where}_{name}": value for name, value in found.items()}
        name, best = f"{eval_set.where}_kid_clip", folder / "best" / "generator"
        if metrics[name] < best_metric(best, name, reference=reference):
            told = training | {name: metrics[name], "reference": reference}
            save_generator(best, self.ema.network, self.stats, training=told)
        condition = self.standardiser.standardise(eval_set.embeddings.to(self.device))
        z = latents(range(len(made)), self.config.generator.z_dim).to(self.device)
        histograms = {
            "logit_real": discriminator_logits(self.discriminator, eval_set.pixels, condition),
            "logit_fake": discriminator_logits(
                self.discriminator, made.permute(0, 3, 1, 2), condition
            ),
            "w_norm": self.ema.network.mapping(z).norm(dim=1),
            "condition_clip_i_sim": (seen * eval_set.embeddings).sum(dim=1),
        }
        return Evaluation(metrics | self._real_metrics, reference, {"samples": image}, histograms)

    @functools.cached_property
    def _real_metrics(self) -> dict[str, float]:
        """The same at each evaluation."""
        return real_metrics(self.eval_set, self._embed_pixels)

    def _embed_pixels(self, images: Tensor) -> Tensor:
        return embed_uint8(self.clip, images)


def _is_finite(norm: Tensor) -> bool:
    """The one thing that a step waits for on a GPU: an optimizer's step cannot be taken back."""
    return bool(norm.isfinite())


def check_captions(config: GanTrainConfig, count: int) -> None:
    """InputError where captions are asked for and there are none."""
    if config.caption_share > 0 and not count:
        raise InputError(
            "caption_share is set, but no training image has a caption. Add captions, or leave "
            "it out."
        )


def _check_shares(config: GanTrainConfig) -> None:
    """InputError unless the processes can share a batch in whole groups."""
    processes, group = distributed.world_size(), config.discriminator.group
    share, rest = divmod(config.batch, processes)
    if rest or (processes > 1 and share % group):
        raise InputError(
            f"A batch of {config.batch} is not shared by {processes} processes in groups of "
            f"{group}, over which the minibatch standard deviation runs. Choose a --batch that is "
            f"a multiple of {processes * group}."
        )
