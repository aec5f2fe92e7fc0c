"""A frozen network whose stages are read: what a discriminator on features takes for its input
(arXiv:2111.01007, arXiv:2112.09130).

Shape letters: N batch, C H W activation, R resolution of an image, S stages.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import weights_digest
from lafite_shifted.encoders.ensemble import ClipEnsemble
from lafite_shifted.encoders.timm_weights import load_timm
from lafite_shifted.errors import InputError
from torch_utils.batch_norm import fold_batch_norms
from training.gan.features.config import CLIP_TOWER, FeatureConfig

SMALLEST, LARGEST = 80, 224  # pixels that images are resized to, unless it is set


@dataclass(frozen=True)
class Trunk:
    """A network, and how it takes its images."""

    network: Any  # a module of open_clip's or timm's that has forward_intermediates
    mean: Sequence[float]  # of RGB in [0, 1]
    std: Sequence[float]
    size: int  # pixels that it was trained on

    @property
    def patch(self) -> int:
        """Pixels of a token of a transformer; 1 for others."""
        embed = getattr(self.network, "patch_embed", self.network)
        size = getattr(embed, "patch_size", 1)
        return int(size if isinstance(size, int) else size[0])

    def maps(self, x: Tensor, stages: list[int] | None) -> list[Tensor]:
        """The results of `stages` (None: of all) [N, C, H, W]; later ones are not computed. Those
        of a transformer pass its last norm, which is trained to bring out what a few channels of
        large values hide.
        """
        read, options = self.network.forward_intermediates, {"indices": stages}
        if isinstance(self.network, ModifiedResNet):  # computes no later stage unless told to stop
            return read(x, intermediates_only=True, **options)["image_intermediates"]
        options |= {"stop_early": True, "intermediates_only": True}
        if isinstance(self.network, VisionTransformer):
            return read(x, normalize_intermediates=True, **options)["image_intermediates"]
        return read(x, norm=True, **options)

    def resize(self, resolution: int) -> None:
        """Take images of other sizes: a transformer's table of positions is resampled, in place."""
        if isinstance(self.network, VisionTransformer):
            table, side = self.network.positional_embedding, resolution // self.patch
            grid = table[1:].T.unflatten(1, self.network.grid_size)  # [C, H, W]
            grid = F.interpolate(grid[None], size=(side, side), mode="bicubic", antialias=True)
            table = torch.cat([table[:1], grid[0].flatten(1).T])
            self.network.positional_embedding = nn.Parameter(table, requires_grad=False)
            self.network.grid_size = (side, side)
        elif hasattr(self.network, "set_input_size"):
            self.network.set_input_size(img_size=(resolution, resolution))


class Backbone(nn.Module):
    """Images [N, 3, R, R] in about [-1, 1] -> maps [N, C, H, W] of S stages, in evaluation mode,
    without gradients of its weights.

    A map is divided by its root mean square over a sample's channels and pixels: that needs no
    data, and no state beside the weights.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk, config: FeatureConfig, *, image_size: int):
        """`image_size` R, of the run; InputError where the stages or the resolution do not exist.
        `trunk` is changed.
        """
        super().__init__()
        # of the weights as they came
        digest = weights_digest(trunk.network.state_dict())
        self.resolution = pick_resolution(config, trunk, image_size=image_size)
        self.trunk = trunk
        self.network: nn.Module = trunk.network.eval().requires_grad_(False)
        example = torch.linspace(-2, 2, 3 * self.resolution**2).sin()  # of no random numbers
        example = example.view(1, 3, self.resolution, self.resolution)
        sizes = [found.shape[-1] for found in _all_maps(trunk, example, config)]
        self.stages = pick_stages(config, [self.resolution / size for size in sizes])
        fold_batch_norms(self.network, lambda: trunk.maps(example, self.stages))
        maps = trunk.maps(example, self.stages)
        self.channels = [found.shape[1] for found in maps]
        self.sizes = [found.shape[-1] for found in maps]
        self.record = {"weights": digest, "stages": self.stages}  # what config.json tells of it
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (trunk.mean, trunk.std))
        self.register_buffer("scale", 0.5 / std)  # [-1, 1] to (x - mean) / std
        self.register_buffer("shift", (0.5 - mean) / std)
        self.compute_dtype = torch.float32
        self.eval()

    @staticmethod
    def load(
        config: FeatureConfig,
        clip: ClipEncoder,
        *,
        image_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "Backbone | None":
        """What `config` names, None where it names nothing. In `dtype` on a GPU; in float32 on a
        CPU, where a backward pass through depthwise convolutions in bfloat16 takes twice as long.
        """
        if not config.is_on:
            return None
        with torch.no_grad():
            found = Backbone(_trunk_of(config, clip), config, image_size=image_size)
        found.compute_dtype = torch.float32 if device.type == "cpu" else dtype
        found.network.to(found.compute_dtype).to(memory_format=torch.channels_last)
        return found.to(device)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [N, 3, R, R] in about [-1, 1] -> S maps [N, C, H, W]."""
        x, size = images, (self.resolution, self.resolution)
        if x.shape[-2:] != size:
            smaller = x.shape[-1] > self.resolution
            x = F.interpolate(x, size=size, mode="bilinear", antialias=smaller)
        x = (x * self.scale + self.shift).to(self.compute_dtype, memory_format=torch.channels_last)
        maps = self.trunk.maps(x, self.stages)
        return [unit_second_moment(found) for found in maps]

    def describe(self) -> str:
        """A line for the user: where the heads look."""
        maps = zip(self.channels, self.sizes, strict=True)
        places = ", ".join(f"{channels} channels of {size}x{size}" for channels, size in maps)
        return f"{self.resolution} px, {places}"


