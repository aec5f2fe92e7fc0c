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

PILLOW_CHOOSES_ORDER = int(PIL.__version__.partition(".")[0]) >= 13  # before: columns first, always


def preprocess(images: Tensor, config: PreprocessCfg) -> Tensor:
    """Images [N, 3, H, W], uint8 or float in [-1, 1] -> the model's input [N, 3, S, S]."""
    levels = images.float() if images.dtype == torch.uint8 else (images.float() + 1) * 127.5
    height, width = to_2tuple(config.size)
    size = (height, width)
    resized = _resize(levels, size, mode=config.resize_mode, interpolation=config.interpolation)
    unit = _centre(resized.clamp(0, 255), size, fill=float(config.fill_color)) / 255
    # to the device without waiting for what it computes
    mean, std = (
        torch.tensor(values).view(3, 1, 1).to(unit.device, non_blocking=True)
        for values in (config.mean, config.std)
    )
    return (unit - mean) / std


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
        target = (round(height / ratio), round(width / ratio))
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
    for step in (middle, size):
        if levels.shape[-2:] != step:
            levels = F.interpolate(
                levels, size=step, mode=mode, align_corners=False, antialias=True
            ).clamp(0, 255)
            levels = levels + (levels.round() - levels).detach()
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
