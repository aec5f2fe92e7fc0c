"""Names of a copied set's images that every system can unpack, and that are read as what they are.

What Windows allows in names: learn.microsoft.com, "Naming Files, Paths, and Namespaces".
"""

import posixpath
import re
import unicodedata
from collections import Counter

from training.data.files.image_files import (
    IMAGE_SUFFIXES,
    UnreadableImageError,
    belongs_to_a_system,
    image_format,
)
from training.data.files.listing import masks
from training.data.images import ImageSource

MAX_BYTES = 230  # of 255 of most file systems; the rest is for names of temporary files

# with dots before the suffix, which in a tar begin another file's name
_NOT_IN_NAMES = re.compile(r'[.<>:"|?*\\\x00-\x1f\x7f]| (?=/)')
_DEVICES = re.compile(r"(?<![^/])(?:con|prn|aux|nul|com\d|lpt\d)(?![^/])", re.IGNORECASE)


def portable_names(source: ImageSource, *, suffix: str | None) -> dict[str, str]:
    """The new name of each image, with its own suffix where `suffix` is None: none twice, in either
    case, composed or decomposed. That of a shard starts it only where shards have names in common.
    """
    parts, found, taken = dict[str, tuple[str, str]](), dict[str, str](), set[str]()
    short = {name: source.short_name(name) for name in source.names}
    times = Counter(map(_alike, short.values()))
    for name in source.names:
        old = short[name] if times[_alike(short[name])] == 1 else name
        stem, own = posixpath.splitext(old)
        if own.lower() not in IMAGE_SUFFIXES:  # an image by its content: "v1.2", "photo.zip"
            stem, own = old, _suffix_by_content(source, name) if suffix is None else ""
        stem = _DEVICES.sub(r"\g<0>_", _NOT_IN_NAMES.sub("_", stem))
        parts[name] = (_not_of_a_system(stem, suffix or own), suffix or own)
        found[name] = _free_name(*parts[name], taken)
    of_others = set(masks([*found.values()]))  # "a:mask" was none of "a"
    for name, new in found.items():
        if new in of_others:
            found[name] = _free_name(*parts[name], taken)
    return found


def names_of_copies(names: dict[str, str], *, count: int) -> dict[str, list[str]]:
    """`count` more names for each image, beside its new one in `names`."""
    taken = {_alike(new) for new in names.values()}
    parts = {name: posixpath.splitext(new) for name, new in names.items()}
    return {
        name: [_free_name(f"{stem}-copy{number}", suffix, taken) for number in range(1, count + 1)]
        for name, (stem, suffix) in parts.items()
    }


def _not_of_a_system(stem: str, suffix: str) -> str:
    """`stem`, none of whose parts is now what a system hides: ":thumbs" became "_thumbs"."""
    *folders, last = stem.split("/")
    names = [*folders, last + suffix]
    parts = zip((*folders, last), map(belongs_to_a_system, names), strict=True)
    return "/".join(f"{part}_" if hides else part for part, hides in parts)


def _suffix_by_content(source: ImageSource, name: str) -> str:
    try:
        kind = image_format(source.read(name))
    except UnreadableImageError:  # a bad image, when it is its turn
        kind = None
    return f".{kind.lower()}" if kind else ""


def _free_name(stem: str, suffix: str, taken: set[str]) -> str:
    """`stem` and `suffix`, with a number where that is taken; the result is, from now on."""
    new, number = _joined(stem, suffix), 1
    while _alike(new) in taken:
        number += 1
        new = _joined(stem, f"-{number}{suffix}")
    taken.add(_alike(new))
    return new


def _joined(stem: str, ending: str) -> str:
    """`stem` and `ending`; a file's name that would be too long has the end of its stem cut."""
    folder, last = posixpath.split(stem)
    room = MAX_BYTES - len(ending.encode())
    return posixpath.join(folder, last.encode()[:room].decode(errors="ignore") + ending)


def _alike(name: str) -> str:
    """The same for names without suffix that are one file, or one sample, to some reader."""
    return unicodedata.normalize("NFC", posixpath.splitext(name)[0]).casefold()
