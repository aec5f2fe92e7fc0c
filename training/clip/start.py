"""What a CLIP begins with beside random numbers, and what config.json records of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import weights_digest
from lafite_shifted.encoders.timm_weights import check_timm_name, load_timm
from lafite_shifted.errors import InputError
from torch_utils import seeds
from training.clip.config import ClipTrainConfig
from training.clip.teacher import SentenceEncoder, read_texts

WHEEL = "wheel"  # --image-weights of the network's own package


@dataclass(frozen=True)
class ClipStart:
    """An image tower's weights by their names in timm, a teacher, and texts to ask it for."""

    image_weights: Mapping[str, Tensor] | None = None
    teacher: SentenceEncoder | None = None
    texts: Sequence[str] = ()
    record: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        config: ClipTrainConfig,
        *,
        image_weights: str | None,
        teacher: str | None,
        texts: Path | None,
        device: torch.device,
    ) -> "ClipStart":
        """From the flags of `train-clip`; InputError says which cannot be used, and why."""
        _check(config, image_weights=image_weights, teacher=teacher, texts=texts)
        record, weights, encoder, lines = dict[str, str](), None, None, list[str]()
        if texts is not None:
            lines = read_texts(texts)
            record["texts"] = f"{len(lines)}, {seeds.seed_of(*lines):016x}"
        if image_weights is not None:
            file = None if image_weights == WHEEL else image_weights
            network = load_timm(
                config.model.vision,
                file,
                flags=("model.vision", "--image-weights "),
            )
            weights = network.state_dict()
            record["image_weights"] = weights_digest(weights)
        if teacher is not None:
            encoder = SentenceEncoder.load(teacher, device=device)
            record["teacher"] = encoder.digest
        return ClipStart(weights, encoder, lines, record)


def _check(
    config: ClipTrainConfig, *, image_weights: str | None, teacher: str | None, texts: Path | None
) -> None:
    if config.model.is_timm:
        check_timm_name(config.model.vision, flag="model.vision", other="`resnet`, `vit`, ")
    if image_weights is not None and not config.model.is_timm:
        raise InputError(
            f"--image-weights are of a timm network, and model.vision is {config.model.vision}. "
            "Give --set model.vision=NAME, such as tf_efficientnet_lite0."
        )
    if config.frozen_kimg > 0 and image_weights is None:
        raise InputError(
            "frozen_kimg keeps pretrained weights, and there are none. Give --image-weights, or "
            "leave frozen_kimg out."
        )
    if texts is not None and teacher is None:
        raise InputError("--texts are for a teacher to embed. Give --text-teacher as well.")
