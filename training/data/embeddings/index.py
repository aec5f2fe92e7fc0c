"""index.jsonl of a set of embeddings, of which only numbers are held in memory: names and captions
are read from the file when they are wanted, some 25 bytes an image whatever they say.
"""

import hashlib
import json
import os
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import check_own_rows, has_fields, numbered_json_lines
from training.data.augmented_copies import COPY_OF
from training.data.split import is_held_out

FIELDS = {"file_name": str, "sha256": str, "shard": str, "row": int, "captions": list}

Value = TypeVar("Value")


class Lazy(Sequence[Value], Generic[Value]):
    """A sequence of `count` values, each made when it is wanted."""

    def __init__(self, count: int, value: Callable[[int], Value]):
        self._count, self._value = count, value

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Value: ...
    @overload
    def __getitem__(self, place: slice) -> list[Value]: ...
    def __getitem__(self, place: int | slice) -> Value | list[Value]:
        """The value at `place`, or a list of those of a slice."""
        if isinstance(place, slice):
            return [self._value(number) for number in range(self._count)[place]]
        return self._value(range(self._count)[place])


class Index:
    """The rows of index.jsonl in `folder`; InputError where it is another program's, or damaged."""

    def __init__(self, folder: Path):
        self.path = folder / "index.jsonl"
        self._size = self.path.stat().st_size
        starts, shard, row, held_out = array("q"), array("i"), array("i"), array("b")
        counts, is_copy = array("i"), array("b")
        numbers, fingerprint = dict[str, int](), Fingerprint()
        self._file = os.open(self.path, os.O_RDONLY)  # of another file once it is written anew
        weakref.finalize(self, os.close, self._file)
        for start, record in self._all():
            starts.append(start)
            shard.append(numbers.setdefault(record["shard"], len(numbers)))
            row.append(record["row"])
            held_out.append(is_held_out(record["split_key"]))
            is_copy.append(COPY_OF in record)
            counts.append(len(record["captions"]))
            fingerprint.add((record["file_name"], record["sha256"], *record["captions"]))
        self.shards = list(numbers)  # names of files
        self._starts = np.frombuffer(starts, np.int64)
        self.shard, self.row = np.frombuffer(shard, np.int32), np.frombuffer(row, np.int32)
        self.held_out, self.is_copy = (
            torch.from_numpy(np.frombuffer(mask, np.bool_).copy()) for mask in (held_out, is_copy)
        )
        self.num_captions = np.frombuffer(counts, np.int32)
        self.fingerprint = fingerprint.value

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def names(self) -> "Lazy[str]":
        """Of the images' files."""
        return Lazy(len(self), lambda row: self.record(row)["file_name"])

    def record(self, row: int) -> dict[str, Any]:
        """The whole row, read from the file."""
        start = int(self._starts[row])
        end = int(self._starts[row + 1]) if row + 1 < len(self) else self._size
        return json.loads(os.pread(self._file, end - start, start))

    def records(self) -> Iterator[dict[str, Any]]:
        """All rows, in order."""
        return (record for _, record in self._all())

    def _all(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row with the place where its line begins."""
        start, fields = 0, FIELDS | {"split_key": str}
        with open(os.dup(self._file), "rb") as file:  # noqa: PTH123  # a descriptor, not a path
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if line.strip():
                    for _, record in _parsed(line, self.path, number):
                        if not has_fields(record, fields):
                            check_own_rows([None], fields, self.path)
                        yield start, record
                start += len(line)


def _parsed(line: bytes, path: Path, number: int) -> list[tuple[int, Any]]:
    try:
        return [(number, json.loads(line))]
    except (ValueError, RecursionError):
        # says what is wrong, by a line that is not the file's first
        return numbered_json_lines(b"\n" * (number - 1) + line, what=str(path))


class Fingerprint:
    """Of a list that may be long: `seeds.seed_of(repr(list))` without the text of all of it. Python
    writes that text in double quotes if it has single ones alone, else in single quotes.
    """

    def __init__(self) -> None:
        self._double, self._single = (hashlib.blake2b(digest_size=8) for _ in range(2))
        self._has_double, self._is_empty = False, True
        self._feed('("[', "('[")

    def add(self, item: object) -> None:
        """The next item of the list."""
        text = ("" if self._is_empty else ", ") + repr(item)
        self._is_empty = False
        self._has_double |= '"' in text
        escaped = text.replace("\\", "\\\\")
        self._feed(escaped, escaped.replace("'", "\\'"))

    def _feed(self, double: str, single: str) -> None:
        self._double.update(double.encode())
        self._single.update(single.encode())

    @property
    def value(self) -> str:
        """Of what was added so far, at least one string: 16 hexadecimal digits."""
        double, single = self._double.copy(), self._single.copy()
        double.update(b']",)')
        single.update(b"]',)")
        digest = (single if self._has_double or self._is_empty else double).digest()
        return f"{int.from_bytes(digest, 'big') >> 1:016x}"


def open_index(folder: Path) -> Index:
    """InputError where there is none, or it lists no images."""
    index = Index(folder)
    if not len(index):
        raise InputError(f"{folder} lists no images. Embed a folder that holds some.")
    return index
