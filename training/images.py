"""Pictures in a folder or an archive, captions optional: listing, decoding, squaring, and an honest
account of what is broken.

Every legal picture becomes 8-bit RGB (16-bit, CMYK, palette, grey, transparent and animated ones
are converted and counted); every other one raises `UnreadablePictureError` with a reason, which
callers collect into `report.jsonl`.
"""

import io
import json
import posixpath
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lafite_shifted.errors import InputError, TooManyBadPicturesError
from lafite_shifted.files import numbered_json_lines
from training.picture_files import UnreadablePictureError, open_files

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # the only decoders that Pillow may use
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
DEFAULT_MAX_MEGAPIXELS = 100.0
UNSUPPORTED = frozenset(  # pictures that we do not read, but do not pass over in silence either
    {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".tga", ".ppm"}
)
WHITE = (255, 255, 255)
ORIENTATION_TAG = 0x0112

Image.MAX_IMAGE_PIXELS = (
    None  # `decode` has a limit of its own, checked before any pixel is decoded
)


@dataclass(frozen=True)
class Decoded:
    """An 8-bit RGB picture, and what had to be converted to get it."""

    image: Image.Image
    conversions: tuple[str, ...]


def decode(
    file: Path | BinaryIO,
    *,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    background: tuple[int, int, int] = WHITE,
    shrink_to: int | None = None,
) -> Decoded:
    """Read a picture as upright RGB, transparency shown on `background`, the first frame of an
    animation.

    `shrink_to` bounds the longer side before the conversions, which saves copies of huge pictures.
    Raises UnreadablePictureError (broken, not a picture, or above `max_megapixels`).
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > max_megapixels:
                raise UnreadablePictureError(
                    f"{image.width} x {image.height} is {megapixels:.0f} megapixels, the limit is "
                    f"{max_megapixels:g} "
                    f"(--max-megapixels)"
                )
            conversions = _conversions(image)
            image.load()
            if shrink_to and image.mode in ("RGB", "RGBA", "L"):
                image.thumbnail((shrink_to, shrink_to))
            upright = _upright(image)
            rgb = _to_rgb(upright, background)
            if shrink_to:
                rgb.thumbnail((shrink_to, shrink_to))
            return Decoded(rgb, conversions)
    except UnidentifiedImageError:
        raise UnreadablePictureError(
            f"not a picture in a supported format ({', '.join(FORMATS)})"
        ) from None
    except FileNotFoundError:
        raise UnreadablePictureError("the file does not exist") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
    ) as error:  # what Pillow's decoders raise on broken files
        raise UnreadablePictureError(f"broken: {error}") from error


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
        turn = None  # unreadable EXIF says nothing about a picture that is readable
    return image if turn is None else image.transpose(turn)


def _conversions(image: Image.Image) -> tuple[str, ...]:
    """Names of the conversions that `_to_rgb` is about to make; must be asked before the pixels are
    loaded.
    """
    raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    found = {
        "16-bit": image.mode.startswith(("I", "F")) or ";16" in raw_modes,
        "CMYK": image.mode == "CMYK",
        "palette": image.mode in ("P", "PA"),
        "grey": image.mode in ("1", "L", "LA", "La"),
        "animated": getattr(image, "is_animated", False),
        "transparent": image.has_transparency_data,
    }
    return tuple(name for name, present in found.items() if present)


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits a sample: keep the upper eight
        samples = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.clip(np.rint(samples / 257), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*background, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert("RGB")


def to_square(image: Image.Image, resolution: int) -> np.ndarray:
    """Centre crop to a square, then Lanczos to [resolution, resolution, 3] uint8."""
    return np.asarray(
        ImageOps.fit(image, (resolution, resolution), method=Image.Resampling.LANCZOS)
    )


class ImageSource:
    """The pictures of a folder (nested ones included), of a zip archive or of tar shards, in sorted
    order, with captions where there are any.

    Captions come from `metadata.jsonl` ({"file_name", "text"}; "text" may be a list), from a .txt
    of the same name, one caption a line, or from a .json of the same name ("caption" or "text").
    Raises InputError when there is nothing usable.
    """

    def __init__(self, where: Path, *, exclude: Path | None = None):
        """`exclude` is a folder whose pictures do not count, such as a run inside `where`."""
        self.where = where
        self._files = open_files(where, exclude=exclude)
        files = self._files.names()  # a link to nothing is a picture that cannot be read
        self.names = [name for name in files if _suffix(name) in SUFFIXES]
        if not self.names:
            found = sorted({_suffix(name) or posixpath.basename(name) for name in files})[:5]
            holds = f"only {len(files)} other files ({', '.join(found)})" if files else "nothing"
            raise InputError(
                f"{where} holds no pictures: {holds}. Give a folder with pictures "
                f"({', '.join(sorted(SUFFIXES))})."
            )
        self.unsupported = [name for name in files if _suffix(name) in UNSUPPORTED]
        self._others = set(files) - set(self.names)
        self.metadata = self._read_metadata()
        self.captions = self._read_captions()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> bytes:
        """The file; UnreadablePictureError if it cannot be read."""
        return self._files.read(name)

    def decode(self, name: str, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS) -> Decoded:
        """The picture; UnreadablePictureError as in `decode`."""
        return decode(io.BytesIO(self.read(name)), max_megapixels=max_megapixels)

    def stamp(self, name: str) -> tuple[int, int]:
        """Size and time of change."""
        return self._files.stamp(name)

    def missing(self) -> list[str]:
        """Names that metadata.jsonl lists and the folder lacks."""
        return sorted(set(self.metadata) - set(self.names) - set(self.unsupported))

    def _read_metadata(self) -> dict[str, dict]:
        if "metadata.jsonl" not in self._others:
            return {}
        rows, what = {}, f"{self.where / 'metadata.jsonl'}"
        for number, row in numbered_json_lines(self._content("metadata.jsonl"), what=what):
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise InputError(
                    f'{what}, line {number}, lacks "file_name". Each line needs "file_name" and '
                    '"text".'
                )
            if not isinstance(row.get("text"), str | list | None):
                raise InputError(
                    f'{what}, line {number}: "text" is neither a caption nor a list of captions. '
                    "Mend that line."
                )
            rows[posixpath.normpath(row["file_name"])] = row  # "./a.png" is "a.png"
        return rows

    def _content(self, name: str) -> bytes:
        try:
            return self.read(name)
        except UnreadablePictureError as error:
            raise InputError(f"{self.where / name}: {error}. Mend or remove it.") from error

    def _read_captions(self) -> dict[str, list[str]]:
        captions = {}
        for name in self.names:
            text = self.metadata.get(name, {}).get("text")
            stem = posixpath.splitext(name)[0]
            if text is None and f"{stem}.txt" in self._others:
                text = self._content(f"{stem}.txt").decode("utf-8", errors="replace").splitlines()
            if text is None and f"{stem}.json" in self._others:
                text = self._caption_of_record(f"{stem}.json")
            lines = [text] if isinstance(text, str) else list(text or [])
            # a lone surrogate, which JSON can hold, is no text that can be written again
            lines = [line.encode("utf-8", "replace").decode() for line in lines if _is_text(line)]
            lines = [line.strip() for line in lines]
            if lines:
                captions[name] = lines
        return captions

    def _caption_of_record(self, name: str) -> str | list | None:
        try:
            record = json.loads(self._content(name))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{self.where / name} is no JSON ({error}). Mend or remove it."
            ) from error
        found = [record.get(key) for key in ("caption", "text")] if isinstance(record, dict) else []
        return next((text for text in found if isinstance(text, str | list)), None)


def _is_text(line: object) -> bool:
    return isinstance(line, str) and bool(line.strip())


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def bad_picture_rows(bad: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Rows for `report.jsonl`: one {"file_name", "reason"} an unreadable picture."""
    return [{"file_name": name, "reason": reason} for name, reason in bad]


def check_share_of_bad(bad: list[tuple[str, str]], total: int, *, max_share: float) -> None:
    """TooManyBadPicturesError when more than `max_share` of `total` pictures, or all of them, could
    not be read.
    """
    if len(bad) < total and len(bad) <= max_share * total:
        return
    listed = "".join(f"\n  {name}: {reason}" for name, reason in bad[:20])
    more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
    raise TooManyBadPicturesError(
        f"{len(bad)} of {total} pictures cannot be read, more than --max-bad {max_share:.0%} "
        "allows. "
        f"Remove or replace them, or raise --max-bad:{listed}{more}"
    )
