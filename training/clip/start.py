"""What a CLIP begins with beside random numbers: another CLIP, or an image tower that knows more
and a teacher; and what config.json records of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import weights_digest
from lafite_shifted.encoders.timm_weights import check_timm_name, load_timm
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json
from lafite_shifted.io.starter import STARTER, starter_clip
from torch_utils import seeds
from training.clip.config import ClipModelConfig, ClipTrainConfig
from training.clip.teacher import SentenceEncoder, read_texts

WHEEL = "wheel"  # --image-weights of the network's own package


@dataclass(frozen=True)
class ClipStart:
    """An image tower's weights by their names in timm, a teacher, texts to ask it for; or the
    weights of a whole CLIP.
    """

    image_weights: Mapping[str, Tensor] | None = None
    teacher: SentenceEncoder | None = None
    texts: Sequence[str] = ()
    record: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Tensor] | None = None

    @staticmethod
    def of(
        config: ClipTrainConfig,
        *,
        init: str | None = None,
        image_weights: str | None,
        teacher: str | None,
        texts: Path | None,
        device: torch.device,
    ) -> "ClipStart":
        """From the flags of `train-clip`; InputError says which cannot be used, and why."""
        _check(config, init=init, image_weights=image_weights, teacher=teacher, texts=texts)
        record, lines = dict[str, str](), list[str]()
        whole, weights, encoder = None, None, None
        if init is not None:
            whole = ClipEncoder.load(init).model.state_dict()
            record["init"] = weights_digest(whole)
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
        return ClipStart(weights, encoder, lines, record, whole)

    def apply(self, model: nn.Module) -> list[nn.Parameter]:
        """Fill a CLIP in place; the parameters of the image tower that were pretrained."""
        tower: Any = model.visual
        if self.weights is not None:
            try:
                model.load_state_dict(self.weights)
            except RuntimeError as error:
                raise InputError(
                    "--init: that CLIP has other layers than the --set model.... here ask for. "
                    "Leave them out; only model.image_size and model.timm_dropout may differ."
                ) from error
            return list(getattr(tower, "trunk", tower).parameters())
        if self.image_weights is not None:
            own = tower.trunk.state_dict()
            tower.trunk.load_state_dict({name: self.image_weights[name] for name in own})
            return list(tower.trunk.parameters())
        return []


def architecture_of(init: str) -> ClipModelConfig:
    """That of the CLIP called `init`: `starter`, or a folder that `train-clip` wrote; InputError
    for another.
    """
    folder = starter_clip() if init == STARTER else Path(init).expanduser()
    file = folder / "open_clip_config.json"
    if not file.is_file():
        raise InputError(
            f"--init {init}: a folder of a CLIP was expected, such as RUN/clip, with its "
            "open_clip_config.json; or `starter`."
        )
    record = read_json(file)
    found = ClipModelConfig.of(record.get("model_cfg", {})) if isinstance(record, dict) else None
    if found is None:
        raise InputError(
            f"--init {init}: `train-clip` makes no CLIP of this architecture, and cannot go on "
            "from it. Give one that it made."
        )
    return found


def _check(
    config: ClipTrainConfig,
    *,
    init: str | None,
    image_weights: str | None,
    teacher: str | None,
    texts: Path | None,
) -> None:
    if init is not None and image_weights is not None:
        raise InputError("--init has an image tower, and --image-weights are another. Give one.")
    if config.model.is_timm:
        check_timm_name(config.model.vision, flag="model.vision", other="`resnet`, `vit`, ")
    if image_weights is not None and not config.model.is_timm:
        raise InputError(
            f"--image-weights are of a timm network, and model.vision is {config.model.vision}. "
            "Give --set model.vision=NAME, such as tf_efficientnet_lite0."
        )
    if config.frozen_kimg > 0 and not (config.model.is_timm and (image_weights or init)):
        raise InputError(
            "frozen_kimg keeps the pretrained weights of a timm network, and there are none. Give "
            "--image-weights, or leave frozen_kimg out."
        )
    if texts is not None and teacher is None:
        raise InputError("--texts are for a teacher to embed. Give --text-teacher as well.")
