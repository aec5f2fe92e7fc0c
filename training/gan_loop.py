"""Training the decoder on pictures alone: StyleGAN2 (arXiv:1912.04958) with Lafite's conditioning
and contrastive losses (arXiv:2111.13792), each picture's own CLIP embedding being its condition.

Shape letters: N batch, D embedding, Z latent, R resolution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lafite_shifted.clip import ClipEncoder
from lafite_shifted.discriminator import Discriminator, DiscriminatorConfig, conditional_logit
from lafite_shifted.files import atomic_file
from lafite_shifted.generator import Generator, GeneratorConfig, to_uint8
from lafite_shifted.model_folder import save_generator
from lafite_shifted.pseudo_text import pseudo_text
from lafite_shifted.stats import EmbeddingStats, Gaussian
from torch_utils import seeds
from torch_utils.device import pick_dtype
from torch_utils.ema import Ema
from training.augment import NUM_DRAWS, diff_augment
from training.config import RunConfig, positive
from training.gan_data import GanData
from training.grids import conditions_grid
from training.losses import discriminator_loss, generator_loss, info_nce, mean_kept, r1_penalty
from training.metrics import mean_cosine, set_distance


@dataclass(frozen=True)
class GanTrainConfig:
    """Everything `train-gan` needs besides the pictures."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    run: RunConfig = field(default_factory=RunConfig)
    batch: int = 32
    learning_rate: float = 0.0025
    beta2: float = 0.99  # beta1 is 0
    r1_gamma: float | None = None  # None: 0.0002 R^2 / batch
    r1_every: int = 16  # steps between R1 terms, each weighing r1_every
    contrast_weight: float = 0.5  # D-side: f_s(x) against the condition
    contrast_temperature: float = 0.3
    clip_weight: float = 0.0  # CLIP-side: CLIP(G) against the condition
    clip_temperature: float = 0.1
    pseudo_text_cosine: float = 0.9  # between an embedding and its pseudo text
    pseudo_text_shape: Literal["gaussian", "isotropic"] = (
        "gaussian"  # direction from Sigma^{1/2} n, or from n
    )
    condition_dropout: float = 0.1  # share of samples conditioned on the mean embedding
    augment_strength: float = 1.0  # translation, colour, cutout; 0 switches it off
    ema_half_life_kimg: float | None = None  # None: batch 10 / 32
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of activations while training
    hold_out: bool = True  # keep the held-out sixth (training/split.py) for evaluation
    seed: int = 0

    def __post_init__(self) -> None:
        positive(
            self, "batch", "learning_rate", "r1_every", "contrast_temperature", "clip_temperature"
        )
        for name in ("contrast_weight", "clip_weight", "augment_strength"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not (0 <= self.gamma < math.inf and 0 <= self.beta2 < 1 and self.half_life_kimg > 0):
            raise ValueError(
                "r1_gamma must be at least 0, beta2 in [0, 1), ema_half_life_kimg above 0"
            )
        if not 0 <= self.pseudo_text_cosine <= 1:
            raise ValueError(f"pseudo_text_cosine must be in [0, 1], not {self.pseudo_text_cosine}")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), not {self.condition_dropout}")
        if self.generator.resolution != self.discriminator.resolution:
            raise ValueError(
                "generator.resolution and discriminator.resolution must agree (use --resolution)"
            )

    @property
    def gamma(self) -> float:
        """R1 weight: arXiv:2006.06676's heuristic unless it is set."""
        return (
            0.0002 * self.generator.resolution**2 / self.batch
            if self.r1_gamma is None
            else self.r1_gamma
        )

    @property
    def gamma_reason(self) -> str:
        return (
            "by the preset or --set" if self.r1_gamma is not None else "0.0002 resolution^2 / batch"
        )

    @property
    def half_life_kimg(self) -> float:
        return self.batch * 10 / 32 if self.ema_half_life_kimg is None else self.ema_half_life_kimg


@dataclass(frozen=True)
class Batch:
    """What one step works on: everything keyed by (seed, position of the sample)."""

    real: Tensor  # [N, 3, R, R] in [-1, 1]
    z: Tensor  # [N, Z]
    noise: Tensor  # [N, num_noise]
    pseudo: Tensor  # [N, D] h', unit
    condition: Tensor  # [N, D] h' standardised, zero where dropped
    keep: Tensor  # [N] bool: condition not dropped
    augment_real: Tensor  # [N, NUM_DRAWS]
    augment_fake: Tensor  # [N, NUM_DRAWS]


