"""Captions of images, in every layout in use: tables (`tables.py`), or a .txt, .caption or
.json beside each image. What cannot be used is named with its file and the reason, and fails
nothing: most of what is done with images needs no captions.
"""

import json
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.data.augmented_copies import COPY_OF
from training.data.captions.tables import (
    CAPTION_KEYS,
    caption_of,
    image_name,
    is_table,
    read_table,
)
from training.data.captions.text_encoding import UndecodableTextError, decode_text
from training.data.files.image_files import ImageFiles, UnreadableImageError

TEXT_SUFFIXES = (".txt", ".caption", ".text")  # one caption a line
SIDECAR_SUFFIXES = (*TEXT_SUFFIXES, ".json")
MAX_SIDECAR_BYTES = 2**20
_PREFERRED = ("caption", "text", "prompt", "txt")  # parts of a name such as 0001.caption.txt


@dataclass
class Captions:
    """What was found about the images of a set."""

    texts: dict[str, list[str]] = field(default_factory=dict)  # by image
    records: dict[str, dict[str, Any]] = field(default_factory=dict)  # of tables and JSON files
    problems: list[tuple[str, str]] = field(default_factory=list)  # (file or line, reason)
    used: set[str] = field(default_factory=set)  # files


def read_captions(
    files: ImageFiles, images: Sequence[str], others: Iterable[str], *, keyed: bool
) -> Captions:
    """Captions of `images`; `others` are the remaining files. In a tar (`keyed`) what has one name
    up to its first dot is one sample, as webdataset has it.
    """
    others = list(others)
    found = Captions()
    tables = sorted(filter(is_table, others), key=_table_order)
    names = _Names(files.names() if tables else ())
    for table in tables:
        _read_table(files, table, names, set(images), found)
    beside = _Sidecars(others, keyed=keyed)
    for name in images:
        if name not in found.texts:
            _read_sidecar(files, name, beside, found)
        else:
            found.used.update(beside.of(name))  # theirs, though the table goes first
    return found


def printable(name: str) -> str:
    """`name` as text that can be written: bytes that are not UTF-8, which file systems and JSON
    allow, as escapes.
    """
    return name.encode("utf-8", "backslashreplace").decode()


class _Names:
    """Files by name: as spelt, else composed or decomposed alike, else in either case; then so with
    backslashes as separators, as Windows writes them.
    """

    def __init__(self, names: Iterable[str]):
        self._exact = set(names)
        self._alike: dict[str, list[str]] = {}
        for name in self._exact:
            for key in {_composed(name), _composed(name).casefold()}:
                self._alike.setdefault(key, []).append(name)

    def find(self, folder: str, name: str) -> str | None:
        """The file that a table in `folder` calls `name`, if there is exactly one."""
        spelt = dict.fromkeys([name, name.replace("\\", "/")])
        paths = [path for one in spelt for path in (posixpath.join(folder, one), one)]
        for path in map(posixpath.normpath, paths):
            if path in self._exact:
                return path
            for key in (_composed(path), _composed(path).casefold()):
                if len(alike := self._alike.get(key, [])) == 1:
                    return alike[0]
        return None


class _Sidecars:
    """Text files by the name of the image that they belong to."""

    def __init__(self, others: Iterable[str], *, keyed: bool):
        self._by_stem: dict[str, dict[str, str]] = {}
        self._by_key: dict[str, list[str]] | None = {} if keyed else None
        for name in others:
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() in SIDECAR_SUFFIXES:
                self._by_stem.setdefault(_composed(stem), {}).setdefault(suffix.lower(), name)
                if self._by_key is not None:
                    self._by_key.setdefault(sample_key(name), []).append(name)

    def of(self, image: str) -> list[str]:
        """Those of `image`, the first to be read first."""
        for stem in (posixpath.splitext(image)[0], image):  # a.txt or a.png.txt
            if found := self._by_stem.get(_composed(stem)):
                return [found[suffix] for suffix in SIDECAR_SUFFIXES if suffix in found]
        keyed = (self._by_key or {}).get(sample_key(image), [])
        return sorted(keyed, key=_preference)


def sample_key(name: str) -> str:
    """The sample that a file of a tar belongs to: its name up to the first dot."""
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def _preference(name: str) -> tuple[int, int, str]:
    parts = posixpath.basename(name).lower().split(".")[1:]
    ranks = [_PREFERRED.index(part) for part in parts if part in _PREFERRED]
    return SIDECAR_SUFFIXES.index(f".{parts[-1]}"), min(ranks, default=len(_PREFERRED)), name


def _table_order(name: str) -> tuple[str, int]:
    folder, base = posixpath.split(name)
    return folder, (".jsonl", ".csv", ".tsv", ".parquet").index(posixpath.splitext(base.lower())[1])


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _read_table(
    files: ImageFiles, table: str, names: _Names, images: set[str], found: Captions
) -> None:
    found.used.add(table)
    try:
        content = files.read(table)
    except UnreadableImageError as error:
        found.problems.append((table, str(error)))
        return
    keys, has_captions = set[str](), False
    for place, fields, reason in read_table(table, content):
        if fields is None:
            found.problems.append((place, reason))
            continue
        if COPY_OF not in fields:  # a copy has none
            keys |= fields.keys()
        listed, text = image_name(fields), caption_of(fields)
        has_captions = has_captions or text is not None
        if listed is None:
            found.problems.append(
                (place, 'lacks "file_name": each row needs "file_name" and "text"')
            )
            continue
        name = names.find(posixpath.dirname(table), listed)
        if name is None:
            found.problems.append((place, f"{printable(listed)!r} is no file here"))
        elif name in images:
            found.records.setdefault(name, fields)
            _add(found, name, place, text)
    if keys and not has_captions:
        wanted = ", ".join(f'"{key}"' for key in CAPTION_KEYS)
        reason = f"has no captions: none of {wanted}, but {', '.join(sorted(keys)[:8])}"
        found.problems.append((table, reason))


def _read_sidecar(files: ImageFiles, image: str, beside: _Sidecars, found: Captions) -> None:
    """The captions of the first file beside `image` that holds any."""
    for name in beside.of(image):
        found.used.add(name)
        if image in found.texts:
            continue
        try:
            content = files.read(name)
            if len(content) > MAX_SIDECAR_BYTES:
                raise UndecodableTextError("too large for captions")
            text = decode_text(content)
        except (UnreadableImageError, UndecodableTextError) as error:
            found.problems.append((name, str(error)))
            continue
        if name.lower().endswith(".json"):
            try:
                record = json.loads(text)
            except (ValueError, RecursionError) as error:
                found.problems.append((name, f"not valid JSON ({error})"))
                continue
            if isinstance(record, dict):
                found.records.setdefault(image, record)
                _add(found, image, name, caption_of(record))
        else:
            _add(found, image, name, text.splitlines())


def _add(found: Captions, image: str, place: str, text: Any) -> None:
    """Add the captions in a field, each once."""
    if text is None:
        return
    if not isinstance(text, str | list | tuple):
        found.problems.append((place, "the caption is neither a text nor a list of texts"))
        return
    for line in [text] if isinstance(text, str) else text:
        if not isinstance(line, str) or not line.strip():
            continue
        # a lone surrogate, which JSON can hold, is no text that can be written again
        clean = line.encode("utf-8", "replace").decode().strip()
        if "\ufffd" in clean or any(
            unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in clean
        ):
            found.problems.append((place, "the caption holds signs that are no text: restore it"))
        elif clean not in found.texts.setdefault(image, []):
            found.texts[image].append(clean)
    if not found.texts.get(image, True):
        del found.texts[image]
