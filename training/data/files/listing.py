"""Which files of a set are images to train on, decided by content where a name does not say; and
for every other one, why not.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lafite_shifted.io.png import is_own_grid
from training.data.captions.reader import printable
from training.data.files.image_files import (
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    ImageFiles,
    NotUsed,
    UnreadableImageError,
    image_format,
    other_image_format,
)

MASK = "a mask or map of another image"
_MASK_WORDS = (
    "mask|masks|masklabel|seg|segmentation|semantic|instance|instances|panoptic|matte|alpha|"
    "depth|normal|normals|edge|edges|canny|hed|pose|openpose|heatmap|saliency|trimap|label|labels"
)
# fewer: a folder "normal" may well be a class
_MASK_FOLDERS = (
    "masks?|seg|segmentations?|segmentationclass|segmentationobject|semantic|panoptic|mattes?|"
    "trimaps?|depths?|labels?|conditioning|conditioning_images"
)
_MASK_STEM = re.compile(rf"(?P<of>.+?)(?:[._-](?:{_MASK_WORDS}))+", re.IGNORECASE)
_MASK_FOLDER = re.compile(rf"(?:.*[._-])?(?:{_MASK_FOLDERS})", re.IGNORECASE)


@dataclass
class Listing:
    """The files of a set, sorted; names with forward slashes, in order."""

    images: list[str] = field(default_factory=list)
    unsupported: list[tuple[str, str]] = field(default_factory=list)  # images: (name, reason)
    others: list[str] = field(default_factory=list)
    not_used: list[NotUsed] = field(default_factory=list)


def list_images(files: ImageFiles) -> Listing:
    """Sort all files of a set."""
    found = Listing(not_used=list(files.passed_over))
    for name in files.names():
        kind, reason = _kind(files, name)
        if name != printable(name):
            if kind != "other":
                found.unsupported.append((printable(name), "its name is not UTF-8: rename it"))
        elif kind == "image":
            found.images.append(name)
        elif kind in ("grid", "unreadable"):
            found.not_used.append(NotUsed(name, reason))
        elif kind == "unsupported":
            found.unsupported.append((name, reason))
        else:
            found.others.append(name)
    of_others = set(masks(found.images))
    found.images = [name for name in found.images if name not in of_others]
    found.not_used += [NotUsed(name, MASK) for name in sorted(of_others)]
    return found


def suffix_of(name: str) -> str:
    """The suffix of a name, in lower case."""
    return posixpath.splitext(name)[1].lower()


def _kind(files: ImageFiles, name: str) -> tuple[str, str]:
    """Of a file: "image", "grid", "unsupported" (an image), "unreadable" or "other", and the reason
    of those in the middle. A name that says image is believed until the file is decoded: what then
    is none is a bad one.
    """
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES and suffix != ".png":  # a PNG may be a grid
        return "image", ""
    try:
        head = files.head(name)
    except UnreadableImageError as error:
        return ("image", "") if suffix in IMAGE_SUFFIXES else ("unreadable", str(error))
    if is_own_grid(head):
        return "grid", "a grid of lafite-shifted, several images in one, or a plot"
    if suffix in IMAGE_SUFFIXES or image_format(head):
        return "image", ""
    if suffix in OTHER_IMAGE_SUFFIXES or other_image_format(head):
        return "unsupported", "this format is not supported: convert it"
    return "other", ""


def masks(images: list[str]) -> Iterator[str]:
    """Images that belong to another one: a.seg.png beside a.jpg, masks/a.png and images/a.jpg."""
    stems = {posixpath.splitext(name)[0] for name in images}
    by_last = dict[str, set[str]]()  # base name without suffix: folders that hold one
    for name in images:
        folder, last = posixpath.split(posixpath.splitext(name)[0])
        by_last.setdefault(last, set()).add(folder)
    for name in images:
        folder, last = posixpath.split(posixpath.splitext(name)[0])
        word = _MASK_STEM.fullmatch(last)
        if word and posixpath.join(folder, word["of"]) in stems:
            yield name
            continue
        plain = _MASK_STEM.sub(r"\g<of>", last) if word else last
        in_masks = _MASK_FOLDER.fullmatch(posixpath.basename(folder)) is not None
        homes = by_last.get(last, set()) | by_last.get(plain, set())
        if in_masks and any(_is_beside(home, folder) for home in homes):
            yield name


def _is_beside(home: str, folder: str) -> bool:
    """Whether `home` is the folder above, or one beside or below that, which is none of masks."""
    above = posixpath.dirname(folder)
    inside = home == above or posixpath.dirname(home) == above
    return home != folder and inside and not _MASK_FOLDER.fullmatch(posixpath.basename(home))
