"""Where images lie: a folder, a zip archive, or tar shards as WebDataset writes them. Archives
are never extracted, and read at any place, so that the order of the data is the same everywhere.

An archive may come from a stranger. What an image archive has no reason to hold (paths out of it,
links, encrypted or nested archives, names twice, entries that overlap) is refused whole; an entry
that lies about its size, or is far larger than its image can be, is one bad image.
"""

import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from lafite_shifted.errors import InputError

MAX_BYTES = 512 * 2**20  # of one file
MAX_RATIO = 200  # of a file in a zip to its compressed size, where it is above SMALL
SMALL = 2**20
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


class UnreadableImageError(Exception):
    """One image cannot be used; the message is the reason, in words for `report.jsonl`."""


class ImageFiles(Protocol):
    """Files by name, some of them images."""

    where: Path

    def names(self) -> list[str]:
        """Every file, sorted; with forward slashes."""
        ...

    def read(self, name: str) -> bytes:
        """The whole content; UnreadableImageError says why not."""
        ...

    def stamp(self, name: str) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds: alike where nothing has changed."""
        ...


def open_files(where: Path, *, exclude: Path | None = None) -> ImageFiles:
    """What lies at `where`; InputError if it is nothing that we read. `exclude` is a folder in a
    folder that does not count.
    """
    if where.is_dir():
        files = FolderFiles(where, exclude=exclude)
        names = files.names()
        shards = [name for name in names if name.endswith(".tar")]
        if shards and len(shards) == len(names):  # one tar among images is no shard of them
            return TarFiles(where, [where / name for name in shards])
        return files
    if where.is_file() and where.suffix.lower() == ".zip":
        return ZipFiles(where)
    if where.is_file() and where.suffix.lower() == ".tar":
        return TarFiles(where, [where])
    if re.match(r"https?:", str(where)):
        raise InputError(
            f"{where} lies elsewhere. Only `embed` and `train-gan` read shards at a URL; else the "
            "images must be at hand: download them first."
        )
    what = "is neither a folder nor a .zip or .tar" if where.exists() else "does not exist"
    raise InputError(
        f"{where} {what}. Give a folder of images, a zip archive, or a folder of .tar shards."
    )


class FolderFiles:
    """All files below a folder, links followed; hidden ones are passed over."""

    def __init__(self, where: Path, *, exclude: Path | None = None):
        self.where = where
        self._exclude = exclude.resolve() if exclude else None

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.where).as_posix() for path in self._below(self.where))

    def _below(self, folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
        """Files below; `above` are the real folders that lead here: a link back would go round."""
        target = folder.resolve()
        if target in above or target == self._exclude:
            return
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from self._below(entry, above | {target})
            else:
                yield entry

    def read(self, name: str) -> bytes:
        try:
            path = self.where / name
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImageError("no file, but a pipe or a device")
            if status.st_size > MAX_BYTES:
                raise UnreadableImageError(_too_large(status.st_size))
            return path.read_bytes()
        except FileNotFoundError:
            raise UnreadableImageError("the file does not exist") from None
        except OSError as error:
            raise UnreadableImageError(f"cannot be read: {error.strerror}") from error

    def stamp(self, name: str) -> tuple[int, int]:
        status = (self.where / name).stat()
        return status.st_size, status.st_mtime_ns


class ZipFiles:
    """The files of a zip archive (zip64 too), as StyleGAN's tools write it or any other."""

    def __init__(self, where: Path):
        self.where = where
        self._time = where.stat().st_mtime_ns
        try:
            self._archive = zipfile.ZipFile(where)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
            raise InputError(
                f"{where} is damaged, or no zip archive ({error}). Copy or download it again."
            ) from error
        entries = [entry for entry in self._archive.infolist() if not entry.is_dir()]
        names = [entry.filename for entry in entries]
        _check_names(where, names, as_known=names)
        for entry in entries:
            _check_zip_entry(where, entry)
        _check_overlap(where, entries, end=self._archive.start_dir)
        self._entries = {entry.filename: entry for entry in entries}

    def names(self) -> list[str]:
        return sorted(name for name in self._entries if not _is_hidden(name))

    def read(self, name: str) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise UnreadableImageError("it is not in the archive any more")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # the others unpack more than they are asked for
            raise UnreadableImageError("packed in a way that is not read: only deflate is")
        if entry.file_size > MAX_BYTES:
            raise UnreadableImageError(_too_large(entry.file_size))
        if entry.file_size > max(SMALL, MAX_RATIO * entry.compress_size):
            raise UnreadableImageError(
                f"{entry.file_size / 1e6:.0f} MB in {entry.compress_size / 1e6:.3f} MB of the "
                "archive: no image is packed so small"
            )
        try:
            with self._archive.open(entry) as file:
                content = file.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise UnreadableImageError(f"broken in the archive: {error}") from error
        except (NotImplementedError, RuntimeError) as error:
            raise UnreadableImageError(f"packed in a way that is not read: {error}") from error
        if len(content) != entry.file_size:
            raise UnreadableImageError("its size is not what the archive says")
        return content

    def stamp(self, name: str) -> tuple[int, int]:
        return self._entries[name].file_size, self._time


