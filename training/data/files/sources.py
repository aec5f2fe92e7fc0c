"""Where images lie: a folder, a zip archive, or tar shards."""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from lafite_shifted.errors import InputError
from training.data.files.archives import ARCHIVES, TarFiles, ZipFiles
from training.data.files.image_files import (
    HEAD,
    HIDDEN,
    IMAGE_SUFFIXES,
    MAX_BYTES,
    SYSTEM,
    ImageFiles,
    NotUsed,
    UnreadableImageError,
    belongs_to_a_system,
    image_format,
    too_large,
)

RUN_KINDS = ("gan", "prior", "clip")  # of config.json in folders of our own runs
MAX_CONFIG_BYTES = 2**20


def open_files(where: Path, *, exclude: Path | None = None) -> ImageFiles:
    """What lies at `where`; InputError if it is nothing that we read. `exclude` is a folder in a
    folder that does not count.
    """
    if where.is_dir():
        return _open_folder(where, exclude)
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
    unpack = " Unpack a compressed archive first." * where.name.lower().endswith(ARCHIVES)
    raise InputError(
        f"{where} {what}. Give a folder of images, a zip archive, or a folder of .tar shards."
        + unpack * where.exists()
    )


def _open_folder(where: Path, exclude: Path | None) -> ImageFiles:
    """A folder of files, or of the tar shards in it: where no image lies beside them, as
    img2dataset puts tables and counts there.
    """
    files = FolderFiles(where, exclude=exclude)
    shards = [name for name in files.names() if name.lower().endswith(".tar")]
    others = [name for name in files.names() if not name.lower().endswith(".tar")]
    if not shards or any(_may_be_image(files, name) for name in others):
        return files  # one tar among images is no shard of them
    found = TarFiles(where, [where / name for name in shards])
    found.passed_over += files.passed_over
    found.passed_over += [NotUsed(name, "beside shards, and none itself") for name in others]
    return found


def _may_be_image(files: ImageFiles, name: str) -> bool:
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        return image_format(files.head(name)) is not None
    except UnreadableImageError:  # the listing says so
        return False


class FolderFiles:
    """All files below a folder, links followed. Hidden ones, those of a system and those of our own
    runs are passed over.
    """

    def __init__(self, where: Path, *, exclude: Path | None = None):
        self.where = where
        self.passed_over = list[NotUsed]()
        self._exclude = _real(exclude) if exclude else None
        self._names = sorted(path.relative_to(where).as_posix() for path in self._below(where))

    def names(self) -> list[str]:
        """As `ImageFiles.names`."""
        return self._names

    def _below(self, folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
        """Files below; `above` are the real folders that lead here: a link back would go round."""
        target = _real(folder)
        if target in above or target == self._exclude:
            return
        try:
            entries = list(folder.iterdir())
        except OSError as error:
            if folder == self.where:
                raise
            self._pass_over(folder, f"the folder cannot be read: {error.strerror}")
            return
        for entry in entries:
            if entry.name.startswith("."):
                self._pass_over(entry, HIDDEN)
            elif belongs_to_a_system(entry.name):
                self._pass_over(entry, SYSTEM)
            elif not _is_folder(entry):
                yield entry
            elif _is_own_run(entry):
                self._pass_over(entry, "a run of lafite-shifted")
            else:
                yield from self._below(entry, above | {target})

    def _pass_over(self, path: Path, reason: str) -> None:
        name, count = path.relative_to(self.where).as_posix(), 1
        if _is_folder(path) and not path.is_symlink():
            name = f"{name}/"
            count = sum(len(files) for _, _, files in os.walk(path))
        self.passed_over.append(NotUsed(name, reason, max(count, 1)))

    def read(self, name: str) -> bytes:
        """As `ImageFiles.read`."""
        try:
            path = self.where / name
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImageError("no file, but a pipe or a device")
            if status.st_size > MAX_BYTES:
                raise UnreadableImageError(too_large(status.st_size))
            return path.read_bytes()
        except OSError as error:
            raise _unreadable(error) from error

    def head(self, name: str) -> bytes:
        """As `ImageFiles.head`."""
        path = self.where / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait
                raise UnreadableImageError("no file, but a pipe or a device")
            with path.open("rb") as file:
                return file.read(HEAD)
        except OSError as error:
            raise _unreadable(error) from error

    def stamp(self, name: str) -> tuple[int, int]:
        """As `ImageFiles.stamp`."""
        try:
            status = (self.where / name).stat()
        except OSError as error:
            raise _unreadable(error) from error
        return status.st_size, status.st_mtime_ns


def _unreadable(error: OSError) -> UnreadableImageError:
    if isinstance(error, FileNotFoundError):
        return UnreadableImageError("the file does not exist")
    return UnreadableImageError(f"cannot be read: {error.strerror}")


def _real(path: Path) -> Path:
    """With its links followed, as far as they lead anywhere."""
    try:
        return path.resolve()
    except RuntimeError:  # round in a circle, before Python 3.13
        return path.absolute()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name behind a folder that may not be entered
        return False


def _is_own_run(folder: Path) -> bool:
    """Whether config.json there is that of a training."""
    path = folder / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
            return False
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # another program's
        return False
    return isinstance(record, dict) and record.get("kind") in RUN_KINDS and "format" in record
