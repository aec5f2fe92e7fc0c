"""The held-out split that CLIP, prior, GAN and evaluation all respect.

An image is held out when the SHA-256 of its normalised name falls below one sixth. Variants of one
thing (skin tones, drawing styles, numbered takes) share a name and so a side. A name that says
nothing ("IMG_0412", a hexadecimal id) gives way to the caption, and a missing caption to the
content of the file; so do names, and then captions, that more images bear than one thing has
variants: "wedding-0001" to "wedding-0999" are as many things. Where every thing has a folder of its
own (products/0001/cover.jpg), it is the folder that says which thing. Copies of one file are on one
side, whatever they are called, and so are an image and its augmented copies.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

HELD_OUT_FRACTION = 1 / 6
MIN_FOLDERS = 3  # of things in folders of their own
MAX_VARIANTS, MAX_SHARE = 12, 1 / 20  # of one name, whichever is more

_SKIN_TONE = re.compile(r"\b(?:medium-light|medium-dark|light|medium|dark) skin tone\b")
_EMPTY_WORDS = frozenset(
    # drawing styles of the emoji set, and what cameras and programs call everything
    [
        "flat",
        "3d",
        "twemoji",
        "img",
        "image",
        "dsc",
        "dscn",
        "dscf",
        "pxl",
        "mvimg",
        "photo",
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
    return _key(SplitItem(file_name, caption, content_sha256), frozenset())


class SplitItem(NamedTuple):
    """What of an image decides its side."""

    file_name: str
    caption: str
    content_sha256: str
    copy_of: str = ""  # the file that it is an augmented copy of


def split_keys(items: Sequence[SplitItem]) -> list[str]:
    """The keys of a whole set: what `split_key` gives, but for names that are the same in most
    folders or of many images, and for copies.
    """
    originals = [item for item in items if not item.copy_of]
    repeated = _repeated_stems(originals)
    common = _common(map(_name, originals)) | _common(_caption(item) for item in originals)
    first: dict[str, str] = {}  # of all keys of one content
    for item in originals:
        key = _key_by_folder(item, repeated) or _key(item, common)
        first[item.content_sha256] = min(key, first.get(item.content_sha256, key))
    by_file = {item.file_name: first[item.content_sha256] for item in originals}
    return [
        first[item.content_sha256]
        if not item.copy_of
        # a copy whose original is gone goes by its own name
        else by_file.get(item.copy_of) or _key(item, frozenset())
        for item in items
    ]


def _name(item: SplitItem) -> str:
    return normalised_name(PurePosixPath(item.file_name).stem)


def _caption(item: SplitItem) -> str:
    return normalised_name(item.caption)


def _key(item: SplitItem, common: frozenset[str]) -> str:
    telling = (found for found in (_name(item), _caption(item)) if found not in common)
    return next(filter(None, telling), item.content_sha256)


def _common(names: Iterable[str]) -> frozenset[str]:
    """Names of more images than one thing has variants: of a kind, or of the whole set."""
    counts = Counter(names)
    most = max(MAX_VARIANTS, MAX_SHARE * counts.total())
    return frozenset(name for name, count in counts.items() if name and count > most)


def _repeated_stems(items: Sequence[SplitItem]) -> frozenset[str]:
    """Telling names that most folders have: they say which view it is, or which file of a page, but
    not of what. None where there are as many names as folders: those are of styles or classes.
    """
    places = {(path.parent, path.stem) for path in (PurePosixPath(i.file_name) for i in items)}
    folders, stems = Counter(folder for folder, _ in places), Counter(stem for _, stem in places)
    if len(folders) < MIN_FOLDERS or len(stems) >= len(folders):
        return frozenset()
    return frozenset(
        stem for stem, count in stems.items() if normalised_name(stem) and count > len(folders) / 2
    )


def _key_by_folder(item: SplitItem, repeated: frozenset[str]) -> str | None:
    path = PurePosixPath(item.file_name)
    if path.stem not in repeated:
        return None
    return normalised_name(path.parent.name) or normalised_name(item.caption) or str(path.parent)


def is_held_out(key: str) -> bool:
    """True for the sixth of all keys that training must not see."""
    return (
        int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < HELD_OUT_FRACTION * 2**64
    )
