"""Images in a folder or an archive, captions optional: listing, and an honest account of what is
broken or not used, which callers collect into `report.jsonl`.
"""

import io
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

from lafite_shifted.errors import InputError, TooManyBadImagesError
from training.data.captions import tables as metadata_tables
from training.data.captions.reader import SIDECAR_SUFFIXES, read_captions
from training.data.decoding.crop import DEFAULT_SQUARES
from training.data.decoding.decode import DEFAULT_MAX_MEGAPIXELS, Decoded, decode
from training.data.files.archives import ARCHIVES, TarFiles
from training.data.files.image_files import IMAGE_SUFFIXES, NotUsed
from training.data.files.listing import list_images, suffix_of
from training.data.files.sources import open_files

TABLE_SUFFIXES = metadata_tables.SUFFIXES
TEXT_SUFFIXES = (*SIDECAR_SUFFIXES, *TABLE_SUFFIXES)


class ImageSource:
    """The images of a folder (nested ones included), of a zip archive or of tar shards, in sorted
    order, with captions where there are any (see `captions`).

    What is no image to train on is listed in `not_used`, and what of the captions cannot be used in
    `caption_problems`. Raises InputError when there is nothing usable.
    """

    def __init__(self, where: Path, *, exclude: Path | None = None):
        """`exclude` is a folder whose images do not count, such as a run inside `where`."""
        self.where = where
        self._files = open_files(where, exclude=exclude)
        listing = list_images(self._files)
        self.names = listing.images
        self._unsupported = listing.unsupported
        self.not_used = listing.not_used
        if not self.names and not self._unsupported:
            raise _no_images(where, listing.others, self.not_used)
        keyed = isinstance(self._files, TarFiles)
        found = read_captions(self._files, self.names, listing.others, keyed=keyed)
        self.captions, self.metadata = found.texts, found.records
        self.caption_problems = found.problems
        self.not_used += [NotUsed(n, _no_image(n)) for n in listing.others if n not in found.used]

    def __len__(self) -> int:
        return len(self.names)

    def short_name(self, name: str) -> str:
        """`name`, without that of its shard, which starts it where there are several."""
        return self._files.name_in_shard(name) if isinstance(self._files, TarFiles) else name

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

    def size(self, name: str) -> int:
        """Bytes of the file; UnreadableImageError where it is gone."""
        return self.stamp(name)[0]

    def stamp(self, name: str) -> tuple[int, int]:
        """Size and time of change; UnreadableImageError where the file is gone."""
        return self._files.stamp(name)

    def unused_texts(self) -> list[NotUsed]:
        """Files that look like captions, and are none of any image."""
        return [one for one in self.not_used if suffix_of(one.file_name) in TEXT_SUFFIXES]

    def unusable(self) -> list[tuple[str, str]]:
        """(name, reason) of every image that the listing alone shows to be of no use."""
        return [*self._unsupported]


def _no_image(name: str) -> str:
    """Why a file that is no image is not used."""
    if suffix_of(name) in SIDECAR_SUFFIXES:
        return "no image of its name lies beside it"
    if suffix_of(name) in ARCHIVES:
        return "an archive: give it by itself, or unpack it"
    if suffix_of(name) in TABLE_SUFFIXES:
        return "no image; captions are read from metadata.jsonl, metadata.csv or metadata.parquet"
    return "no image"


def _no_images(where: Path, others: list[str], not_used: list[NotUsed]) -> InputError:
    kinds = sorted({suffix_of(name) or posixpath.basename(name) for name in others})[:5]
    holds = f"only {len(others)} other files ({', '.join(kinds)})" if others else "nothing"
    passed = sum(one.count for one in not_used)
    reasons = ", ".join(sorted({one.reason for one in not_used})[:3])
    also = f", and {passed} that do not count ({reasons})" if passed else ""
    archives = " Unpack archives, or give one .zip or .tar by itself." * any(
        suffix_of(name) in ARCHIVES for name in others
    )
    return InputError(
        f"{where} holds no images: {holds}{also}. Give a folder with images "
        f"({', '.join(sorted(IMAGE_SUFFIXES))}).{archives}"
    )


def bad_image_rows(bad: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Rows for `report.jsonl`: one {"file_name", "reason"} an unreadable image."""
    return [{"file_name": name, "reason": reason} for name, reason in bad]


def check_share_of_bad(
    bad: Sequence[tuple[str, str]],
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
