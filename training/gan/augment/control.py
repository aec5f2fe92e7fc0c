"""How often augmentations happen while a training runs (arXiv:2006.06676, section 3)."""

import torch
from torch import Tensor, nn

from training.gan.augment.config import AugmentConfig

AVERAGED = 256  # samples over which the mean sign of D's logits is taken


class AugmentControl(nn.Module):
    """The probability of each transformation while a training runs (section 3)."""

    probability: Tensor
    overfitting: Tensor
    speed_kimg: Tensor

    def __init__(self, config: AugmentConfig, *, speed_kimg: float):
        """`speed_kimg` is of the run's beginning: a run that is made longer keeps it."""
        super().__init__()
        self.config = config
        start = config.probability if config.control == "fixed" else 0.0
        self.register_buffer("probability", torch.tensor(start))
        self.register_buffer("overfitting", torch.tensor(config.target))  # r_t, averaged
        self.register_buffer("speed_kimg", torch.tensor(speed_kimg))

    def update(self, sign: Tensor, *, samples: int) -> None:
        """After a step on `samples`, of whose real logits `sign` [] is the mean sign: up where D is
        surer of its training images than the target, else down.
        """
        self.overfitting.lerp_(sign, min(samples / AVERAGED, 1.0))
        if self.config.control == "fixed":
            return
        step = samples / (self.speed_kimg * 1000)
        if self.config.control == "adaptive":
            step = step * torch.sign(self.overfitting - self.config.target)
        self.probability.add_(step).clamp_(0.0, self.config.probability)
