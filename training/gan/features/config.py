"""What a discriminator on frozen features needs."""

import math
from dataclasses import dataclass

from training.config import positive

CLIP_TOWER = "clip"


@dataclass(frozen=True)
class FeatureConfig:
    """Heads on the stages of a frozen network, beside the discriminator of pixels."""

    # "clip": the image tower that conditions the run (the first of several); else a timm name
    backbone: str | None = None  # None: pixels alone
    weights: str | None = None  # file of a timm network: .safetensors or .pth
    # powers of two, of the stages that are read; where a network has one stride, as many blocks
    strides: tuple[int, ...] = (4, 8, 16)
    resolution: int | None = None  # pixels; None: see `pick_resolution`
    channels: int = 64  # of a head
    weight: float = 0.3  # of the mean loss of the heads, in both steps
    contrast_weight: float = 0.0  # of InfoNCE of the heads' features against the condition
    # of G's mean distance to its condition's own image on the maps (arXiv:1603.08155)
    matching_weight: float = 0.0
    r1_gamma: float = 0.0  # of the heads' gradients with respect to what they take, at R1's steps
    start_kimg: float = 0.0  # of a run that pixels alone begin

    def __post_init__(self) -> None:
        positive(self, "channels")
        if self.resolution is not None:
            positive(self, "resolution")
        for name in ("weight", "contrast_weight", "matching_weight", "r1_gamma", "start_kimg"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not self.strides or min(self.strides) < 1 or len(set(self.strides)) < len(self.strides):
            raise ValueError(f"strides must be different and at least 1, not {self.strides}")
        if self.weights is not None and self.backbone in (None, CLIP_TOWER):
            raise ValueError(
                "weights is the file of a timm network: name it in features.backbone, or leave "
                "features.weights out"
            )

    @property
    def is_on(self) -> bool:
        """Whether there are heads."""
        return self.backbone is not None

    def acts(self, samples_seen: int) -> bool:
        """Whether they take part in the step after so many samples."""
        return self.is_on and samples_seen >= self.start_kimg * 1000
