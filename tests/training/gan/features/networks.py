"""Small networks with random weights, of the kinds that published ones are."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

from tests.small_clip import MODEL_CONFIG
from training.gan.features.config import FeatureConfig

NAME = "test_efficientnet"  # timm's own, for tests


def random_timm(name: str = NAME, *, seed: int = 0) -> nn.Module:
    """A network whose batch norms do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name, pretrained=False)
        randomise_batch_norms(network)
    return network.eval()


def randomise_batch_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)


def save_timm(path: Path, name: str = NAME, *, seed: int = 0) -> Path:
    """Its weights as a file, .safetensors or .pth by the suffix."""
    tensors = dict(random_timm(name, seed=seed).state_dict())
    save_weights(path, tensors)
    return path


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)


def save_timm_clip(folder: Path) -> Path:
    """A CLIP whose image tower is timm's, as `--clip` takes it."""
    folder.mkdir(parents=True)
    tower = {"timm_model_name": NAME, "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    config: dict[str, Any] = MODEL_CONFIG | {"vision_cfg": tower}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CustomTextCLIP(**config)
        randomise_batch_norms(model)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    record = {"model_cfg": config | {"custom_text": True}, "preprocess_cfg": {"size": 64}}
    (folder / "open_clip_config.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def features_of(path: Path, **changes: Any) -> FeatureConfig:
    """The network in `path`, small."""
    options: dict[str, Any] = {"resolution": 32, "channels": 8, "strides": (4, 8)}
    return FeatureConfig(backbone=NAME, weights=str(path), **(options | changes))
