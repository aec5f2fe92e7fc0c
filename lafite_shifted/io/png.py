"""Writing PNGs that say how they were made, and over none of another program."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import atomic_file

SOFTWARE = "lafite-shifted"  # the text chunk "Software" of our PNGs
GRID = "grid"  # the text chunk "Comment" of those that show several images, or a plot
DIGEST = 12  # hexadecimal digits: two of a million sentences meet once in 500 such runs
HEAD = 1024  # bytes in which both lie


def as_grid(image: Image.Image) -> Image.Image:
    """`image`, which will be saved as one that shows several: nobody wants to train on it."""
    image.info["Comment"] = GRID
    return image


def is_own_png(head: bytes) -> bool:
    """Whether these are the first HEAD bytes of a PNG that `save_png` has written."""
    return f"Software\0{SOFTWARE}".encode() in head


def is_own_grid(head: bytes) -> bool:
    """The same, of several images in one."""
    return is_own_png(head) and f"Comment\0{GRID}".encode() in head


def check_own_png(path: Path) -> None:
    """InputError where `path` is there, and another program's."""
    if not path.exists():
        return
    with path.open("rb") as file:
        if is_own_png(file.read(HEAD)):
            return
    raise InputError(
        f"{path} was not written by lafite-shifted, and stays as it is. Choose another --out, or "
        "move it away."
    )


def save_png(path: Path, image: Image.Image, metadata: Mapping[str, str]) -> None:
    """Write a PNG, atomically, with `metadata` as text chunks; InputError where another program's
    file would be lost.
    """
    check_own_png(path)
    with atomic_file(path) as file:
        write_png(file, image, metadata)


def write_png(file: BinaryIO, image: Image.Image, metadata: Mapping[str, str]) -> None:
    """The same, into an open file."""
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    if image.info.get("Comment") == GRID:
        info.add_text("Comment", GRID)
    for key, value in metadata.items():
        info.add_itxt(key, value)
    image.save(file, format="PNG", pnginfo=info)


def slug(text: str) -> str:
    """A file name for a sentence: its first words, and a digest unless they say it all."""
    plain = re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:40].strip("-")
    if plain.replace("-", " ") == text:
        return plain
    return f"{plain or 'text'}-{sha256(text.encode()).hexdigest()[:DIGEST]}"