def unit_second_moment(x: Tensor) -> Tensor:
    """x [N, C, H, W] over the root mean square of each sample."""
    return x * (x.float().square().mean(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt().to(x.dtype)


def pick_resolution(config: FeatureConfig, trunk: Trunk, *, image_size: int) -> int:
    """Pixels of the images that a trunk takes: those of the run, but 80 at least, and at most 224
    or what the trunk was trained on; in whole patches.
    """
    patch = trunk.patch
    if config.resolution is None:
        wanted = min(max(image_size, SMALLEST), LARGEST, trunk.size)
        return math.ceil(wanted / patch) * patch
    if config.resolution % patch:
        raise InputError(
            f"features.resolution={config.resolution}: {config.backbone} takes whole patches of "
            f"{patch} pixels. Give a multiple of {patch}."
        )
    return config.resolution


def pick_stages(config: FeatureConfig, strides: list[float]) -> list[int]:
    """Which of the stages with these strides are read: the last of each stride that is wanted; of a
    network with a single one as many as are wanted, evenly spaced, the last among them.
    """
    if len(set(strides)) == 1:
        count = min(len(config.strides), len(strides))
        return [round((i + 1) * len(strides) / count) - 1 for i in range(count)]
    # a power of two, but where maps are rounded up
    last = {2 ** round(math.log2(stride)): stage for stage, stride in enumerate(strides)}
    missing = [stride for stride in config.strides if stride not in last]
    if missing:
        raise InputError(
            f"features.strides: {config.backbone} has no stage of stride {missing[0]}. Choose from "
            f"{','.join(map(str, last))}."
        )
    return sorted(last[stride] for stride in config.strides)


def _all_maps(trunk: Trunk, example: Tensor, config: FeatureConfig) -> list[Tensor]:
    """Those of all stages, of images [N, 3, R, R] as large as wanted; InputError where the network
    cannot take them.
    """
    resolution = example.shape[-1]
    try:
        if resolution != trunk.size:
            trunk.resize(resolution)
        return trunk.maps(example, None)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"features.backbone={config.backbone} cannot take images of {resolution} pixels "
            f"({str(error)[:100]}). Give another --set features.resolution, such as {trunk.size}, "
            "on which it was trained, or another network."
        ) from error


def _trunk_of(config: FeatureConfig, clip: ClipEncoder) -> Trunk:
    """A network of its own: it will be changed."""
    if config.backbone != CLIP_TOWER:
        network = load_timm(
            config.backbone or "",
            config.weights,
            flags=("features.backbone", "--set features.weights="),
            other="`clip`, ",
        )
        facts: Any = network.pretrained_cfg
        return _checked(
            Trunk(network, facts["mean"], facts["std"], facts["input_size"][-1]), config
        )
    first = clip.clips[0] if isinstance(clip, ClipEnsemble) else clip
    tower: Any = copy.deepcopy(first.model.visual).to("cpu")
    facts = first.preprocess_config
    network = tower.trunk if isinstance(tower, TimmModel) else tower
    return _checked(Trunk(network, facts.mean, facts.std, first.input_size[-1]), config)


def _checked(trunk: Trunk, config: FeatureConfig) -> Trunk:
    if not hasattr(trunk.network, "forward_intermediates"):
        raise InputError(
            f"features.backbone={config.backbone}: a {type(trunk.network).__name__} has no stages "
            "that can be read. Choose another network."
        )
    return trunk
