"""How strong each augmentation is, and how often it happens (arXiv:2006.06676, section 2)."""

import math
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class AugmentConfig:
    """How strong each transformation is, 0 being off, and how often it happens."""

    control: Literal["adaptive", "ramp", "fixed"] = "adaptive"
    probability: float = 0.8  # fixed: of each; ramp: where it ends; adaptive: never above
    target: float = 0.6  # adaptive: mean sign of D's logits of real images
    speed_kimg: float | None = None  # from 0 to 1; None: 500, in runs below 1000 kimg 50
    flip: float = 1.0  # 1: sideways
    turn: float = 1.0  # 1: by quarter turns
    shift: float = 0.125  # of the side at most, whole pixels
    scale: float = 0.2  # spread of log2
    rotate: float = 1.0  # of half a turn at most, either way
    stretch: float = 0.2  # spread of log2 of width over height
    drift: float = 0.125  # spread in sides, fractions of pixels
    brightness: float = 0.2  # spread; images have 2 from black to white
    contrast: float = 0.5  # spread of log2
    luma_flip: float = 1.0  # 1: light and dark change places, hues stay
    hue: float = 1.0  # of half a turn at most, either way
    saturation: float = 1.0  # spread of log2
    filter: float = 0.0  # spread of log2 of four frequency bands' gains; 1 in the paper
    noise: float = 0.0  # spread of the spread; 0.1 in the paper
    cutout: float = 0.0  # side of a grey square over the image's; 0.5 in the paper

    def __post_init__(self) -> None:
        for name in TRANSFORMATIONS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if max(self.flip, self.turn, self.rotate, self.luma_flip, self.hue, self.cutout) > 1:
            raise ValueError("flip, turn, rotate, luma_flip, hue and cutout are 1 at most")
        if not (0 <= self.probability <= 1 and -1 < self.target < 1):
            raise ValueError("probability must be in [0, 1] and target in (-1, 1)")
        if self.speed_kimg is not None and not 0 < self.speed_kimg < math.inf:
            raise ValueError(f"speed_kimg must be above 0, not {self.speed_kimg}")

    @property
    def is_on(self) -> bool:
        """Whether any transformation can happen."""
        return self.probability > 0 and any(getattr(self, name) for name in TRANSFORMATIONS)


GEOMETRY = ("flip", "turn", "shift", "scale", "rotate", "stretch", "drift")
COLOUR = ("brightness", "contrast", "luma_flip", "hue", "saturation")
TRANSFORMATIONS = (*GEOMETRY, *COLOUR, "filter", "noise", "cutout")
_OFF = replace(AugmentConfig("fixed", 0.0), **dict.fromkeys(TRANSFORMATIONS, 0.0))

AUGMENTATIONS: dict[str, AugmentConfig] = {
    "ada": AugmentConfig(),
    # translation, colour and cutout, always (arXiv:2006.10738), with the spreads of that paper
    "diffaugment": replace(
        _OFF,
        probability=1.0,
        shift=0.125,
        brightness=0.29,
        contrast=0.42,
        saturation=1.0,
        cutout=0.5,
    ),
    "off": _OFF,
}
