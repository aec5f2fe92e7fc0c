"""A CLIP as a folder in open_clip's own layout."""

from pathlib import Path

from torch import nn

from lafite_shifted.io.files import save_tensors, write_json
from training.clip.config import ClipModelConfig

MEAN = (0.5, 0.5, 0.5)  # images in [-1, 1]
STD = (0.5, 0.5, 0.5)


def save_clip(model: nn.Module, config: ClipModelConfig, folder: Path) -> None:
    """Write float16 weights and open_clip_config.json: a folder that open_clip's `local-dir:`
    loads.
    """
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    save_tensors(folder / "open_clip_model.safetensors", tensors, {})
    preprocess = {"size": config.image_size, "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    write_json(
        folder / "open_clip_config.json",
        {
            "model_cfg": config.open_clip_config(),
            "preprocess_cfg": preprocess | {"resize_mode": "shortest"},
        },
    )
