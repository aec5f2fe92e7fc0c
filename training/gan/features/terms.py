"""What the heads on frozen features add to the losses of D and of G.

Shape letters: N samples, D embedding, R resolution, S heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lafite_shifted.decoder.discriminator import conditional_logit
from training.gan.batch import Batch
from training.gan.config import GanTrainConfig
from training.gan.features.backbone import Backbone
from training.gan.features.heads import FeatureDiscriminator
from training.gan.losses import adversarial_d, adversarial_g, mismatch_loss
from training.gan.sums import Sums


@dataclass(frozen=True)
class FeatureTerms:
    """Maps [N, C, H, W] are those of the images that the discriminator of pixels takes, augmented;
    losses and features are means over the heads.
    """

    config: GanTrainConfig
    backbone: Backbone
    heads: FeatureDiscriminator

    @staticmethod
    def of(
        config: GanTrainConfig, backbone: Backbone, *, dtype: torch.dtype, device: torch.device
    ) -> "FeatureTerms":
        """With new heads, whose activations are in `dtype`."""
        heads = FeatureDiscriminator(
            backbone.channels,
            backbone.sizes,
            channels=config.features.channels,
            condition_dim=config.discriminator.condition_dim,
        )
        heads.compute_dtype = dtype
        return FeatureTerms(config, backbone, heads.to(device))

    def of_discriminator(
        self,
        real_maps: Sequence[Tensor],
        fake_maps: Sequence[Tensor],
        part: Batch,
        sums: Sums,
        *,
        r1_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted loss of the heads, and the feature [N, D] of real images. Maps are
        constants. With `r1_scale`, that of the losses, the heads' R1 is added, of the maps that
        they take: none of it passes the frozen network.
        """
        config = self.config
        penalised = r1_scale is not None and config.features.r1_gamma > 0
        real_maps = [x.detach().requires_grad_(penalised) for x in real_maps]
        if penalised:  # the penalty's graph is of real images alone
            real_realness, real_feature = self.heads(real_maps)  # [S, N], [S, N, D]
            fake_realness, fake_feature = self.heads(fake_maps)
        else:
            both = [torch.cat(maps) for maps in zip(real_maps, fake_maps, strict=True)]
            realness, feature = self.heads(both)  # [S, 2 N], [S, 2 N, D]
            real_realness, fake_realness = realness.chunk(2, dim=1)
            real_feature, fake_feature = feature.chunk(2, dim=1)
        real_logit = conditional_logit(real_realness, real_feature, part.condition)
        fake_logit = conditional_logit(fake_realness, fake_feature, part.condition)
        terms = adversarial_d(config.adversarial, real_logit, fake_logit).mean(dim=0)
        loss = sums.add("loss_d_features", terms)
        if config.mismatch_weight > 0:
            wrong = conditional_logit(real_realness, real_feature, part.mismatch)
            terms = mismatch_loss(wrong, part.keep).mean(dim=0)
            loss = loss + config.mismatch_weight * sums.add("mismatch_features", terms)
        if penalised:
            assert r1_scale is not None
            terms = maps_penalty(real_logit * r1_scale, real_maps) / r1_scale.square()
            penalty = sums.add("r1_penalty_features", terms)
            loss = loss + config.features.r1_gamma / 2 * config.r1_every * penalty
        sums.add("logit_real_features", real_logit.detach().mean(dim=0))
        sums.add("logit_fake_features", fake_logit.detach().mean(dim=0))
        return config.features.weight * loss, real_feature.mean(dim=0)

    def of_generator(
        self, real_maps: Sequence[Tensor], fake_maps: Sequence[Tensor], part: Batch, sums: Sums
    ) -> tuple[Tensor, Tensor]:
        """The weighted loss of G, and the feature [N, D] of generated images. With a
        `matching_weight`, the distance of their maps to those of their condition's own image too.
        """
        config = self.config
        realness, feature = self.heads(fake_maps)
        fake_logit, real_logit = conditional_logit(realness, feature, part.condition), None
        if config.adversarial == "relativistic":
            with torch.no_grad():
                real_logit = self.logit(real_maps, part.condition)
        terms = adversarial_g(config.adversarial, real_logit, fake_logit).mean(dim=0)
        loss = config.features.weight * sums.add("loss_g_features", terms)
        if config.features.matching_weight > 0:
            # images that are not conditioned on anything may be any
            distance = torch.where(part.keep, maps_distance(fake_maps, real_maps), 0.0)
            matching = sums.add("loss_matching", distance)
            loss = loss + config.features.matching_weight * matching
        return loss, feature.mean(dim=0)

    def logit(self, maps: Sequence[Tensor], condition: Tensor) -> Tensor:
        """[S, N] of images with these maps, under conditions [N, D]."""
        realness, feature = self.heads(maps)
        return conditional_logit(realness, feature, condition)

    def feature(self, images: Tensor) -> Tensor:
        """[N, D] of images."""
        return self.heads(self.backbone(images))[1].mean(dim=0)


def maps_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Mean |a - b| over each of S pairs of maps [N, C, H, W], the mean over pairs, [N]."""
    gaps = [(x.float() - y.float()).abs().mean(dim=(1, 2, 3)) for x, y in zip(a, b, strict=True)]
    return torch.stack(gaps).mean(dim=0)


def maps_penalty(logit: Tensor, maps: list[Tensor]) -> Tensor:
    """|grad D(x)|^2 with respect to each head's own map, the mean over heads, [N]: logit [S, N]."""
    found = torch.autograd.grad(logit.sum(), maps, create_graph=True)
    squares = [gradient.float().square().sum(dim=(1, 2, 3)) for gradient in found]
    return torch.stack(squares).mean(dim=0)
