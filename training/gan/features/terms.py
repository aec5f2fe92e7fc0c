"""What the heads on frozen features add to the losses of D and of G.

Shape letters: N samples, D embedding, R resolution, S heads.
"""

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
    """Images [N, 3, R, R] are those that the discriminator of pixels takes, augmented; losses are
    means over the heads.
    """

    config: GanTrainConfig
    backbone: Backbone
    heads: FeatureDiscriminator

    def of_discriminator(self, real: Tensor, fake: Tensor, part: Batch, sums: Sums) -> Tensor:
        """The weighted loss of the heads; the images are constants."""
        config = self.config
        with torch.no_grad():
            real_maps, fake_maps = self.backbone(real), self.backbone(fake)
        real_realness, real_feature = self.heads(real_maps)  # [S, N], [S, N, D]
        real_logit = conditional_logit(real_realness, real_feature, part.condition)
        fake_logit = conditional_logit(*self.heads(fake_maps), part.condition)
        terms = adversarial_d(config.adversarial, real_logit, fake_logit).mean(dim=0)
        loss = sums.add("loss_d_features", terms)
        if config.mismatch_weight > 0:
            wrong = conditional_logit(real_realness, real_feature, part.mismatch)
            terms = mismatch_loss(wrong, part.keep).mean(dim=0)
            loss = loss + config.mismatch_weight * sums.add("mismatch_features", terms)
        sums.add("logit_real_features", real_logit.detach().mean(dim=0))
        sums.add("logit_fake_features", fake_logit.detach().mean(dim=0))
        return config.features.weight * loss

    def of_generator(self, real: Tensor | None, fake: Tensor, part: Batch, sums: Sums) -> Tensor:
        """The weighted loss of G; `real` images where losses are of pairs."""
        fake_logit = conditional_logit(*self.heads(self.backbone(fake)), part.condition)
        real_logit = None
        if real is not None:
            with torch.no_grad():
                real_logit = conditional_logit(*self.heads(self.backbone(real)), part.condition)
        terms = adversarial_g(self.config.adversarial, real_logit, fake_logit).mean(dim=0)
        return self.config.features.weight * sums.add("loss_g_features", terms)
