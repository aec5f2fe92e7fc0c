"""Images in a folder or an archive, captions optional: listing, and an honest account of what is
broken, which callers collect into `report.jsonl`.
"""

import io
import json
import posixpath
from collections.abc import Iterable
from pathlib import Path

from lafite_shifted.errors import InputError, TooManyBadImagesError
from lafite_shifted.io.files import numbered_json_lines
from training.data.decoding import DEFAULT_MAX_MEGAPIXELS, DEFAULT_SQUARES, Decoded, decode
from training.data.sources import UnreadableImageError, open_files

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
UNSUPPORTED = frozenset(  # images that we do not read, but do not pass over in silence either
    {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".tga", ".ppm"}
)


class ImageSource:
    """The images of a folder (nested ones included), of a zip archive or of tar shards, in sorted
    order, with captions where there are any.

    Captions come from `metadata.jsonl` ({"file_name", "text"}; "text" may be a list), from a .txt
    of the same name, one caption a line, or from a .json of the same name ("caption" or "text").
    Raises InputError when there is nothing usable.
    """

    def __init__(self, where: Path, *, exclude: Path | None = None):
        """`exclude` is a folder whose images do not count, such as a run inside `where`."""
        self.where = where
        self._files = open_files(where, exclude=exclude)
        found = self._files.names()  # a link to nothing is an image that cannot be read
        files = [name for name in found if name == printable(name)]
        self._misnamed = [
            printable(name)
            for name in found
            if name != printable(name) and _suffix(name) in SUFFIXES | UNSUPPORTED
        ]
        self.names = [name for name in files if _suffix(name) in SUFFIXES]
        if not self.names and not self._misnamed:
            kinds = sorted({_suffix(name) or posixpath.basename(name) for name in files})[:5]
            holds = f"only {len(files)} other files ({', '.join(kinds)})" if files else "nothing"
            raise InputError(
                f"{where} holds no images: {holds}. Give a folder with images "
                f"({', '.join(sorted(SUFFIXES))})."
            )
        self.unsupported = [name for name in files if _suffix(name) in UNSUPPORTED]
        self._others = set(files) - set(self.names)
        self.metadata = self._read_metadata()
        self.captions = self._read_captions()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> bytes:
        """The file; UnreadableImageError if it cannot be read."""
        return self._files.read(name)

    def decode(
        self,
        name: str,
        *,
        max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
        background: tuple[int, int, int] = DEFAULT_SQUARES.colour,
    ) -> Decoded:
        """The image; UnreadableImageError as in `decode`."""
        file = io.BytesIO(self.read(name))
        return decode(file, max_megapixels=max_megapixels, background=background)

    def stamp(self, name: str) -> tuple[int, int]:
        """Size and time of change."""
        return self._files.stamp(name)

    def missing(self) -> list[str]:
        """Names that metadata.jsonl lists and the folder lacks, in a form that can be printed."""
        return sorted(map(printable, set(self.metadata) - set(self.names) - set(self.unsupported)))

    def unusable(self) -> list[tuple[str, str]]:
        """(name, reason) of every image that the listing alone shows to be of no use."""
        reasons = {
            "listed in metadata.jsonl, but the file does not exist": self.missing(),
            "this format is not supported: convert it": self.unsupported,
            "its name is not UTF-8: rename it": self._misnamed,
        }
        return [(name, reason) for reason, names in reasons.items() for name in names]

    def _read_metadata(self) -> dict[str, dict]:
        if "metadata.jsonl" not in self._others:
            return {}
        rows, what = {}, f"{self.where / 'metadata.jsonl'}"
        for number, row in numbered_json_lines(self._content("metadata.jsonl"), what=what):
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise InputError(
                    f'{what}, line {number}, lacks "file_name". Each line needs "file_name" and '
                    '"text".'
                )
            if not isinstance(row.get("text"), str | list | None):
                raise InputError(
                    f'{what}, line {number}: "text" is neither a caption nor a list of captions. '
                    "Mend that line."
                )
            rows[posixpath.normpath(row["file_name"])] = row  # "./a.png" is "a.png"
        return rows

    def _content(self, name: str) -> bytes:
        try:
            return self.read(name)
        except UnreadableImageError as error:
            raise InputError(f"{self.where / name}: {error}. Mend or remove it.") from error

    def _read_captions(self) -> dict[str, list[str]]:
        captions = {}
        for name in self.names:
            text = self.metadata.get(name, {}).get("text")
            stem = posixpath.splitext(name)[0]
            if text is None and f"{stem}.txt" in self._others:
                text = self._content(f"{stem}.txt").decode("utf-8", errors="replace").splitlines()
            if text is None and f"{stem}.json" in self._others:
                text = self._caption_of_record(f"{stem}.json")
            lines = [text] if isinstance(text, str) else list(text or [])
            # a lone surrogate, which JSON can hold, is no text that can be written again
            lines = [line.encode("utf-8", "replace").decode() for line in lines if _is_text(line)]
            lines = [line.strip() for line in lines]
            if lines:
                captions[name] = lines
        return captions

    def _caption_of_record(self, name: str) -> str | list | None:
        try:
            record = json.loads(self._content(name))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{self.where / name} is no JSON ({error}). Mend or remove it."
            ) from error
        found = [record.get(key) for key in ("caption", "text")] if isinstance(record, dict) else []
        return next((text for text in found if isinstance(text, str | list)), None)


def printable(name: str) -> str:
    """`name` as text that can be written: bytes that are not UTF-8, which file systems and JSON
    allow, as escapes.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def _is_text(line: object) -> bool:
    return isinstance(line, str) and bool(line.strip())


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def bad_image_rows(bad: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Rows for `report.jsonl`: one {"file_name", "reason"} an unreadable image."""
    return [{"file_name": name, "reason": reason} for name, reason in bad]


def check_share_of_bad(
    bad: list[tuple[str, str]],
    total: int,
    *,
    max_share: float,
    remedy: str = "Remove or replace them",
) -> None:
    """TooManyBadImagesError when more than `max_share` of `total` images, or all of them, could
    not be read.
    """
    if len(bad) < total and len(bad) / total <= max_share:
        return
    listed = "".join(f"\n  {name}: {reason}" for name, reason in bad[:20])
    more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
    raise TooManyBadImagesError(
        f"{len(bad)} of {total} images cannot be read, more than --max-bad {100 * max_share:g}% "
        f"allows. {remedy}, or raise --max-bad:{listed}{more}"
    )
