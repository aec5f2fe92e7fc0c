"""Pixels as they are stored to 8-bit sRGB on a background: transparency in every mode, sixteen
bits, colour profiles.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms

STRIP_PIXELS = 2**20  # converted at a time
MAX_PROFILE = 4 * 2**20  # bytes of a colour profile; a press's has 3 MB
SAME_LEVELS = 3  # a profile that moves no colour by more is sRGB itself, but for rounding
_GREY_SCALE = {"1": 255, "1;I": 255, "L;2": 85, "L;4": 17}  # a sample of fewer bits, to eight
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # Pillow's mode -> name in a profile's head


@dataclass(frozen=True)
class Stored:
    """How a file says that its samples are to be read, before they are loaded."""

    raw_mode: str  # such as RGB;16B
    transparency: Any  # a colour that is clear, or the palette's alpha


def to_rgb(
    image: Image.Image, background: tuple[int, int, int], stored: Stored
) -> tuple[Image.Image, bool]:
    """8-bit sRGB of an image on `background`, and whether a colour profile changed it; strip by
    strip, so that only one strip exists in several copies.
    """
    if image.mode == "RGB" and stored.transparency is None and "icc_profile" not in image.info:
        return image, False
    rgb, converted = Image.new("RGB", image.size), False
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        part, by_profile = _strip_to_rgb(strip, background, stored)
        rgb.paste(part, (0, top))
        converted = converted or by_profile
    return rgb, converted


def _strip_to_rgb(
    image: Image.Image, background: tuple[int, int, int], stored: Stored
) -> tuple[Image.Image, bool]:
    profile = image.info.get("icc_profile")
    alpha = _alpha(image, stored.raw_mode, stored.transparency)
    if image.mode.startswith(("I", "F")):
        image = _upper_byte(image)
    converted = _to_srgb(image, profile) if profile else None
    rgb = converted or (image if image.mode == "RGB" else _plain_rgb(image))
    if alpha is not None:
        canvas = Image.new("RGBA", rgb.size, (*background, 255))
        rgb = rgb.convert("RGBA")
        rgb.putalpha(alpha)
        canvas.alpha_composite(rgb)
        rgb = canvas.convert("RGB")
    return rgb, converted is not None


def has_transparency(image: Image.Image) -> bool:
    """Whether the background shows through some pixel, by mode and tRNS."""
    return image.has_transparency_data or "transparency" in image.info


def _plain_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("LA", "La", "PA", "RGBa"):  # their alpha is taken by itself
        image = image.convert("RGBA")
    if "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _alpha(image: Image.Image, raw_mode: str, transparency: Any) -> Image.Image | None:
    """[H, W] in 8 bits, or None for an opaque image."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return image.convert("RGBA").getchannel("A")
    if transparency is None:
        return None
    if image.mode == "P":
        return image.convert("RGBA").getchannel("A")
    if image.mode == "RGB" and isinstance(transparency, tuple):
        # of sixteen bits the upper eight are left
        levels = [level >> 8 if ";16" in raw_mode else level for level in transparency]
        bands = [_differs(band, level) for band, level in zip(image.split(), levels, strict=True)]
        return ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    if isinstance(transparency, int):
        level = min(transparency, 1) if image.mode == "1" else transparency  # Pillow: 0 or 255
        return _differs(image, level * _GREY_SCALE.get(raw_mode, 1))
    return None


def _differs(band: Image.Image, level: int) -> Image.Image:
    """255 where the samples are not `level`, else 0."""
    samples = np.asarray(band.convert("L") if band.mode == "1" else band)
    return Image.fromarray(np.where(samples.astype(np.int32) != level, 255, 0).astype(np.uint8))


def _upper_byte(image: Image.Image) -> Image.Image:
    """Of 16 bits a sample, rounded: s / 257."""
    samples = np.asarray(image)
    if samples.dtype == np.uint16:
        return Image.fromarray(((samples.astype(np.uint32) + 128) // 257).astype(np.uint8))
    return Image.fromarray(
        np.clip(np.rint(samples.astype(np.float64) / 257), 0, 255).astype(np.uint8)
    )


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """None where the profile is sRGB, damaged, or not that of such an image."""
    if len(profile) > MAX_PROFILE:
        return None
    mode = "L" if image.mode in ("1", "L", "LA", "La") else image.mode
    mode = "CMYK" if mode == "CMYK" else "L" if mode == "L" else "RGB"
    for source in dict.fromkeys((mode, "RGB")):  # a grey image may have a profile of colours
        transform = _transform(profile, source)
        if transform is not None:
            plain = image if image.mode == source else _plain_rgb(image).convert(source)
            return ImageCms.applyTransform(plain, transform)
        if mode == "CMYK":
            return None
    return None


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where it fits no image of `mode`, or changes nothing."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        if profile[16:20].decode("latin-1").strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        probe = _probe(mode)
        changed = ImageCms.applyTransform(probe, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # unreadable, as other programs ignore it too
    if mode == "CMYK":
        return transform
    moved = np.asarray(changed).astype(int) - np.asarray(probe.convert("RGB")).astype(int)
    return transform if np.abs(moved).max() > SAME_LEVELS else None


def _probe(mode: str) -> Image.Image:
    """Colours all over the space, [1, N]."""
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(0, 256, 5, dtype=np.uint8)[None])
    if mode == "CMYK":
        return Image.new("CMYK", (1, 1))
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(cube)
