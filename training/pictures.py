"""Writing PNGs that say how they were made."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lafite_shifted.files import atomic_file


def save_png(path: Path, image: Image.Image, metadata: Mapping[str, str]) -> None:
    """Write a PNG, atomically, with `metadata` as text chunks."""
    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value)
    with atomic_file(path) as file:
        image.save(file, format="PNG", pnginfo=info)


def slug(text: str) -> str:
    """A file name for a sentence: its first words, and a digest where they do not say all."""
    words = re.sub(r"[^\w]+", "-", text.lower()).strip("-")
    plain = words[:40].strip("-")
    if plain and plain == words and re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") == words:
        return (
            plain
            if text == text.lower().strip()
            else f"{plain}-{sha256(text.encode()).hexdigest()[:6]}"
        )
    return f"{plain or 'text'}-{sha256(text.encode()).hexdigest()[:6]}"
