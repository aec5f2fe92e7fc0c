"""What a training of the decoder needs besides the images."""

import math
from dataclasses import dataclass, field
from typing import Literal

from lafite_shifted.decoder.discriminator import DiscriminatorConfig
from lafite_shifted.decoder.generator import GeneratorConfig
from training.config import RunConfig, positive
from training.data.decoding.crop import SquareConfig
from training.gan.augment.config import AugmentConfig
from training.gan.features.config import FeatureConfig
from training.gan.losses import Adversarial


@dataclass(frozen=True)
class GanTrainConfig:
    """Everything `train-gan` needs besides the images."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    images: SquareConfig = field(default_factory=SquareConfig)
    run: RunConfig = field(default_factory=RunConfig)
    batch: int = 32  # samples a step, over all processes
    micro_batch: int | None = None  # samples a backward pass; None: all of a process at once
    learning_rate: float | None = None  # None: 0.0025, from 1024 px on 0.002
    # of the end of the run, over which it falls to 0 in a straight line; another --kimg moves that
    learning_rate_decay_kimg: float = 0.0
    beta2: float = 0.99  # beta1 is 0
    # non-saturating, or of pairs that share their condition (arXiv:2501.05441)
    adversarial: Adversarial = "non_saturating"
    r1_gamma: float | None = None  # None: 0.0002 R^2 / batch
    r1_every: int = 16  # steps between R1 terms, each weighing r1_every
    r2: bool = False  # R1's term on generated images too
    path_length_weight: float = 0.0  # 2 in StyleGAN2; 0 switches it off
    path_length_every: int = 4
    mismatch_weight: float = 0.0  # D-side: real images under another's condition are wrong
    contrast_weight: float = 0.5  # D-side: f_s(x) against the condition
    contrast_temperature: float = 0.3
    # G-side: the mean distance of its image to its condition's own, each seen at 1/2, 1/4 and 1/8
    pixel_matching_weight: float = 0.0
    clip_weight: float = 0.0  # CLIP-side: CLIP(G) against the condition
    clip_temperature: float = 0.1
    pseudo_text_cosine: float = 0.9  # between an embedding and its pseudo text
    pseudo_text_shape: Literal["gaussian", "isotropic"] = (
        "gaussian"  # direction from Sigma^{1/2} n, or from n
    )
    caption_share: float = 0.0  # of captioned images, conditioned on a caption's embedding
    condition_dropout: float = 0.1  # share of samples conditioned on the mean embedding
    ema_half_life_kimg: float | None = None  # None: batch 10 / 32
    # of activations while training; float16 scales its losses, and clamps activations to 256
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    activation_checkpointing: bool = (
        False  # activations again for the gradient: less memory, more time
    )
    hold_out: bool = True  # keep the held-out sixth (training/data/split.py) for evaluation
    freeze_discriminator: int = 0  # blocks, from the image, that stay as --init gives them
    freeze_generator: Literal["mapping", "synthesis"] | None = None  # likewise
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "batch", "r1_every", "contrast_temperature", "clip_temperature")
        positive(self, "path_length_every")
        if self.learning_rate is not None:
            positive(self, "learning_rate")
        weights = ("contrast_weight", "clip_weight", "path_length_weight", "mismatch_weight")
        for name in (*weights, "learning_rate_decay_kimg"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not (0 <= self.gamma < math.inf and 0 <= self.beta2 < 1 and self.half_life_kimg > 0):
            raise ValueError(
                "r1_gamma must be at least 0, beta2 in [0, 1), ema_half_life_kimg above 0"
            )
        if not 0 <= self.pseudo_text_cosine <= 1:
            raise ValueError(f"pseudo_text_cosine must be in [0, 1], not {self.pseudo_text_cosine}")
        if not 0 <= self.caption_share <= 1:
            raise ValueError(f"caption_share must be in [0, 1], not {self.caption_share}")
        group = self.discriminator.group
        if self.batch % group:
            raise ValueError(
                f"batch must be a multiple of discriminator.group {group}, over which the "
                f"minibatch standard deviation runs, not {self.batch}; a group of 1 has none"
            )
        if self.micro_batch is not None and (self.micro_batch < 1 or self.micro_batch % group):
            raise ValueError(
                f"micro_batch must be a multiple of discriminator.group {group}, over which the "
                f"minibatch standard deviation runs, not {self.micro_batch}"
            )
        blocks = self.discriminator.num_blocks
        if not 0 <= self.freeze_discriminator <= blocks:
            raise ValueError(
                f"freeze_discriminator must be from 0 to {blocks}, the discriminator's blocks, not "
                f"{self.freeze_discriminator}"
            )
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), not {self.condition_dropout}")
        if self.generator.resolution != self.discriminator.resolution:
            raise ValueError(
                "generator.resolution and discriminator.resolution must agree (use --resolution)"
            )

    def lengths_are_due(self, samples_seen: int) -> bool:
        """Whether the step after so many samples regularises path lengths."""
        step = samples_seen // self.batch
        return self.path_length_weight > 0 and step % self.path_length_every == 0

    @property
    def gamma(self) -> float:
        """R1 weight: arXiv:2006.06676's heuristic unless it is set."""
        return (
            0.0002 * self.generator.resolution**2 / self.batch
            if self.r1_gamma is None
            else self.r1_gamma
        )

    @property
    def half_life_kimg(self) -> float:
        """Half-life of the EMA in kimg."""
        return self.batch * 10 / 32 if self.ema_half_life_kimg is None else self.ema_half_life_kimg

    @property
    def step_size(self) -> float:
        """Learning rate of both networks."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.0025 if self.generator.resolution < 1024 else 0.002

    def step_size_at(self, samples_seen: int) -> float:
        """Learning rate of the step after so many samples."""
        if self.learning_rate_decay_kimg == 0:
            return self.step_size
        left_kimg = self.run.kimg - samples_seen / 1000
        return self.step_size * min(1.0, left_kimg / self.learning_rate_decay_kimg)

    @property
    def augment_speed_kimg(self) -> float:
        """kimg in which the probability can rise from 0 to 1."""
        if self.augment.speed_kimg is not None:
            return self.augment.speed_kimg
        return 500.0 if self.run.kimg >= 1000 else 50.0

    def reasons(self) -> list[str]:
        """A line for each default that is computed or that users look for: the value, and why."""
        given = "by the preset or --set"
        gamma = given if self.r1_gamma is not None else "0.0002 resolution^2 / batch"
        half_life = given if self.ema_half_life_kimg is not None else "10 kimg at batch 32"
        rate = given if self.learning_rate is not None else "StyleGAN2's; 0.002 from 1024 px on"
        if self.learning_rate_decay_kimg > 0:
            rate += f"; to 0 over the last {self.learning_rate_decay_kimg:g} kimg"
        pieces = "" if self.micro_batch is None else f", in pieces of {self.micro_batch}"
        return [
            f"R1 gamma       {self.gamma:.4g} ({gamma})",
            f"learning rate  {self.step_size:g} ({rate})",
            f"batch          {self.batch}{pieces} (by the preset or --batch-size; gamma and EMA "
            "follow)",
            f"EMA half-life  {self.half_life_kimg:g} kimg ({half_life})",
            f"augmentation   {self._augment_reason()}",
        ]

    def _augment_reason(self) -> str:
        augment = self.augment
        if not augment.is_on:
            return "off"
        if augment.control == "fixed":
            return f"each with probability {augment.probability:g}, always"
        speed = f"{self.augment_speed_kimg:g} kimg from 0 to 1"
        why = "by --set" if augment.speed_kimg else "50 in runs below 1000 kimg, else 500"
        if augment.control == "ramp":
            return f"probability rises to {augment.probability:g}, {speed} ({why})"
        return (
            f"probability follows overfitting (mean sign of D's real logits, target "
            f"{augment.target:g}; {augment.probability:g} at most), {speed} ({why})"
        )
