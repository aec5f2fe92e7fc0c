"""One image: decoding whatever is legal to 8-bit sRGB, and squaring it.

Every legal image becomes 8-bit sRGB (16-bit, CMYK, palette, grey, transparent and animated ones,
and those with another colour profile, are converted and counted); every other one raises
`UnreadableImageError` with a reason.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from training.data.decoding.bare import bare
from training.data.decoding.colour import Stored, has_transparency, to_rgb
from training.data.decoding.crop import DEFAULT_SQUARES, MAX_PASS_PIXELS
from training.data.decoding.png_chunks import without_what_pixels_do_not_need
from training.data.files.image_files import UnreadableImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # the only decoders that Pillow may use
DEFAULT_MAX_MEGAPIXELS = 100.0
ORIENTATION_TAG = 0x0112
# what Pillow's decoders raise on broken files
BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)

Image.MAX_IMAGE_PIXELS = (
    None  # `decode` has a limit of its own, checked before any pixel is decoded
)


@dataclass(frozen=True)
class Decoded:
    """An 8-bit sRGB image, and what had to be converted to get it."""

    image: Image.Image
    conversions: tuple[str, ...]


PIXELS_FLAG = " (--max-megapixels)"  # at the end of a reason; not every command has it


def decode(
    file: Path | BinaryIO,
    *,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    background: tuple[int, int, int] = DEFAULT_SQUARES.colour,
    shrink_to: int | None = None,
    reserve: Callable[[int], None] = lambda size: None,
) -> Decoded:
    """Read an image as upright sRGB, transparency shown on `background`, the first frame of an
    animation.

    `shrink_to` bounds the longer side before the conversions, which saves copies of huge images.
    `reserve` is told how many bytes the pixels will take before there are any, and may wait.
    Raises UnreadableImageError (broken, not an image, or above `max_megapixels`).
    """
    try:
        content = file.read_bytes() if isinstance(file, Path) else file.read()
        needed = without_what_pixels_do_not_need(content)
        read = partial(_opened, max_megapixels, background, shrink_to, reserve)
        try:
            return read(needed)
        except BROKEN as error:
            if len(less := bare(needed)) == len(needed):
                raise
            try:
                return read(less)
            except BROKEN:
                raise error from None  # which says more of the file as it is
    except UnidentifiedImageError:
        raise UnreadableImageError(
            f"not an image in a supported format ({', '.join(FORMATS)})"
        ) from None
    except FileNotFoundError:
        raise UnreadableImageError("the file does not exist") from None
    except BROKEN as error:
        raise UnreadableImageError(f"broken: {error}") from error


def _opened(
    max_megapixels: float,
    background: tuple[int, int, int],
    shrink_to: int | None,
    reserve: Callable[[int], None],
    content: bytes,
) -> Decoded:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        megapixels = image.width * image.height / 1e6
        if megapixels > max_megapixels:
            raise UnreadableImageError(
                f"{image.width} x {image.height} is {megapixels:.0f} megapixels, the limit is "
                f"{max_megapixels:g}{PIXELS_FLAG}"
            )
        return _loaded(image, background, shrink_to, reserve)


def _loaded(
    image: Image.Image,
    background: tuple[int, int, int],
    shrink_to: int | None,
    reserve: Callable[[int], None],
) -> Decoded:
    conversions, raw_mode = _conversions(image), _raw_mode(image)
    reserve(image.width * image.height * _bytes_of_a_pixel(image))
    image.load()
    transparency = image.info.get("transparency")
    if shrink_to and image.mode in ("RGB", "RGBA", "L") and transparency is None:
        image.thumbnail((shrink_to, shrink_to))
    rgb, has_profile = to_rgb(_upright(image), background, Stored(raw_mode, transparency))
    if shrink_to:
        rgb.thumbnail((shrink_to, shrink_to))
    if has_profile:
        conversions = (*conversions, "colour profile")
    # asked last: it reads the second frame, which may be broken
    return Decoded(rgb, (*conversions, "animated") if _is_animated(image) else conversions)


def _bytes_of_a_pixel(image: Image.Image) -> int:
    """At most, of all copies that exist at one time: as stored, turned, in sRGB."""
    plain = image.mode == "RGB" and "icc_profile" not in image.info
    return 8 if plain and not has_transparency(image) else 12


def _upright(image: Image.Image) -> Image.Image:
    """Turn as EXIF says. Pillow's exif_transpose also rewrites EXIF, and fails on bad blocks."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ORIENTATION_TAG, 1))
    except (struct.error, ValueError, TypeError, AttributeError, SyntaxError, KeyError):
        turn = None  # unreadable EXIF says nothing about an image that is readable
    return image if turn is None else image.transpose(turn)


def _raw_mode(image: Image.Image) -> str:
    """How samples lie in the file, such as RGB;16B; it is known before they are loaded."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _conversions(image: Image.Image) -> tuple[str, ...]:
    """Names of the conversions that `to_rgb` is about to make; must be asked before the pixels are
    loaded.
    """
    raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    found = {
        "16-bit": image.mode.startswith(("I", "F")) or ";16" in raw_modes,
        "CMYK": image.mode == "CMYK",
        "palette": image.mode in ("P", "PA"),
        "grey": image.mode in ("1", "L", "LA", "La"),
        "transparent": has_transparency(image),
    }
    return tuple(name for name, present in found.items() if present)


def _is_animated(image: Image.Image) -> bool:
    try:
        return getattr(image, "is_animated", False)
    except BROKEN:
        return True  # it has more frames, though not whole ones


def levels_of(image: Image.Image) -> np.ndarray:
    """[3, H, W] uint8 of an RGB image, without a second copy of all of it on the way."""
    levels = np.empty((3, image.height, image.width), np.uint8)
    rows = max(1, MAX_PASS_PIXELS // image.width)
    for top in range(0, image.height, rows):
        whole = rows >= image.height
        strip = image if whole else image.crop((0, top, image.width, min(top + rows, image.height)))
        levels[:, top : top + rows] = np.asarray(strip).transpose(2, 0, 1)
    return levels
