"""Zip archives, and tar shards as WebDataset writes them: never extracted, and read at any place,
so that the order of the data is the same everywhere.

An archive may come from a stranger. What an image archive has no reason to hold (paths out of it,
links, encrypted or nested archives, names twice, entries that overlap) is refused whole; an entry
that lies about its size, or that unpacks to far more than it is packed in and does not begin as an
image, is one bad image.
"""

import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from lafite_shifted.errors import InputError
from training.data.files.image_files import (
    HEAD,
    HIDDEN,
    MAX_BYTES,
    SYSTEM,
    NotUsed,
    UnreadableImageError,
    belongs_to_a_system,
    image_format,
    is_hidden,
    too_large,
)

SUSPECT_RATIO = 200  # of a file in a zip to its compressed size, where it is above SMALL
SMALL = 2**20
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


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
        names = [posixpath.normpath(entry.filename.replace("\\", "/")) for entry in entries]
        _check_names(where, [entry.filename for entry in entries], as_known=names)
        for entry in entries:
            _check_zip_entry(where, entry)
        _check_overlap(where, entries, end=self._archive.start_dir)
        self._entries = dict(zip(names, entries, strict=True))
        self._names, self.passed_over = _sorted_out(names)

    def names(self) -> list[str]:
        """As `ImageFiles.names`."""
        return self._names

    def read(self, name: str) -> bytes:
        """As `ImageFiles.read`."""
        entry = self._entries.get(name)
        if entry is None:
            raise UnreadableImageError("it is not in the archive any more")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # the others unpack more than they are asked for
            raise UnreadableImageError("packed in a way that is not read: only deflate is")
        if entry.file_size > MAX_BYTES:
            raise UnreadableImageError(too_large(entry.file_size))
        suspect = entry.file_size > max(SMALL, SUSPECT_RATIO * entry.compress_size)
        if suspect and image_format(self._unpacked(entry, HEAD)) is None:  # a flat bitmap is one
            raise UnreadableImageError(
                f"{entry.file_size / 1e6:.0f} MB in {entry.compress_size / 1e6:.3f} MB of the "
                "archive, which do not begin as an image"
            )
        content = self._unpacked(entry, entry.file_size + 1)
        if len(content) != entry.file_size:
            raise UnreadableImageError("its size is not what the archive says")
        return content

    def _unpacked(self, entry: zipfile.ZipInfo, most: int) -> bytes:
        """The first `most` bytes."""
        try:
            with self._archive.open(entry) as file:
                return file.read(most)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise UnreadableImageError(f"broken in the archive: {error}") from error
        except (NotImplementedError, RuntimeError) as error:
            raise UnreadableImageError(f"packed in a way that is not read: {error}") from error

    def head(self, name: str) -> bytes:
        """As `ImageFiles.head`."""
        entry = self._entries[name]
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableImageError("packed in a way that is not read: only deflate is")
        return self._unpacked(entry, HEAD)

    def stamp(self, name: str) -> tuple[int, int]:
        """As `ImageFiles.stamp`."""
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
        self._heads = list[str]()  # what names of a shard's files start with
        for number, shard in enumerate(shards):
            members = _tar_members(shard)
            names = [posixpath.normpath(member.name) for member in members]  # ./a.png is a.png
            _check_names(shard, (member.name for member in members), as_known=names)
            head = "" if where == shard else f"{shard.relative_to(where).as_posix()}/"
            self._heads.append(head)
            for name, member in zip(names, members, strict=True):
                self._places[head + name] = (number, member.offset_data, member.size)
        self._names, self.passed_over = _sorted_out(self._places)

    def names(self) -> list[str]:
        """As `ImageFiles.names`."""
        return self._names

    def name_in_shard(self, name: str) -> str:
        """`name` without its shard's."""
        return name.removeprefix(self._heads[self._places[name][0]])

    def read(self, name: str) -> bytes:
        """As `ImageFiles.read`."""
        if name not in self._places:
            raise UnreadableImageError("it is in no shard any more")
        shard, offset, size = self._places[name]
        if size > MAX_BYTES:
            raise UnreadableImageError(too_large(size))
        return self._content(shard, offset, size)

    def _content(self, shard: int, offset: int, size: int) -> bytes:
        try:
            with self._shards[shard].open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise UnreadableImageError(f"its shard cannot be read: {error.strerror}") from error
        if len(content) != size:
            raise UnreadableImageError("its shard ends before it does")
        return content

    def head(self, name: str) -> bytes:
        """As `ImageFiles.head`."""
        shard, offset, size = self._places[name]
        return self._content(shard, offset, min(size, HEAD))

    def stamp(self, name: str) -> tuple[int, int]:
        """As `ImageFiles.stamp`."""
        shard, _, size = self._places[name]
        return size, self._times[shard]


def _sorted_out(names: Iterable[str]) -> tuple[list[str], list[NotUsed]]:
    """The names that count, sorted, and those that are hidden or of a system."""
    used, passed_over = list[str](), list[NotUsed]()
    for name in sorted(names):
        if belongs_to_a_system(name):
            passed_over.append(NotUsed(name, SYSTEM))
        elif is_hidden(name):
            passed_over.append(NotUsed(name, HIDDEN))
        else:
            used.append(name)
    return used, passed_over


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
        if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name) or "\0" in name:
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
