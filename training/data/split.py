"""The held-out split that CLIP, prior, GAN and evaluation all respect.

An image is held out when the SHA-256 of its normalised name falls below one sixth. Variants of one
thing (skin tones, drawing styles, numbered takes) share a name and so a side. A name that says
nothing ("IMG_0412", a hexadecimal id) gives way to the caption, and a missing caption to the
content of the file.
"""

import hashlib
import re
from pathlib import PurePosixPath

HELD_OUT_FRACTION = 1 / 6

_SKIN_TONE = re.compile(r"\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
_EMPTY_WORDS = frozenset(
    # drawing styles of the emoji set, and what cameras and programs call everything
    [
        "flat",
        "3d",
        "img",
        "image",
        "dsc",
        "dscn",
        "dscf",
        "pxl",
        "mvimg",
        "photo",
        "image",
        "pic",
        "screenshot",
        "frame",
        "file",
        "scan",
        "untitled",
        "copy",
    ]
)
_NUMBERING = re.compile(r".*\d.*")  # 01, 1f469, 07c, IMG20230412: any word with a digit in it


def normalised_name(text: str) -> str:
    """`text` in lower case without skin tones, styles and numbering; "" if nothing telling remains.

    "flat-1f469-1f3fc" -> "", "turkey_on_platter_01" -> "turkey on platter", "man: dark skin tone,
    beard" -> "man beard".
    """
    text = _SKIN_TONE.sub(" ", text.lower())
    words = re.findall(r"[^\W_]+", text)
    kept = [w for w in words if w not in _EMPTY_WORDS and not _NUMBERING.fullmatch(w)]
    return " ".join(kept) if sum(map(len, kept)) >= 2 else ""


def split_key(file_name: str, *, caption: str, content_sha256: str) -> str:
    """What decides the side of an image: its telling base name, else its caption, else its
    content.
    """
    return (
        normalised_name(PurePosixPath(file_name).stem) or normalised_name(caption) or content_sha256
    )


def is_held_out(key: str) -> bool:
    """True for the sixth of all keys that training must not see."""
    return (
        int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < HELD_OUT_FRACTION * 2**64
    )