class TarFiles:
    """The files of uncompressed tar shards, each found by its offset; in a folder of shards, names
    start with the shard's.
    """

    def __init__(self, where: Path, shards: list[Path]):
        self.where = where
        self._places: dict[str, tuple[int, int, int]] = {}  # shard, offset, size
        self._times = [shard.stat().st_mtime_ns for shard in shards]
        self._shards = shards
        for number, shard in enumerate(shards):
            members = _tar_members(shard)
            names = [posixpath.normpath(member.name) for member in members]  # ./a.png is a.png
            _check_names(shard, (member.name for member in members), as_known=names)
            head = "" if where == shard else f"{shard.relative_to(where).as_posix()}/"
            for name, member in zip(names, members, strict=True):
                self._places[head + name] = (number, member.offset_data, member.size)

    def names(self) -> list[str]:
        return sorted(name for name in self._places if not _is_hidden(name))

    def read(self, name: str) -> bytes:
        if name not in self._places:
            raise UnreadableImageError("it is in no shard any more")
        shard, offset, size = self._places[name]
        if size > MAX_BYTES:
            raise UnreadableImageError(_too_large(size))
        try:
            with self._shards[shard].open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise UnreadableImageError(f"its shard cannot be read: {error.strerror}") from error
        if len(content) != size:
            raise UnreadableImageError("its shard ends before it does")
        return content

    def stamp(self, name: str) -> tuple[int, int]:
        shard, _, size = self._places[name]
        return size, self._times[shard]


class _Member(tarfile.TarInfo):
    """Refuses sizes below 0, with which a shard is read in circles (CVE-2025-8194), and above what
    a header may have, which would be read into memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        most = 2**63 if member.isreg() else 2**20  # long names and pax headers are read whole
        if not 0 <= member.size <= most:
            raise tarfile.ReadError(f"a size of {member.size}")
        return member


def _tar_members(shard: Path) -> list[tarfile.TarInfo]:
    broken = (tarfile.TarError, OSError, EOFError, ValueError)
    bombs = (MemoryError, OverflowError, RecursionError)
    size, members = shard.stat().st_size, []
    try:
        with tarfile.open(shard, "r:", tarinfo=_Member) as archive:
            for member in archive:
                if not 0 <= member.size <= size:
                    raise tarfile.ReadError(f"{member.name!r} has a size of {member.size}")
                if not member.isdir():
                    members.append(member)
            _check_end(shard, archive.offset)
    except (*broken, *bombs) as error:
        raise InputError(
            f"{shard} is damaged, or no uncompressed tar ({error}). Copy it again, or unpack a "
            "compressed one first."
        ) from error
    for member in members:
        if not member.isreg() or member.issparse():
            raise InputError(
                f"{shard} holds {member.name!r}, which is a link or no plain file. Pack the files "
                "themselves."
            )
    return members


def _check_end(shard: Path, offset: int) -> None:
    """ReadError unless the archive ends where its reader has stopped: it stops at any header that
    is damaged, and says nothing.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no header where one should be, at byte {offset}")


def _check_names(where: Path, names: Iterable[str], *, as_known: Iterable[str]) -> None:
    """InputError for names that lead out of the archive, come twice (`as_known`), or are
    archives.
    """
    seen = set[str]()
    for name, known in zip(names, as_known, strict=True):
        if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or "\0" in name:
            problem = "an absolute path"
        elif ".." in re.split(r"[/\\]", name):
            problem = "a path out of the archive"
        elif known in seen:
            problem = "a name that comes twice"
        elif name.lower().endswith(ARCHIVES):
            problem = "an archive in the archive"
        else:
            seen.add(known)
            continue
        raise InputError(f"{where} holds {name!r}: {problem}. Pack the images anew, without it.")


def _check_zip_entry(where: Path, entry: zipfile.ZipInfo) -> None:
    mode = entry.external_attr >> 16
    if stat.S_ISLNK(mode):
        problem = "a link"
    elif entry.flag_bits & 0x1:
        problem = "encrypted"
    else:
        return
    raise InputError(
        f"{where} holds {entry.filename!r}, which is {problem}. Pack the images themselves."
    )


def _check_overlap(where: Path, entries: list[zipfile.ZipInfo], *, end: int) -> None:
    """InputError where an entry shares bytes with the next one (one small file that unpacks as many
    large ones), or with the directory that begins at `end`.
    """
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    starts = [*(entry.header_offset for entry in ordered), end]
    for entry, (start, following) in zip(ordered, pairwise(starts), strict=True):
        # the local header has 30 bytes and the name, at the least
        if start + 30 + len(entry.orig_filename) + entry.compress_size > following:
            raise InputError(
                f"{where}: {entry.filename!r} overlaps what follows it, as in an archive made to "
                "harm. Pack the images anew."
            )


def _is_hidden(name: str) -> bool:
    """As programs hide what is theirs: .DS_Store, or __MACOSX/._image.png."""
    return any(part.startswith((".", "__MACOSX")) for part in name.removeprefix("./").split("/"))


def _too_large(size: int) -> str:
    return f"{size / 2**20:.0f} MiB, the limit of one file is {MAX_BYTES // 2**20}"
