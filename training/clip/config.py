"""What a training of a small CLIP needs besides the images."""

from dataclasses import dataclass, field
from typing import Any, Literal

from training.config import RunConfig, positive


@dataclass(frozen=True)
class ClipModelConfig:
    """Architecture, in open_clip's terms: an image tower and its text transformer."""

    embed_dim: int = 128
    image_size: int = 64  # pixels
    vision: str = "resnet"  # open_clip's modified ResNet; "vit"; or a timm network by name
    resnet_layers: tuple[int, int, int, int] = (2, 2, 2, 2)  # bottleneck blocks a stage
    resnet_width: int = 24
    vit_layers: int = 6
    vit_width: int = 192
    vit_patch: int = 8  # pixels
    timm_pool: str = "avg"
    timm_projection: Literal["linear", "mlp"] = "linear"
    timm_dropout: float = 0.0  # before the projection
    context_length: int = 32  # tokens
    text_width: int = 192
    text_heads: int = 6
    text_layers: int = 3

    @property
    def is_timm(self) -> bool:
        """Whether the image tower is one of timm's, which may begin with pretrained weights."""
        return self.vision not in ("resnet", "vit")

    @staticmethod
    def of(config: dict[str, Any]) -> "ClipModelConfig | None":
        """The architecture of a `model_cfg` that `open_clip_config` wrote; None for another."""
        vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
        named = {
            "embed_dim": config.get("embed_dim"),
            "image_size": vision.get("image_size"),
            "vit_layers": vision.get("layers"),
            "vit_width": vision.get("width"),
            "vit_patch": vision.get("patch_size"),
            "timm_pool": vision.get("timm_pool"),
            "timm_projection": vision.get("timm_proj"),
            "timm_dropout": vision.get("timm_drop"),
            "context_length": text.get("context_length"),
            "text_width": text.get("width"),
            "text_heads": text.get("heads"),
            "text_layers": text.get("layers"),
        }
        named["vision"] = vision.get("timm_model_name", "vit")
        if isinstance(vision.get("layers"), list):
            named |= {"vision": "resnet", "vit_layers": None, "vit_width": None}
            named |= {"resnet_layers": tuple(vision["layers"]), "resnet_width": vision.get("width")}
        found = ClipModelConfig(**{name: value for name, value in named.items() if value})
        return found if found.open_clip_config() == config else None

    def open_clip_config(self) -> dict[str, Any]:
        """The `model_cfg` of an open_clip_config.json."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {"image_size": self.image_size, **self._vision()},
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": 49408,
                "width": self.text_width,
                "heads": self.text_heads,
                "layers": self.text_layers,
            },
        }

    def _vision(self) -> dict[str, Any]:
        if self.vision == "resnet":
            return {
                "layers": list(self.resnet_layers),
                "width": self.resnet_width,
                "head_width": 32,
            }
        if self.vision == "vit":
            return {
                "layers": self.vit_layers,
                "width": self.vit_width,
                "patch_size": self.vit_patch,
                "head_width": 32,
            }
        return {
            "timm_model_name": self.vision,
            "timm_pool": self.timm_pool,
            "timm_proj": self.timm_projection,
            "timm_drop": self.timm_dropout,
        }


@dataclass(frozen=True)
class TeacherConfig:
    """How the text tower is trained on the embeddings of a sentence encoder, where --text-teacher
    gives one.
    """

    hidden: int = 512  # of the layers that map the teacher's embedding to that of images
    dropout: float = 0.3
    noise: float = 0.5  # added to the teacher's unit embedding: its length
    num_texts: int = 256  # of --texts, a step, beside the batch's captions
    own_weight: float = 0.5  # of the text tower's own comparison with images
    distillation_weight: float = 10.0  # of 1 - cosine of the text tower to the head


@dataclass(frozen=True)
class ClipTrainConfig:
    """Everything `train-clip` needs besides the images."""

    model: ClipModelConfig = field(default_factory=ClipModelConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    run: RunConfig = field(
        default_factory=lambda: RunConfig(
            kimg=600, log_kimg=5, evaluate_kimg=50, checkpoint_kimg=25
        )
    )
    batch: int = 256
    learning_rate: float = 1e-3
    # of a pretrained image tower, which stays as it is for the first `frozen_kimg`
    pretrained_learning_rate: float = 3e-4
    frozen_kimg: float = 0.0
    warmup_kimg: float = 20.0
    schedule_kimg: float = 600.0  # where the cosine decay of the learning rate ends
    weight_decay: float = 0.2
    label_smoothing: float = 0.1
    word_vector_decay: float = 0.2  # weight decay of the token embedding
    augment_strength: float = 1.0  # of scale, shift and rotation
    # of brightness, contrast and saturation: captions speak of colours and skin tones
    colour_strength: float = 1.0
    # of a batch: images of the same thing by another name as one in it, such as its skin tones
    sibling_share: float = 0.0
    thumbnail_weight: float = 0.0  # of the loss that an image's colours can be told by
    ema_half_life_kimg: float = 20.0
    num_evaluation: int = 1000
    hold_out: bool = True  # keep the held-out sixth (training/data/split.py) for evaluation
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of activations while training
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "batch", "learning_rate", "pretrained_learning_rate")
        positive(self, "warmup_kimg", "schedule_kimg", "num_evaluation")
        if not 0 <= self.sibling_share < 1 or self.thumbnail_weight < 0:
            raise ValueError("sibling_share must be from 0 to below 1, thumbnail_weight at least 0")
