"""Writing PNGs that say how they were made."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lafite_shifted.io.files import atomic_file


def save_png(path: Path, image: Image.Image, metadata: Mapping[str, str]) -> None:
    """Write a PNG, atomically, with `metadata` as text chunks."""
    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value)
    with atomic_file(path) as file:
        image.save(file, format="PNG", pnginfo=info)


def slug(text: str) -> str:
    """A file name for a sentence: its first words, and a digest unless they say it all."""
    plain = re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:40].strip("-")
    if plain.replace("-", " ") == text:
        return plain
    return f"{plain or 'text'}-{sha256(text.encode()).hexdigest()[:6]}"
