"""One step of D and one of G, on the samples of a batch that this process has, in micro-batches.

Every term is a mean over the whole batch, of all processes: a sample's part is divided by the
samples of this process, and gradients are averaged over processes afterwards. The contrastive
terms compare a sample with all others: there a process differentiates its own rows of the whole
comparison, the others' being constants, and the parts add up.

Shape letters: N samples of this process, A of all, D embedding, Z latent, R resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lafite_shifted.decoder.discriminator import Discriminator, conditional_logit
from lafite_shifted.decoder.generator import Generator
from lafite_shifted.encoders.clip import ClipEncoder
from torch_utils import distributed
from torch_utils.loss_scale import LossScale
from training.gan.augment.augment import augment
from training.gan.batch import Batch
from training.gan.config import GanTrainConfig
from training.gan.losses import (
    discriminator_loss,
    generator_loss,
    info_nce,
    mean_kept,
    mismatch_loss,
    path_lengths,
    r1_penalty,
    relativistic_loss,
)


class Contrast:
    """InfoNCE of features [A, D] against conditions over the whole batch, of which a micro-batch
    has its own rows with gradients.
    """

    def __init__(self, condition: Tensor, keep: Tensor, *, temperature: float):
        self.temperature = temperature
        self.condition = distributed.all_gather_rows(condition)  # [A, D]
        self.keep = distributed.all_gather_rows(keep.to(torch.uint8)).bool()  # gloo has no bool
        self.first = distributed.rank() * len(condition)
        self.features: Tensor | None = None  # [A, D], constants

    def prepare(self, features: Tensor) -> None:
        """The features [N, D] of all samples of this process."""
        self.features = distributed.all_gather_rows(features.detach())

    def loss(self, features: Tensor, place: slice) -> Tensor:
        """The whole loss, with gradients of the rows at `place` of this process alone."""
        if self.features is None:
            self.prepare(features)  # a batch in one piece
        assert self.features is not None
        start, end = self.first + place.start, self.first + place.stop
        rows = torch.cat([self.features[:start], features, self.features[end:]])
        terms = info_nce(rows, self.condition, temperature=self.temperature, keep=self.keep)
        return mean_kept(terms, self.keep)


class Sums:
    """Scalars of a step: means over the samples of this process."""

    def __init__(self, count: int):
        self.count, self.values = count, dict[str, Tensor]()

    def add(self, name: str, terms: Tensor) -> Tensor:
        """The part of terms [n] in the mean over all samples; logged without its graph."""
        part = terms.sum() / self.count
        self.values[name] = self.values.get(name, 0.0) + part.detach()
        return part


Score = Callable[[Batch, Tensor], tuple[Tensor, Tensor]]  # realness and feature of images


@dataclass(frozen=True)
class GanSteps:
    """The networks, and gradients of their losses."""

    config: GanTrainConfig
    generator: Generator
    discriminator: Discriminator
    clip: ClipEncoder
    g_scale: LossScale  # gradients are left multiplied by these
    d_scale: LossScale

    def discriminator_gradients(self, batch: Batch, *, regularise: bool) -> dict[str, Tensor]:
        """Fill the gradients of D, averaged over all samples and times `d_scale`; scalars to
        log.
        """
        config, sums = self.config, Sums(len(batch))
        contrast = self._contrast(batch, lambda part: self._score_real(part, part.real)[1])
        for place, part in batch.parts(config.micro_batch or len(batch)):
            with torch.no_grad():
                fake = self._generate(part)
            # real and generated apart: the minibatch statistics are of consecutive samples
            real_realness, real_feature = self._score_real(part, part.real)
            fake_realness, fake_feature = self._score_fake(part, fake)
            real_logit = conditional_logit(real_realness, real_feature, part.condition)
            fake_logit = conditional_logit(fake_realness, fake_feature, part.condition)
            loss = sums.add("loss_d", self._d_terms(real_logit, fake_logit))
            if config.mismatch_weight > 0:
                wrong = conditional_logit(real_realness, real_feature, part.mismatch)
                terms = mismatch_loss(wrong, part.keep)
                loss = loss + config.mismatch_weight * sums.add("mismatch", terms)
            if contrast is not None:
                value = contrast.loss(real_feature, place)
                sums.values["loss_infonce_real"] = value.detach()
                loss = loss + config.contrast_weight * distributed.world_size() * value
            (loss * self.d_scale.scale).backward()
            sums.add("logit_real", real_logit.detach())
            sums.add("logit_fake", fake_logit.detach())
            pairs = config.adversarial == "relativistic"
            sums.add("ada_rt", (real_logit - fake_logit * pairs).detach().sign())
            if regularise:
                self._regularise(self._score_real, part.real, part, sums, "r1_penalty")
                if config.r2:
                    self._regularise(self._score_fake, fake, part, sums, "r2_penalty")
        distributed.all_reduce_mean(p.grad for p in self.discriminator.parameters())
        return sums.values

    def generator_gradients(
        self, batch: Batch, *, path_length_mean: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Fill the gradients of G, averaged over all samples and times `g_scale`; scalars to log,
        and the mean w [V]. Path lengths are held to `path_length_mean`, where it is given.
        """
        config, sums = self.config, Sums(len(batch))
        trainable = [p for p in self.discriminator.parameters() if p.requires_grad]
        self.discriminator.requires_grad_(False)
        w_mean = torch.zeros_like(self.generator.mapping.w_average)
        contrast = self._contrast(
            batch, lambda part: self._score_fake(part, self._generate(part))[1]
        )
        by_clip = self._clip_contrast(batch)
        for place, part in batch.parts(config.micro_batch or len(batch)):
            w = self.generator.mapping(part.z)
            w_mean = w_mean + w.detach().sum(dim=0) / len(batch)
            images = self.generator.synthesise(w, part.condition, noise=part.noise)
            realness, feature = self._score_fake(part, images)
            logit = conditional_logit(realness, feature, part.condition)
            loss = sums.add("loss_g", self._g_terms(logit, part))
            if contrast is not None:
                value = contrast.loss(feature, place)
                sums.values["loss_infonce_fake"] = value.detach()
                loss = loss + config.contrast_weight * distributed.world_size() * value
            if by_clip is not None:
                value = by_clip.loss(self.clip.embed_images(images), place)
                sums.values["loss_infonce_clip"] = value.detach()
                loss = loss + config.clip_weight * distributed.world_size() * value
            (loss * self.g_scale.scale).backward()
            if path_length_mean is not None:
                self._path_lengths(part, path_length_mean, sums)
        for parameter in trainable:
            parameter.requires_grad_(True)
        distributed.all_reduce_mean(p.grad for p in self.generator.parameters())
        distributed.all_reduce_mean([w_mean])
        return sums.values, w_mean

    # --- parts

    def _generate(self, part: Batch) -> Tensor:
        return self.generator(part.z, part.condition, noise=part.noise)

    def _score_real(self, part: Batch, images: Tensor) -> tuple[Tensor, Tensor]:
        """Realness and feature of images, augmented as real ones are."""
        return self._score(part, images, part.augment_real, part.augment_noise[:, :1])

    def _score_fake(self, part: Batch, images: Tensor) -> tuple[Tensor, Tensor]:
        return self._score(part, images, part.augment_fake, part.augment_noise[:, 1:])

    def _score(
        self, part: Batch, images: Tensor, uniform: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        augmented = augment(
            images,
            uniform,
            config=self.config.augment,
            probability=part.augment_probability,
            noise=noise.flatten(1, 2) if noise.numel() else None,
        )
        return self.discriminator(augmented)

    def _d_terms(self, real_logit: Tensor, fake_logit: Tensor) -> Tensor:
        if self.config.adversarial == "relativistic":
            return relativistic_loss(real_logit, fake_logit)
        return discriminator_loss(real_logit, fake_logit)

    def _g_terms(self, fake_logit: Tensor, part: Batch) -> Tensor:
        if self.config.adversarial == "relativistic":
            with torch.no_grad():
                realness, feature = self._score_real(part, part.real)
                real_logit = conditional_logit(realness, feature, part.condition)
            return relativistic_loss(fake_logit, real_logit)
        return generator_loss(fake_logit)

    def _contrast(self, batch: Batch, feature: Callable[[Batch], Tensor]) -> Contrast | None:
        """D-side; where there are micro-batches, all features are computed beforehand."""
        if self.config.contrast_weight == 0:
            return None
        temperature = self.config.contrast_temperature
        contrast = Contrast(batch.condition, batch.keep, temperature=temperature)
        self._prepare(contrast, batch, feature)
        return contrast

    def _clip_contrast(self, batch: Batch) -> Contrast | None:
        """CLIP-side: the images' embeddings against the pseudo texts."""
        if self.config.clip_weight == 0:
            return None
        contrast = Contrast(batch.pseudo, batch.keep, temperature=self.config.clip_temperature)

        def embed(part: Batch) -> Tensor:
            return self.clip.embed_images(self._generate(part))

        self._prepare(contrast, batch, embed)
        return contrast

    @torch.no_grad()
    def _prepare(
        self, contrast: Contrast, batch: Batch, feature: Callable[[Batch], Tensor]
    ) -> None:
        size = self.config.micro_batch or len(batch)
        if size < len(batch):
            contrast.prepare(torch.cat([feature(part) for _, part in batch.parts(size)]))

    def _regularise(self, score: Score, images: Tensor, part: Batch, sums: Sums, name: str) -> None:
        """The gradient penalty of images before they are augmented."""
        leaf = images.detach().requires_grad_(True)
        realness, feature = score(part, leaf)
        logit = conditional_logit(realness, feature, part.condition)
        scale = self.d_scale.scale
        penalty = sums.add(name, r1_penalty(logit * scale, leaf) / scale.square())
        (penalty * (scale * self.config.gamma / 2 * self.config.r1_every)).backward()

    def _path_lengths(self, part: Batch, mean: Tensor, sums: Sums) -> None:
        """StyleGAN2, section 3.2: all directions of w should change an image alike."""
        w = self.generator.mapping(part.z).requires_grad_()  # of a frozen mapping too
        images = self.generator.synthesise(w, part.condition, noise=part.noise)
        scale = self.g_scale.scale
        lengths = path_lengths(images, w, part.path_noise * scale) / scale
        sums.add("path_length", lengths.detach())
        penalty = sums.add("path_length_penalty", (lengths - mean).square())
        weight = self.config.path_length_weight * self.config.path_length_every
        (penalty * (weight * self.g_scale.scale)).backward()