class GanTrainer:
    """One step: D on real and generated pictures, lazily R1, then G."""

    def __init__(
        self, config: GanTrainConfig, data: GanData, clip: ClipEncoder, *, device: torch.device
    ):
        self.config, self.data, self.clip, self.device = config, data, clip, device
        self.batch = config.batch
        torch.manual_seed(seeds.seed_of(config.seed, "gan weights"))
        self.generator = Generator(config.generator).to(device)
        self.discriminator = Discriminator(config.discriminator).to(device)
        dtype = pick_dtype(config.dtype, device)
        self.generator.compute_dtype = self.discriminator.compute_dtype = dtype
        self.ema = Ema(self.generator, half_life=config.half_life_kimg * 1000)
        self.ema.network.compute_dtype = dtype
        self.stats = EmbeddingStats.of(data.embeddings, data.encoder_id)
        self.standardiser = Gaussian.from_stats(self.stats, kind="diagonal").to(device)
        shaped = config.pseudo_text_shape == "gaussian"
        self.noise_shape = Gaussian.from_stats(self.stats).to(device) if shaped else None
        options = {
            "lr": config.learning_rate,
            "betas": (0.0, config.beta2),
            "eps": 1e-8,
            "fused": True,
        }
        self.g_optimizer = Adam(self.generator.parameters(), **options)
        self.d_optimizer = Adam(self.discriminator.parameters(), **options)

    def parts(self) -> Mapping[str, nn.Module | Optimizer]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema.network,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
        }

    def draw(self, samples_seen: int) -> Batch:
        """The batch of the samples [samples_seen, samples_seen + batch)."""
        config, device = self.config, self.device
        positions = range(samples_seen, samples_seen + self.batch)
        rows = seeds.epoch_indices(
            positions, size=len(self.data.pixels), key=(config.seed, "pictures")
        )
        h = self.data.embeddings[rows].to(device)
        sizes = [config.generator.z_dim, self.generator.num_noise, h.shape[1]]
        normal = seeds.normal_per_sample(
            (sum(sizes),), key=(config.seed, "normal"), indices=positions
        ).to(device)
        uniform = seeds.uniform_per_sample(
            (1 + 2 * NUM_DRAWS,), key=(config.seed, "uniform"), indices=positions
        )
        uniform = uniform.to(device)
        z, noise, perturbation = normal.split(sizes, dim=1)
        pseudo = pseudo_text(
            h, perturbation, cosine=config.pseudo_text_cosine, gaussian=self.noise_shape
        )
        keep = uniform[:, 0] >= config.condition_dropout
        return Batch(
            real=self.data.pixels[rows].to(device).float() / 127.5 - 1,
            z=z,
            noise=noise,
            pseudo=pseudo,
            condition=self.standardiser.standardise(pseudo) * keep[:, None],
            keep=keep,
            augment_real=uniform[:, 1 : 1 + NUM_DRAWS],
            augment_fake=uniform[:, 1 + NUM_DRAWS :],
        )

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        batch = self.draw(samples_seen)
        logged = self._discriminator_step(
            batch, regularise=(samples_seen // self.batch) % self.config.r1_every == 0
        )
        logged |= self._generator_step(batch)
        self.ema.update(self.generator, batch=self.batch, samples_seen=samples_seen + self.batch)
        return logged

    def _discriminator_step(self, batch: Batch, *, regularise: bool) -> dict[str, Tensor]:
        config = self.config
        with torch.no_grad():
            fake = self.generator(batch.z, batch.condition, noise=batch.noise)
            fake = diff_augment(fake, batch.augment_fake, strength=config.augment_strength)
            real = diff_augment(batch.real, batch.augment_real, strength=config.augment_strength)
        # one pass over both halves would mix them in the minibatch statistics of consecutive
        # samples: N is kept apart
        real_realness, real_feature = self.discriminator(real)
        fake_realness, fake_feature = self.discriminator(fake)
        real_logit = conditional_logit(real_realness, real_feature, batch.condition)
        fake_logit = conditional_logit(fake_realness, fake_feature, batch.condition)
        loss = discriminator_loss(real_logit, fake_logit).mean()
        contrast = self._contrast(real_feature, batch)
        self.d_optimizer.zero_grad(set_to_none=True)
        (loss + config.contrast_weight * contrast).backward()
        logged = {
            "loss_d": loss.detach(),
            "contrast_real": contrast.detach(),
            "logit_real": real_logit.detach().mean(),
            "logit_fake": fake_logit.detach().mean(),
        }
        if regularise:
            pictures = real.detach().requires_grad_(True)
            realness, feature = self.discriminator(pictures)
            logit = conditional_logit(realness, feature, batch.condition)
            penalty = r1_penalty(logit, pictures).mean()
            (penalty * (config.gamma / 2 * config.r1_every)).backward()
            logged["r1_penalty"] = penalty.detach()
        self.d_optimizer.step()
        return logged

    def _generator_step(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        self.discriminator.requires_grad_(False)
        w = self.generator.mapping(batch.z)
        self.generator.mapping.track(w.detach())
        pictures = self.generator.synthesise(w, batch.condition, noise=batch.noise)
        fake = diff_augment(pictures, batch.augment_fake, strength=config.augment_strength)
        realness, feature = self.discriminator(fake)
        loss = generator_loss(conditional_logit(realness, feature, batch.condition)).mean()
        contrast = self._contrast(feature, batch)
        total = loss + config.contrast_weight * contrast
        logged = {"loss_g": loss.detach(), "contrast_fake": contrast.detach()}
        if config.clip_weight > 0:
            seen = self.clip.embed_images(pictures)
            terms = info_nce(
                seen, batch.pseudo, temperature=config.clip_temperature, keep=batch.keep
            )
            clip_contrast = mean_kept(terms, batch.keep)
            total = total + config.clip_weight * clip_contrast
            logged["clip_contrast"] = clip_contrast.detach()
        self.g_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        return logged

    def _contrast(self, feature: Tensor, batch: Batch) -> Tensor:
        temperature = self.config.contrast_temperature
        terms = info_nce(feature, batch.condition, temperature=temperature, keep=batch.keep)
        return mean_kept(terms, batch.keep)

    # --- evaluation

    @torch.no_grad()
    def render(self, embeddings: Tensor, *, first_seed: int = 0) -> Tensor:
        """Pictures [N, R, R, 3] uint8 of the averaged generator, seeds from `first_seed` on."""
        parts = []
        for start in range(0, len(embeddings), 64):
            h = embeddings[start : start + 64].to(self.device)
            indices = range(first_seed + start, first_seed + start + len(h))
            z = seeds.normal_per_sample(
                (self.config.generator.z_dim,), key=("z",), indices=indices
            ).to(self.device)
            parts.append(to_uint8(self.ema.network(z, self.standardiser.standardise(h))))
        return torch.cat(parts)

    @torch.no_grad()
    def evaluate(self, samples_seen: int, folder: Path) -> Mapping[str, float]:
        """Frechet distance in CLIP space and the cosine of CLIP(G(h)) to h; writes a grid and
        `folder/generator`.
        """
        training = {
            "kimg": round(samples_seen / 1000, 3),
            "num_pictures": len(self.data.pixels),
            "pseudo_text_cosine": self.config.pseudo_text_cosine,
        }
        save_generator(folder / "generator", self.ema.network, self.stats, training=training)
        has_held_out = len(self.data.held_out_pixels) >= 16
        real_pixels = self.data.held_out_pixels if has_held_out else self.data.pixels
        real = (self.data.held_out_embeddings if has_held_out else self.data.embeddings)[:512]
        made = self.render(real)
        shown = min(8, len(real))
        grid = conditions_grid(
            real_pixels[:shown].permute(0, 2, 3, 1),
            [self.render(real[:shown], first_seed=1000 * k) for k in range(3)],
        )
        path = folder / "grids" / f"samples-{samples_seen:010d}.png"
        with atomic_file(path) as file:
            grid.save(file, format="PNG")
        seen = self._embed_pixels(made)
        where = "held_out" if has_held_out else "training"
        return {
            f"{where}_frechet": set_distance(seen, real),
            f"{where}_cosine": mean_cosine(seen, real),
        }

    def _embed_pixels(self, pictures: Tensor) -> Tensor:
        parts = [
            self.clip.embed_images(part.permute(0, 3, 1, 2)).cpu() for part in pictures.split(64)
        ]
        return torch.cat(parts)
