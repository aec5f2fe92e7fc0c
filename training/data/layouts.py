"""A set of images in tar shards, laid out as what users have: a folder, a zip archive, the shards.

A shard holds each image, and after it its record `.json` if it has captions or other metadata.
"""

import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from lafite_shifted.io.files import atomic_directory, atomic_file, write_bytes, write_json_lines
from lafite_shifted.io.leftovers import remove_abandoned

Layout = Literal["folder", "zip", "shards"]


def lay_out(parts: list[Path], path: Path, layout: Layout) -> None:
    """The shards `parts` as `path`, which appears when it is whole. Copies of it that killed
    processes have left beside it go.
    """
    remove_abandoned(path)
    if layout == "zip":
        with atomic_file(path) as file:
            _write_zip(parts, file)
        return
    with atomic_directory(path) as folder:
        if layout == "folder":
            _write_folder(parts, folder)
            return
        for part in parts:
            write_bytes(folder / part.name, part.read_bytes())


def counts(parts: list[Path]) -> tuple[int, int]:
    """Images and records in shards."""
    names = [name for name, _ in _members(parts)]
    captions = sum(name.endswith(".json") for name in names)
    return len(names) - captions, captions


def _members(parts: list[Path]) -> Iterator[tuple[str, bytes]]:
    for part in parts:
        with tarfile.open(part) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content.read()


def _unpacked(parts: list[Path], write: Callable[[str, bytes], None]) -> list[dict[str, Any]]:
    """`write` each image; the rows of metadata.jsonl, one a caption."""
    rows, last = list[dict[str, Any]](), ""
    for name, content in _members(parts):
        if not name.endswith(".json"):
            write(name, content)
            last = name
            continue
        record = json.loads(content)
        texts = record.pop("text", [])
        for text in [texts] if isinstance(texts, str) else texts:
            rows.append({"file_name": last, "text": text, **record})
        if not texts:
            rows.append({"file_name": last, **record})
    return rows


def _write_folder(parts: list[Path], folder: Path) -> None:
    def write(name: str, content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, content)

    if rows := _unpacked(parts, write):
        write_json_lines(folder / "metadata.jsonl", rows)


def _write_zip(parts: list[Path], file: Any) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), content)

        if rows := _unpacked(parts, write):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            archive.writestr(zipfile.ZipInfo("metadata.jsonl"), lines)
