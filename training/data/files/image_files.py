"""Files by name, some of them images: what folders and archives have in common, what the first
bytes of a file say that it is, and whose a name is.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_BYTES = 512 * 2**20  # of one file
HEAD = 1024  # bytes that decide what a file is

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
# names that we do not read, but do not pass over in silence either
OTHER_IMAGE_SUFFIXES = frozenset(
    {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".tga", ".ppm"}
)
HIDDEN = "hidden"
SYSTEM = "of a system or a NAS (thumbnails, deleted files)"

_SYSTEM_FOLDERS = frozenset(  # of NAS, operating systems and programs; in lower case
    {
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found"),
        *("__macosx", "network trash folder", "temporary items", "found.000"),
        *("_thumbs", ".@__thumb", "_vti_cnf", "ipod photo cache", "captureone"),
    }
)
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"})
_THUMBNAILS = re.compile(r"synophoto_thumb_\w+\.jpg|synofile_thumb_\w+\.\w+", re.IGNORECASE)
_FTYP_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "CR3"}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"heif"})
_OTHER_MAGIC = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
    b"qoif": "QOI",
    b"v/1\x01": "OpenEXR",
    b"DDS ": "DDS",
    b"#?RADIANCE": "Radiance HDR",
}
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # sizes of the second header


class UnreadableImageError(Exception):
    """One image cannot be used; the message is the reason, in words for `report.jsonl`."""


@dataclass(frozen=True)
class NotUsed:
    """A file that counts neither as an image nor as a bad one, or `count` of them in a folder."""

    file_name: str
    reason: str
    count: int = 1


class ImageFiles(Protocol):
    """Files by name, some of them images."""

    where: Path
    passed_over: list[NotUsed]  # what is not even listed: hidden, of a system, unreadable folders

    def names(self) -> list[str]:
        """Every other file, sorted; with forward slashes."""
        ...

    def read(self, name: str) -> bytes:
        """The whole content; UnreadableImageError says why not."""
        ...

    def head(self, name: str) -> bytes:
        """The first HEAD bytes; UnreadableImageError says why not."""
        ...

    def stamp(self, name: str) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds: alike where nothing has changed.
        UnreadableImageError where the file is gone.
        """
        ...


def image_format(head: bytes) -> str | None:
    """Which image format that we read begins like this, if any."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def other_image_format(head: bytes) -> str | None:
    """Which image format that we do not read begins like this, if any."""
    for magic, name in _OTHER_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "HEIC" if brand in _HEIC_BRANDS else _FTYP_BRANDS.get(brand)
    if re.match(rb"P[1-7]\s+(#.*\s+)?\d+\s+\d+\s", head):
        return "PPM"
    if head.lstrip().startswith((b"<?xml", b"<!", b"<svg")) and b"<svg" in head:
        return "SVG"
    return None


def is_hidden(name: str) -> bool:
    """As programs hide what is theirs: .DS_Store, or folder/._image.png."""
    return any(part.startswith(".") for part in name.removeprefix("./").split("/"))


def belongs_to_a_system(name: str) -> bool:
    """Thumbnails, recycle bins and databases of operating systems and NAS: @eaDir/x/y.jpg."""
    *folders, last = name.lower().split("/")
    return (
        any(part in _SYSTEM_FOLDERS or part.endswith(".lrdata") for part in (*folders, last))
        or last in _SYSTEM_FILES
        or _THUMBNAILS.fullmatch(last) is not None
    )


def too_large(size: int) -> str:
    """The reason of a file of so many bytes that is larger than a file may be."""
    return f"{size / 2**20:.0f} MiB, the limit of one file is {MAX_BYTES // 2**20}"
