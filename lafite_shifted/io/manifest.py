"""manifest.jsonl of a folder of generated images: a row for each file, with all that it was made
from. Rows are appended as images are saved, so that a run that was stopped can be resumed.
"""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import check_own_rows, read_json_lines, write_bytes, write_json_lines

NAME = "manifest.jsonl"
FIELDS = {"file": str, "seed": int, "model": str}


class Manifest:
    """The rows of a folder, by file."""

    def __init__(self, folder: Path):
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
        """Whether the file is there, made from the same."""
        found = self.rows.get(row["file"])
        return found == row and (self.path.parent / row["file"]).is_file()

    def forget(self, files: Collection[str]) -> None:
        """Remove the rows of files that are about to be made again."""
        kept = {file: row for file, row in self.rows.items() if file not in files}
        if len(kept) < len(self.rows):
            write_json_lines(self.path, list(kept.values()))
            self.rows = kept

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of files that have been saved, in one piece."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("ab") as file:
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
