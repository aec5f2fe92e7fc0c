"""One step of D and one of G, on the samples of a batch that this process has, in micro-batches.

Every term is a mean over the whole batch, of all processes: a sample's part is divided by the
samples of this process, and gradients are averaged over processes afterwards. The contrastive
terms compare a sample with all others: there a process differentiates its own rows of the whole
comparison, the others' being constants, and the parts add up.

Shape letters: N samples of this process, D embedding, Z latent, R resolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lafite_shifted.decoder.discriminator import Discriminator, conditional_logit
from lafite_shifted.decoder.generator import Generator
from lafite_shifted.encoders.clip import ClipEncoder
from torch_utils import distributed
from torch_utils.loss_scale import LossScale
from training.gan.augment.augment import augment
from training.gan.batch import Batch
from training.gan.config import GanTrainConfig
from training.gan.contrast import Contrast
from training.gan.features.terms import FeatureTerms
from training.gan.losses import (
    adversarial_d,
    adversarial_g,
    mismatch_loss,
    path_lengths,
    pixel_distance,
    r1_penalty,
)
from training.gan.sums import Sums


class Seen(NamedTuple):
    """What the judges see of samples: generated and real images, augmented alike. What came from G
    has its graph.
    """

    w: Tensor  # [N, V]
    images: Tensor  # [N, 3, R, R] generated, not augmented
    fake: Tensor  # [N, 3, R, R]
    real: Tensor
    fake_maps: list[Tensor]  # S maps of the frozen network; none where it takes no part
    real_maps: list[Tensor]

    def constant(self) -> "Seen":
        """Without its graph."""
        return Seen(*(_detached(value) for value in self))


def _detached(value: Tensor | list[Tensor]) -> Any:
    return [x.detach() for x in value] if isinstance(value, list) else value.detach()


@dataclass(frozen=True)
class GanSteps:
    """The networks, and gradients of their losses."""

    config: GanTrainConfig
    generator: Generator
    discriminator: Discriminator
    clip: ClipEncoder
    g_scale: LossScale  # gradients are left multiplied by these
    d_scale: LossScale
    features: FeatureTerms | None = None  # of a discriminator on frozen features, beside D

    def see(self, batch: Batch, *, with_features: bool = False) -> Seen | None:
        """What both steps judge: D learns nothing that changes G. None where the batch is taken in
        pieces, whose graphs are not all kept.
        """
        if (self.config.micro_batch or len(batch)) < len(batch):
            return None
        return self._see(batch, self.features if with_features else None)

    def discriminator_gradients(
        self,
        batch: Batch,
        *,
        regularise: bool,
        with_features: bool = False,
        seen: Seen | None = None,
    ) -> dict[str, Tensor]:
        """Fill the gradients of D, averaged over all samples and times `d_scale`, and of the heads
        on features if they take part; scalars to log.
        """
        config, sums = self.config, Sums(len(batch))
        features = self.features if with_features else None
        contrast = self._contrast(
            batch, "loss_infonce_real", lambda part: self._score(part, part.real)[1]
        )
        by_features = features and self._feature_contrast(
            batch, "real", lambda part: self._augment(part, part.real)
        )
        for place, part in batch.parts(config.micro_batch or len(batch)):
            judged = self._see_constant(part, features) if seen is None else seen.constant()
            realness, feature = self.discriminator(torch.cat([judged.real, judged.fake]), kinds=2)
            real_realness, fake_realness = realness.chunk(2)
            real_feature, fake_feature = feature.chunk(2)
            real_logit = conditional_logit(real_realness, real_feature, part.condition)
            fake_logit = conditional_logit(fake_realness, fake_feature, part.condition)
            loss = sums.add("loss_d", adversarial_d(config.adversarial, real_logit, fake_logit))
            if features is not None:
                of_heads, feature = features.of_discriminator(
                    judged.real_maps,
                    judged.fake_maps,
                    part,
                    sums,
                    r1_scale=self.d_scale.scale if regularise else None,
                )
                loss = loss + of_heads
                if by_features is not None:
                    loss = loss + by_features.term(feature, place, sums)
            if config.mismatch_weight > 0:
                wrong = conditional_logit(real_realness, real_feature, part.mismatch)
                terms = mismatch_loss(wrong, part.keep)
                loss = loss + config.mismatch_weight * sums.add("mismatch", terms)
            if contrast is not None:
                loss = loss + contrast.term(real_feature, place, sums)
            (loss * self.d_scale.scale).backward()
            sums.add("logit_real", real_logit.detach())
            sums.add("logit_fake", fake_logit.detach())
            pairs = config.adversarial == "relativistic"
            sums.add("ada_rt", (real_logit - fake_logit * pairs).detach().sign())
            if regularise:
                self._regularise(part.real, part, sums, "r1_penalty")
                if config.r2:
                    self._regularise(judged.images, part, sums, "r2_penalty")
        distributed.all_reduce_mean(p.grad for p in self.judging_parameters())
        return sums.values

    def judging_parameters(self) -> list[nn.Parameter]:
        """Of D, and of the heads on features."""
        heads = self.features.heads.parameters() if self.features is not None else ()
        return [*self.discriminator.parameters(), *heads]

    def generator_gradients(
        self,
        batch: Batch,
        *,
        path_length_mean: Tensor | None,
        with_features: bool = False,
        seen: Seen | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Fill the gradients of G, averaged over all samples and times `g_scale`; scalars to log,
        and the mean w [V]. Path lengths are held to `path_length_mean`, where it is given.
        """
        config, sums = self.config, Sums(len(batch))
        trainable = [p for p in self.judging_parameters() if p.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        w_mean = torch.zeros_like(self.generator.mapping.w_average)
        features = self.features if with_features else None
        contrast = self._contrast(
            batch,
            "loss_infonce_fake",
            lambda part: self._score(part, self._constant_images(part))[1],
        )
        by_features = features and self._feature_contrast(
            batch, "fake", lambda part: self._augment(part, self._constant_images(part))
        )
        by_clip = self._clip_contrast(batch)
        for place, part in batch.parts(config.micro_batch or len(batch)):
            judged = self._see(part, features) if seen is None else seen
            w_mean = w_mean + judged.w.detach().sum(dim=0) / len(batch)
            realness, feature = self.discriminator(judged.fake)
            logit, real_logit = conditional_logit(realness, feature, part.condition), None
            if config.adversarial == "relativistic":
                real_logit = self._constant_logit(judged.real, part)
            loss = sums.add("loss_g", adversarial_g(config.adversarial, real_logit, logit))
            if contrast is not None:
                loss = loss + contrast.term(feature, place, sums)
            if features is not None:
                of_heads, feature = features.of_generator(
                    judged.real_maps, judged.fake_maps, part, sums
                )
                loss = loss + of_heads
                if by_features is not None:
                    loss = loss + by_features.term(feature, place, sums)
            if config.pixel_matching_weight > 0:
                gaps = torch.where(part.keep, pixel_distance(judged.fake, judged.real), 0.0)
                matching = sums.add("loss_pixel_matching", gaps)
                loss = loss + config.pixel_matching_weight * matching
            if by_clip is not None:
                loss = loss + by_clip.term(self.clip.embed_images(judged.images), place, sums)
            (loss * self.g_scale.scale).backward()
            if path_length_mean is not None:
                self._path_lengths(part, path_length_mean, sums)
        for parameter in trainable:
            parameter.requires_grad_(True)
        distributed.all_reduce_mean(p.grad for p in self.generator.parameters())
        distributed.all_reduce_mean([w_mean])
        return sums.values, w_mean

    # --- parts

    def _see(self, part: Batch, features: FeatureTerms | None) -> Seen:
        w, images = self._images(part)
        fake, real = self._augment(part, images), self._augment(part, part.real)
        fake_maps, real_maps = list[Tensor](), list[Tensor]()
        if features is not None:
            fake_maps = features.backbone(fake)
            with torch.no_grad():
                real_maps = features.backbone(real)
        return Seen(w, images, fake, real, fake_maps, real_maps)

    @torch.no_grad()
    def _see_constant(self, part: Batch, features: FeatureTerms | None) -> Seen:
        return self._see(part, features)

    def _images(self, part: Batch) -> tuple[Tensor, Tensor]:
        w = self.generator.mapping(part.z)
        return w, self.generator.synthesise(w, part.condition, noise=part.noise)

    @torch.no_grad()
    def _constant_images(self, part: Batch) -> Tensor:
        return self._images(part)[1]

    def _score(self, part: Batch, images: Tensor) -> tuple[Tensor, Tensor]:
        """Realness and feature of images, augmented."""
        return self.discriminator(self._augment(part, images))

    def _augment(self, part: Batch, images: Tensor) -> Tensor:
        return augment(images, part.augment, part.augment_noise)

    @torch.no_grad()
    def _constant_logit(self, seen: Tensor, part: Batch) -> Tensor:
        realness, feature = self.discriminator(seen)
        return conditional_logit(realness, feature, part.condition)

    def _contrast(
        self, batch: Batch, name: str, feature: Callable[[Batch], Tensor]
    ) -> Contrast | None:
        """D-side; where there are micro-batches, all features are computed beforehand."""
        weight, temperature = self.config.contrast_weight, self.config.contrast_temperature
        if weight == 0:
            return None
        options = {"temperature": temperature, "weight": weight, "name": name}
        return self._prepared(Contrast(batch.condition, batch.keep, **options), batch, feature)

    def _feature_contrast(
        self, batch: Batch, what: str, images: Callable[[Batch], Tensor]
    ) -> Contrast | None:
        """The same of the heads on frozen features, which take augmented `images`."""
        weight, features = self.config.features.contrast_weight, self.features
        if weight == 0 or features is None:
            return None
        options = {"temperature": self.config.contrast_temperature, "weight": weight}
        name = f"loss_infonce_{what}_features"
        contrast = Contrast(batch.condition, batch.keep, **options, name=name)
        return self._prepared(contrast, batch, lambda part: features.feature(images(part)))

    def _clip_contrast(self, batch: Batch) -> Contrast | None:
        """CLIP-side: the images' embeddings against the pseudo texts."""
        weight, temperature = self.config.clip_weight, self.config.clip_temperature
        if weight == 0:
            return None
        options = {"temperature": temperature, "weight": weight, "name": "loss_infonce_clip"}
        return self._prepared(
            Contrast(batch.pseudo, batch.keep, **options),
            batch,
            lambda part: self.clip.embed_images(self._constant_images(part)),
        )

    @torch.no_grad()
    def _prepared(
        self, contrast: Contrast, batch: Batch, feature: Callable[[Batch], Tensor]
    ) -> Contrast:
        size = self.config.micro_batch or len(batch)
        if size < len(batch):
            contrast.prepare(torch.cat([feature(part) for _, part in batch.parts(size)]))
        return contrast

    def _regularise(self, images: Tensor, part: Batch, sums: Sums, name: str) -> None:
        """The gradient penalty of images before they are augmented."""
        leaf = images.detach().requires_grad_(True)
        realness, feature = self._score(part, leaf)
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
