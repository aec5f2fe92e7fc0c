"""CLIPs with random weights that have the layout of published ones: ViT-B-32's input, its 77 tokens
and its means.
"""

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CustomTextCLIP

from lafite_shifted.encoders.clip import ClipEncoder
from training.clip.config import ClipModelConfig
from training.clip.save import save_clip

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 224,
        "layers": 2,
        "width": 64,
        "head_width": 16,
        "patch_size": 32,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


def save_small_clip(
    folder: Path,
    *,
    seed: int = 0,
    custom_text: bool = False,
    image_size: int | tuple[int, int] = 224,
    **preprocess: Any,
) -> Path:
    """Write open_clip_config.json and weights into `folder`; `preprocess` overrides open_clip's."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(MODEL_CONFIG)
    config["vision_cfg"]["image_size"] = image_size
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (CustomTextCLIP if custom_text else CLIP)(**config)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    if custom_text:
        config["custom_text"] = True
    means = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    record = {"model_cfg": config, "preprocess_cfg": means | {"size": image_size} | preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def load_resnet_clip() -> ClipEncoder:
    """A shallow ResNet with random weights and as many dimensions as the shipped CLIP: rounding,
    which differs with the size of a batch, stays small behind few layers.
    """
    config = ClipModelConfig(
        embed_dim=256,
        image_size=64,
        resnet_layers=(1, 1, 1, 1),
        resnet_width=8,
        text_width=16,
        text_heads=2,
        text_layers=1,
    )
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save_clip(CLIP(**config.open_clip_config()), config, Path(folder))
        return ClipEncoder.load(folder)
