"""How often augmentations happen while a training runs (arXiv:2006.06676, section 3)."""

import torch
from torch import Tensor, nn

from training.gan.augment.config import AugmentConfig

AVERAGED = 256  # samples over which the mean sign of D's logits is taken


class AugmentControl(nn.Module):
    """The probability of each transformation while a training runs (section 3): numbers of the
    host, which prepares a step's augmentation before the one before it has ended.
    """

    def __init__(self, config: AugmentConfig, *, speed_kimg: float):
        """`speed_kimg` is of the run's beginning: a run that is made longer keeps it."""
        super().__init__()
        self.config = config
        self.probability = config.probability if config.control == "fixed" else 0.0
        self.overfitting = config.target  # r_t, averaged
        self.speed_kimg = speed_kimg

    def get_extra_state(self) -> Tensor:
        """The numbers as a tensor, for a checkpoint."""
        numbers = [self.probability, self.overfitting, self.speed_kimg]
        return torch.tensor(numbers, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Numbers of a checkpoint."""
        self.probability, self.overfitting, self.speed_kimg = state.tolist()

    def update(self, sign: float, *, samples: int) -> None:
        """For a step on `samples`, of whose real logits `sign` is the mean sign: up where D is
        surer of its training images than the target, else down.
        """
        self.overfitting += min(samples / AVERAGED, 1.0) * (sign - self.overfitting)
        if self.config.control == "fixed":
            return
        step = samples / (self.speed_kimg * 1000)
        if self.config.control == "adaptive":
            excess = self.overfitting - self.config.target
            step *= (excess > 0) - (excess < 0)
        self.probability = min(max(self.probability + step, 0.0), self.config.probability)
