"""Writing images in the formats that users ask for. Each says how it was made, and none is written
over another program's: PNG in text chunks, WebP and JPEG in EXIF, which has no room for sentences
of thousands of words: there the manifest alone has them.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import atomic_file
from lafite_shifted.io.png import SOFTWARE, check_own_png, save_png

FORMATS = {"png": "PNG", "webp": "WEBP", "jpg": "JPEG", "jpeg": "JPEG"}  # by suffix
LATENTS_SUFFIX = ".safetensors"
# of what is taken for a file, not for a sentence
GIVEN_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", LATENTS_SUFFIX)
QUALITY = 95  # of WebP and JPEG
MOST_EXIF = 65000  # bytes, of 65,533 that a segment of a JPEG holds
_SOFTWARE_TAG, _DESCRIPTION_TAG = 0x0131, 0x010E


def own_exif(metadata: Mapping[str, str]) -> Image.Exif:
    """EXIF that says that a file is ours, with `metadata` as JSON in its description."""
    exif = Image.Exif()
    exif[_SOFTWARE_TAG] = SOFTWARE
    exif[_DESCRIPTION_TAG] = json.dumps(metadata)  # ASCII, as EXIF wants it
    return exif


def has_own_exif(path: Path) -> bool:
    """Whether `path` is an image with EXIF that `own_exif` has made."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(_SOFTWARE_TAG) == SOFTWARE
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return False


def is_complete(path: Path) -> bool:
    """Whether the file is there to its end: nothing has cut it short."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    if path.suffix == ".webp":  # RIFF, and how many bytes follow
        return content[:4] == b"RIFF" and len(content) == 8 + int.from_bytes(content[4:8], "little")
    return content.endswith(b"\xff\xd9" if path.suffix == ".jpg" else b"IEND\xae\x42\x60\x82")


def check_own_image(path: Path) -> None:
    """InputError where `path` is there, and another program's."""
    if path.suffix == ".png":
        check_own_png(path)
    elif path.exists() and not has_own_exif(path):
        raise InputError(
            f"{path} was not written by lafite-shifted, and stays as it is. Choose another --out, "
            "or move it away."
        )


def save_image(path: Path, image: Image.Image, metadata: Mapping[str, str]) -> None:
    """Write `image` in the format of the suffix, atomically, with `metadata` in it; InputError
    where another program's file would be lost.
    """
    if path.suffix == ".png":
        save_png(path, image, metadata)
        return
    check_own_image(path)
    kind = FORMATS[path.suffix.removeprefix(".")]
    sampling = {"subsampling": 0} if kind == "JPEG" else {}  # drawings have hard coloured edges
    exif = own_exif(metadata)
    if len(exif.tobytes()) > MOST_EXIF:
        exif = own_exif({key: value for key, value in metadata.items() if len(value) <= 1000})
    with atomic_file(path) as file:
        image.save(file, format=kind, quality=QUALITY, exif=exif, **sampling)
