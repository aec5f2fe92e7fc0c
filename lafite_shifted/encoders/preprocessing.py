"""CLIP preprocessing, differentiable, on any device: open_clip's own to 2/255 of a pixel.

Shape letters: N batch, H W image, S input size of the model.
"""

from typing import Any

import PIL
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg
from open_clip.utils import to_2tuple
from torch import Tensor

from torch_utils.sending import to_device

PILLOW_CHOOSES_ORDER = int(PIL.__version__.partition(".")[0]) >= 13  # before: columns first, always
LONGEST_RATIO = 8  # of an image to its crop: of longer ones only the middle is resized
LARGE_PIXELS = 2**23  # that are resized one channel at a time


def preprocess(images: Tensor, config: PreprocessCfg) -> Tensor:
    """Images [N, 3, H, W], uint8 or float in [-1, 1] -> the model's input [N, 3, S, S]."""
    return standardise(resize(images, config), config)


def standardise(levels: Tensor, config: PreprocessCfg) -> Tensor:
    """Levels [N, 3, S, S] from 0 to 255 -> the model's input."""
    # to the device without waiting for what it computes
    mean, std = (
        to_device(torch.tensor(values).view(3, 1, 1), levels.device)
        for values in (config.mean, config.std)
    )
    return (levels.float() / 255 - mean) / std


def resize(images: Tensor, config: PreprocessCfg) -> Tensor:
    """Images [N, 3, H, W], uint8 or float in [-1, 1] -> levels [N, 3, S, S] from 0 to 255; whole
    numbers where the images are uint8, and of that dtype too on a CPU, else float32.
    """
    height, width = to_2tuple(config.size)
    size = (height, width)
    if config.resize_mode == "shortest":
        images = _without_far_ends(images, size)
    if images.dtype == torch.uint8 and images.device.type == "cpu":
        # PyTorch resizes bytes as Pillow does, in a tenth of the time
        return _centred(images.contiguous(memory_format=torch.channels_last), size, config)
    # a large one channel by channel: as floats it takes four times its memory
    large = images.shape[-2] * images.shape[-1] > LARGE_PIXELS
    parts = images.split(1 if large else 3, dim=1)
    return torch.cat([_centred(_levels_of(part), size, config) for part in parts], dim=1)


def _levels_of(images: Tensor) -> Tensor:
    return images.float() if images.dtype == torch.uint8 else (images.float() + 1) * 127.5


def _without_far_ends(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of images [N, 3, H, W] far longer than the crop: cut before they are enlarged,
    not after.

    What the filter takes from beyond the crop stays, and the middle stays where it is, so that the
    sampling points are the same to a fraction of a pixel.
    """
    for dim, along, across in ((-2, size[0], size[1]), (-1, size[1], size[0])):
        length, other = images.shape[dim], images.shape[-3 - dim]
        kept = max(LONGEST_RATIO * -(-other * along // across), other + 16)
        kept += (length - kept) % 2  # an equal number goes at both ends
        if kept < length:
            images = images.narrow(dim, (length - kept) // 2, kept)
    return images


def _centred(levels: Tensor, size: tuple[int, int], config: PreprocessCfg) -> Tensor:
    """Levels [N, C, S, S] of those of images, [N, C, H, W]."""
    resized = _resize(levels, size, mode=config.resize_mode, interpolation=config.interpolation)
    return _centre(resized.clamp(0, 255), size, fill=float(config.fill_color))


def describe_preprocessing(config: PreprocessCfg) -> dict[str, Any]:
    """What of it an encoder's id pins."""
    return {
        "size": config.size,
        "resize": config.resize_mode,
        "interpolation": config.interpolation,
        "fill": config.fill_color,
        "mean": [round(x, 6) for x in config.mean],
        "std": [round(x, 6) for x in config.std],
    }


def _resize(levels: Tensor, size: tuple[int, int], *, mode: str, interpolation: str) -> Tensor:
    """Resize [N, 3, H, W] as open_clip's transform does: by the shortest side, the longest side, or
    both.
    """
    height, width = levels.shape[-2:]
    if mode == "shortest" and size[0] == size[1]:  # torchvision rounds down
        longer = int(size[0] * max(height, width) / min(height, width))
        target = (size[0], longer) if height <= width else (longer, size[0])
    elif mode in ("shortest", "longest"):
        choose = min if mode == "shortest" else max
        ratio = choose(height / size[0], width / size[1])
        target = (max(1, round(height / ratio)), max(1, round(width / ratio)))
    else:
        target = size
    return _resample(levels, target, mode="bilinear" if interpolation == "bilinear" else "bicubic")


def _resample(levels: Tensor, size: tuple[int, int], *, mode: str) -> Tensor:
    """Resize in two passes with 8-bit levels after each, as Pillow does: without its clipping of
    overshoots between the passes, hard edges differ by ten levels. Rounding lets gradients through.
    """
    height, width = levels.shape[-2:]
    rows_first = PILLOW_CHOOSES_ORDER and height - size[0] > max(0, 2 * (width - size[1]))
    middle = (size[0], width) if rows_first else (height, size[1])
    if levels.dtype == torch.uint8:
        for step in (middle, size) if rows_first else (size,):  # columns first is its own order
            levels = F.interpolate(
                levels, size=step, mode=mode, align_corners=False, antialias=True
            )
        return levels
    for step in (middle, size):
        if levels.shape[-2:] != step:
            levels = F.interpolate(
                levels, size=step, mode=mode, align_corners=False, antialias=True
            ).clamp(0, 255)
            rounded = (levels.detach() + 0.5).floor_()  # Pillow rounds halves up
            levels = levels + (rounded - levels).detach() if levels.requires_grad else rounded
    return levels


def _centre(levels: Tensor, size: tuple[int, int], *, fill: float) -> Tensor:
    """Centre crop, or pad with `fill`, to `size`; rounding as torchvision's CenterCrop."""
    height, width = levels.shape[-2:]
    pad_y, pad_x = max(size[0] - height, 0), max(size[1] - width, 0)
    if pad_y or pad_x:
        levels = F.pad(
            levels, (pad_x // 2, (pad_x + 1) // 2, pad_y // 2, (pad_y + 1) // 2), value=fill
        )
        height, width = levels.shape[-2:]
    top, left = round((height - size[0]) / 2.0), round((width - size[1]) / 2.0)
    return levels[..., top : top + size[0], left : left + size[1]]
