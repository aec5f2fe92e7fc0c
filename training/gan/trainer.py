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
from lafite_shifted.decoder.loaded import latents
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import DivergedError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.png import save_png
from lafite_shifted.model_folder import best_metric, save_generator
from torch_utils import distributed, seeds
from torch_utils.device import pick_dtype
from torch_utils.ema import RAMP as EMA_RAMP
from torch_utils.ema import Ema
from torch_utils.lagged import Lagged
from torch_utils.loss_scale import LossScale
from torch_utils.sending import to_device
from training.gan.augment.control import AugmentControl
from training.gan.batch import Batch, BatchSampler
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
from training.gan.features.backbone import Backbone
from training.gan.features.terms import FeatureTerms
from training.gan.step import GanSteps
from training.gan.transfer import Start, freeze
from training.metrics.distances import few_samples_note
from training.run_folder import Evaluation

PATH_LENGTH_DECAY = 0.01  # arXiv:1912.04958, appendix B
MAX_SKIPPED = 20  # steps in a row whose gradients are not finite
IMAGES_EVERY = 64  # steps between reports of images that cannot be read, of several processes


class Running(nn.Module):
    """What a training carries from step to step, beside weights and moments. What the host must
    know of a step it learns two steps later.
    """

    path_length_mean: Tensor
    skipped_in_a_row: Tensor

    def __init__(self, config: GanTrainConfig) -> None:
        super().__init__()
        self.register_buffer("path_length_mean", torch.zeros(()))
        self.register_buffer("skipped_in_a_row", torch.zeros(()))
        self.skipped = Lagged(0.0)  # in a row, after the step
        self.sign = Lagged(config.augment.target)  # mean of D's real logits


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
        backbone: Backbone | None = None,
    ):
        """`backbone` is what `config.features` names."""
        assert (backbone is not None) == config.features.is_on
        self.config, self.data, self.clip, self.device = config, data, clip, device
        self.batch = config.batch
        torch.manual_seed(seeds.seed_of(config.seed, "gan weights"))
        self.generator = Generator(config.generator).to(device)
        self.discriminator = Discriminator(config.discriminator).to(device)
        dtype = pick_dtype(config.dtype, device)
        self.features = backbone and FeatureTerms.of(config, backbone, dtype=dtype, device=device)
        networks = self.generator, self.discriminator
        self.origin = start.origin if start else {}
        self.kept = start.apply(*networks, data.encoder_id) if start else []  # lines to show
        if start and self.features:
            self.kept += start.apply_heads(self.features, data.encoder_id)
        freeze(config, *networks)
        self.generator.compute_dtype = self.discriminator.compute_dtype = dtype
        self.generator.activation_checkpointing = self.discriminator.activation_checkpointing = (
            config.activation_checkpointing
        )
        # weights that are no random ones need not be forgotten soon
        ramp = math.inf if start else EMA_RAMP
        self.ema = Ema(self.generator, half_life=config.half_life_kimg * 1000, ramp=ramp)
        self.ema.network.compute_dtype = dtype
        self.running = Running(config).to(device)
        self.augment = AugmentControl(config.augment, speed_kimg=config.augment_speed_kimg)
        self.stats = EmbeddingStats.of(data.embeddings, data.encoder_id)
        self.batches = BatchSampler(
            config, data, self.stats, num_noise=self.generator.num_noise, device=device
        )
        self.eval_set = EvalSet.of(data)
        few = few_samples_note(*self.eval_set.embeddings.shape)
        self.notes = [few] if few else []  # lines to show
        self.g_scale, self.d_scale = LossScale(dtype).to(device), LossScale(dtype).to(device)
        if backbone is not None:
            self.notes.append(f"features       {config.features.backbone}: {backbone.describe()}")
        self.steps = GanSteps(config, *networks, clip, self.g_scale, self.d_scale, self.features)
        # Lazy R1 and path lengths join the gradients of an ordinary step, so Adam's learning rate
        # and betas stay as they are. StyleGAN2's correction by k / (k + 1), for a term with a step
        # of its own, made no difference beyond that of the seed (docs/gan.md).
        self.g_optimizer = self._adam([*self.generator.parameters()])
        self.d_optimizer = self._adam(self.steps.judging_parameters())

    def _adam(self, parameters: list[nn.Parameter]) -> Adam:
        config = self.config
        betas = (0.0, config.beta2)
        return Adam(parameters, lr=config.step_size, betas=betas, eps=1e-8, fused=True)

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for data, so far."""
        return self.batches.waited

    def parts(self) -> Mapping[str, nn.Module | Optimizer]:
        """Everything with state, by name."""
        heads = {"heads": self.features.heads} if self.features else {}
        return heads | {
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
        return self.batches.sample(samples_seen, augment_probability=self.augment.probability)

    def _is_due(self, samples_seen: int, every: int) -> bool:
        return (samples_seen // self.batch) % every == 0

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        """One step of D and one of G; scalars to log, `skipped` being 1 where the gradients of one
        are not finite, which then does not move. DivergedError after MAX_SKIPPED in a row.
        """
        config, batch = self.config, self.sample_batch(samples_seen)
        ada_p = torch.tensor(self.augment.probability)
        self._learn_of_earlier_steps()
        following = samples_seen + self.batch
        self.batches.prefetch(following, augment_probability=self.augment.probability)
        rate, with_features = config.step_size_at(samples_seen), config.features.acts(samples_seen)
        for optimizer in (self.d_optimizer, self.g_optimizer):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        self._sync_images(samples_seen)
        seen = self.steps.see(batch, with_features=with_features)
        logged = self.steps.discriminator_gradients(
            batch,
            regularise=self._is_due(samples_seen, config.r1_every),
            with_features=with_features,
            seen=seen,
        )
        d_skipped = self._apply(self.d_optimizer, self.d_scale)
        lengths_are_due = config.lengths_are_due(samples_seen)
        mean = self.running.path_length_mean if lengths_are_due else None
        of_generator, w_mean = self.steps.generator_gradients(
            batch, path_length_mean=mean, with_features=with_features, seen=seen
        )
        g_skipped = self._apply(self.g_optimizer, self.g_scale)
        self._track(logged["ada_rt"], of_generator.get("path_length"), w_mean)
        self.ema.update(self.generator, batch=self.batch, samples_seen=following)
        skipped = torch.maximum(d_skipped, g_skipped)
        in_a_row = self.running.skipped_in_a_row
        in_a_row.add_(1).mul_(skipped)
        self.running.skipped.put(in_a_row)
        more = {"ada_p": ada_p, "skipped": skipped, "replaced": batch.replaced.float().mean()}
        if config.learning_rate_decay_kimg > 0:
            more["learning_rate"] = torch.tensor(rate)
        return logged | of_generator | more

    def _learn_of_earlier_steps(self) -> None:
        """What the host has of the step before the last: D's sign, and whether steps were taken."""
        self.augment.update(self.running.sign.take(), samples=self.batch)
        if self.running.skipped.take() >= MAX_SKIPPED:
            raise DivergedError(
                f"Training diverged: the gradients of {MAX_SKIPPED} steps in a row were not "
                "finite. The last checkpoint is intact; start a new run with a lower learning "
                "rate or a higher R1 gamma."
            )

    def _sync_images(self, samples_seen: int) -> None:
        """Tell other processes of images that cannot be read; rarely, since all wait for it."""
        if distributed.world_size() == 1 or self._is_due(samples_seen, IMAGES_EVERY):
            self.data.images.sync()

    def _apply(self, optimizer: Optimizer, scale: LossScale) -> Tensor:
        """Take the step unless a gradient is not finite, then 1: gradients are the same in all
        processes, and so is what the device decides (as for scaled losses, by `found_inf`).
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        overflowed = (~norm.isfinite()).float()
        optimizer.grad_scale, optimizer.found_inf = scale.divisor, overflowed  # type: ignore
        optimizer.step()
        scale.update(overflowed)
        return overflowed

    @torch.no_grad()
    def _track(self, sign: Tensor, length: Tensor | None, w_mean: Tensor) -> None:
        """Averages over steps; what is not finite moves none of them."""
        sign = sign.clone()
        distributed.all_reduce_mean([sign])
        self.running.sign.put(torch.where(sign.isfinite(), sign, self.config.augment.target))
        if length is not None:
            length, mean = length.clone(), self.running.path_length_mean
            distributed.all_reduce_mean([length])
            mean.lerp_(torch.where(length.isfinite(), length, mean), PATH_LENGTH_DECAY)
        average = self.generator.mapping.w_average
        self.generator.mapping.track(torch.where(w_mean.isfinite(), w_mean, average))

    # --- evaluation

    @torch.no_grad()
    def render(self, embeddings: Tensor, *, first_seed: int = 0) -> Tensor:
        """Images [N, R, R, 3] uint8 of the EMA generator, seeds from `first_seed` on."""
        parts = []
        for start in range(0, len(embeddings), 64):
            h = to_device(embeddings[start : start + 64], self.device)
            indices = range(first_seed + start, first_seed + start + len(h))
            z = to_device(latents(indices, self.config.generator.z_dim), self.device)
            parts.append(to_uint8(self.ema.network(z, self.batches.standardiser.standardise(h))))
        return torch.cat(parts)

    @torch.no_grad()
    def evaluate(self, samples_seen: int, folder: Path) -> Evaluation:
        """Metrics of the EMA generator (see `training.gan.evaluate`); writes a grid and
        `folder/generator`, and `folder/best/generator` where the kernel distance, which few images
        do not bias, is the smallest so far of the same reference.
        """
        training = {
            "kimg": round(samples_seen / 1000, 3),
            **self.origin,
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
        h = to_device(eval_set.embeddings, self.device)
        condition = self.batches.standardiser.standardise(h)
        z = to_device(latents(range(len(made)), self.config.generator.z_dim), self.device)
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
