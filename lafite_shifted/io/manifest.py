"""manifest.jsonl of a folder of generated images: a row for each file, with all that it was made
from. Rows are appended as images are saved, so that a run that was stopped can be resumed.
"""

import fcntl
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import (
    check_own_rows,
    read_json_lines,
    write_bytes,
    write_json_lines,
)
from lafite_shifted.io.image_file import is_complete
from lafite_shifted.io.leftovers import remove_abandoned_in

NAME = "manifest.jsonl"
FIELDS = {"file": str, "seed": int, "model": str}


class Manifest:
    """The rows of a folder, by file. What killed processes left there half-written goes."""

    def __init__(self, folder: Path):
        remove_abandoned_in(folder)
        self.path = folder / NAME
        self.rows = {row["file"]: row for row in self._read()}

    def _read(self) -> list[dict[str, Any]]:
        """The rows; what a process that was killed wrote of its last one is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content) and content.startswith(b'{"file"'):
            write_bytes(self.path, whole)
        return check_own_rows(read_json_lines(self.path), FIELDS, self.path)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether the file is there, whole, made from the same."""
        found = self.rows.get(row["file"])
        return found == row and is_complete(self.path.parent / row["file"])

    def forget(self, files: Collection[str]) -> None:
        """Remove the rows of files that are about to be made again; those that another process has
        added since stay.
        """
        if self.rows.keys().isdisjoint(files):
            return
        with _locked(self.path.parent):
            rows = {row["file"]: row for row in self._read()}
            self.rows = {file: row for file, row in rows.items() if file not in files}
            write_json_lines(self.path, list(self.rows.values()))

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of files that have been saved, in one piece."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with _locked(self.path.parent), self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def check_distinct(files: Iterable[str], remedy: str) -> None:
    """InputError where two images of a run would have one name."""
    seen: set[str] = set()
    for file in files:
        if file in seen:
            raise InputError(f"Two images would be {file}. {remedy}")
        seen.add(file)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Other processes that ask for the lock of `folder` wait, where its file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
