"""Files that are either whole or absent: everything is written beside its target, flushed, fsynced
and renamed.

Tensors are stored as safetensors, everything else as JSON; nothing is ever pickled.
"""

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
from torch import Tensor

from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, on_host

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; it becomes `path` when the block ends, and is removed if
    the block raises.

    Raises OSError (disk full, read-only) with the old content of `path` intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; it replaces `path` when the block ends.

    `path` is the old or the new one at any moment where the system can exchange two names; where
    not, a kill between two renames leaves it to `remove_leftovers` to bring the old one back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        yield temporary
        _fsync_directory(temporary)
        if not (path.exists() and _exchange(temporary, path)):
            if path.exists():
                path.replace(retired)
            temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if retired.exists() and not path.exists():
            retired.replace(path)
        raise
    try:
        _fsync_directory(path.parent)
    finally:
        for old in (temporary, retired):
            shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names swap what they stand for, at once; False where the system or the file system
    cannot.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, glibc 2.28
    names = (os.fsencode(first), os.fsencode(second))
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def remove_leftovers(folder: Path) -> None:
    """Remove, from `folder` and below, what processes that were killed left half-written; a folder
    that one of them had taken away and not replaced comes back.
    """
    for retired in list(folder.rglob(".*.old")):
        path = retired.with_name(retired.name.removeprefix(".").rsplit(".", 2)[0])
        if retired.is_dir() and not path.exists():
            retired.replace(path)
    for pattern in (".*.tmp", ".*.old"):
        for leftover in list(folder.rglob(pattern)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""
    with atomic_file(path) as file:
        file.write(content)


def check_own_text(path: Path, title: str) -> None:
    """InputError where `path` is there, and does not begin with `title`, the mark of ours."""
    if not path.exists():
        return
    with path.open("rb") as file:
        if file.read(len(title.encode()) + 1) == f"{title}\n".encode():
            return
    raise InputError(
        f"{path} was not written by lafite-shifted, and stays as it is. Choose another --out, or "
        "move it away."
    )


def write_text(path: Path, title: str, text: str) -> None:
    """Write `title` and `text`, atomically, but not over another program's file."""
    check_own_text(path, title)
    write_bytes(path, f"{title}\n\n{text}\n".encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_json_lines(path: Path, rows: list[Any]) -> None:
    """Write one JSON value a line, atomically."""
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def read_json(path: Path) -> Any:
    """The JSON value in `path`; InputError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Check the path.") from None
    except (ValueError, RecursionError) as error:  # numbers and nesting without end, too
        raise InputError(
            f"{path} is not valid JSON ({error}). Restore it or make it again."
        ) from error


def read_json_lines(path: Path) -> list[Any]:
    """The JSON values in `path`, one a line; InputError names the line that is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Check the path.") from None
    return [row for _, row in numbered_json_lines(content, what=str(path))]


def numbered_json_lines(content: bytes, *, what: str) -> list[tuple[int, Any]]:
    """(line number, JSON value) of every line that is not blank; `what` names it in errors."""
    rows, number = [], 0
    try:
        lines = content.decode("utf-8").split("\n")  # splitlines() cuts at U+2028 too
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append((number, json.loads(line)))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{what}, line {number}, is not valid JSON ({error.msg}). Mend that line."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # numbers and nesting without end
        raise InputError(
            f"{what}, line {number}, is not read ({error}). Mend that line."
        ) from error
    return rows


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` as safetensors, atomically; `metadata` (any JSON values) in the header.
    InputError where a file of another program, or of another kind, would be lost.
    """
    _check_own_tensors(path, metadata.get("kind"))
    content = safetensors.torch.save(
        {name: on_host(x, HostRead.FILE).contiguous() for name, x in tensors.items()},
        {name: json.dumps(value) for name, value in metadata.items()},
    )
    write_bytes(path, content)


def _check_own_tensors(path: Path, kind: str | None) -> None:
    if not path.exists():
        return
    with suppress(InputError):  # no safetensors, or a damaged file
        if load_tensors(path, only=())[1].get("kind") == kind:
            return
    raise InputError(
        f"{path} was not written by lafite-shifted, or holds something else, and stays as it is. "
        "Choose another --out, or move it away."
    )


def is_utf8(path: Path) -> bool:
    """Whether the bytes of a path are its text in UTF-8, as libraries take it in any locale."""
    try:
        return str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:
        return False


@contextmanager
def _utf8_name(path: Path) -> Iterator[Path]:
    """A name that safetensors, which takes UTF-8 alone, can open, until the block ends."""
    if is_utf8(path):
        yield path
        return
    with path.open("rb") as file:
        yield Path(f"/proc/self/fd/{file.fileno()}")


def load_tensors(
    path: Path,
    *,
    only: Collection[str] | None = None,
    remedy: str = "Copy or download it again.",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (CPU; `only` those of these names) and metadata written by `save_tensors`;
    InputError, ending in `remedy`, if truncated or foreign.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist. Check the path.")
    try:
        with _utf8_name(path) as name, safetensors.safe_open(name, framework="pt") as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            names = [name for name in file.keys() if only is None or name in only]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}, metadata
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is truncated or not a safetensors file of ours ({error}). {remedy}"
        ) from error


def has_fields(row: Any, fields: Mapping[str, type]) -> bool:
    """Whether a JSON value is an object with these fields, by which rows of ours are recognised."""
    return isinstance(row, dict) and all(
        isinstance(row.get(name), kind) for name, kind in fields.items()
    )


def check_own_rows(rows: list[Any], fields: Mapping[str, type], path: Path) -> list[dict[str, Any]]:
    """The rows; InputError unless all have these fields: then another program wrote the file."""
    if not all(has_fields(row, fields) for row in rows):
        raise InputError(
            f"{path} was not written by lafite-shifted, and stays as it is. Choose another --out."
        )
    return rows


def check_format(metadata: Mapping[str, Any], *, kind: str, version: int, path: Path) -> None:
    """InputError unless `metadata` says that `path` holds `kind` in format `version`."""
    if metadata.get("kind") != kind:
        raise InputError(
            f"{path} holds {metadata.get('kind', 'something else')!r}, not {kind!r}. Check the "
            "path."
        )
    if metadata.get("format") != version:
        raise InputError(
            f"{path} has format {metadata.get('format')}, this version reads {version}. "
            f"Make it again, or install the version of lafite-shifted that wrote it."
        )


def sha256_of(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()
