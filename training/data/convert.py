"""Image sets from one layout to another: a folder, a zip archive or tar shards, at a resolution,
captions included.

The work is done in parts, each a tar that is whole or absent, in a folder beside the target: what
was interrupted resumes with the next part. The target appears when all of it is there and checked.
"""

import io
import json
import posixpath
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import (
    atomic_file,
    read_json,
    sha256_of,
    write_json,
)
from torch_utils import seeds
from training.config import positive
from training.data.augmented_copies import COPY_OF, augmented_square
from training.data.decoding.crop import DEFAULT_SQUARES, SquareConfig, to_square
from training.data.decoding.read_image import (
    DEFAULT_READ_OPTIONS,
    OpenImage,
    ReadOptions,
    read_image,
)
from training.data.files.image_files import UnreadableImageError
from training.data.image_cache import num_threads
from training.data.images import ImageSource, bad_image_rows, check_share_of_bad
from training.data.layouts import Layout, counts, lay_out
from training.data.portable_names import names_of_copies, portable_names

KIND, FORMAT = "conversion", 1
SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
_SAVING: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 4},
    "webp": {"lossless": True, "method": 2},
    "jpeg": {"quality": 95, "subsampling": 0},
}


@dataclass(frozen=True)
class ConvertConfig:
    """What the images of the new set shall be."""

    layout: Layout = "folder"
    resolution: int | None = None  # pixels of their squares; None: the files as they are
    image_format: Literal["png", "webp", "jpeg"] = "png"  # webp is lossless; of squares only
    images_per_shard: int = 1000
    squares: SquareConfig = DEFAULT_SQUARES
    augmented_copies: int = 0  # of each image, beside it; of squares only

    def __post_init__(self) -> None:
        positive(self, "images_per_shard")
        if self.resolution is not None:
            positive(self, "resolution")
        if self.augmented_copies < 0 or (self.augmented_copies and self.resolution is None):
            raise ValueError(
                "augmented_copies must be at least 0, and needs a resolution: copies are squares"
            )


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote."""

    num_images: int
    num_captions: int
    num_bytes: int
    bad: list[tuple[str, str]]
    renamed: dict[str, str]  # images whose name is another now, beyond the suffix


@dataclass(frozen=True)
class _Target:
    """Where a set is written to, and the files of its parts until then."""

    path: Path
    work: Path

    def part(self, number: int) -> Path:
        return self.work / f"shard-{number:05d}.tar"

    def record(self, number: int) -> Path:
        return self.work / f"shard-{number:05d}.json"


def convert(
    source: ImageSource,
    out: Path,
    config: ConvertConfig,
    *,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
) -> Converted:
    """Write the images of `source` and their captions to `out`. InputError if it exists, or holds
    parts of another conversion; TooManyBadImagesError as when images are embedded.
    """
    if out.exists():
        raise InputError(f"{out} exists already. Choose another target, or delete it first.")
    if config.layout == "zip" and out.suffix.lower() != ".zip":
        raise InputError(f"A zip archive has a name that ends so. Write {out.name}.zip.")
    if source.where.is_dir() and source.where.resolve() in out.resolve().parents:
        raise InputError(
            f"{out} would be a part of {source.where}, whose images the next reading of it would "
            "find twice. Choose a target outside."
        )
    target = _Target(out, out.with_name(f".{out.name}.converting"))
    _begin(target, source, config)
    suffix = None if config.resolution is None else SUFFIXES[config.image_format]
    first = portable_names(source, suffix=suffix)
    copies = names_of_copies(first, count=config.augmented_copies)
    names = {name: [new, *copies[name]] for name, new in first.items()}
    chunks = [
        source.names[start : start + config.images_per_shard]
        for start in range(0, len(source.names), config.images_per_shard)
    ]
    bad, done = source.unusable(), 0
    for number, chunk in enumerate(chunks):
        if not target.record(number).exists():
            _write_part(target, number, source, chunk, names, config, options)
        bad += [(row["file_name"], row["reason"]) for row in read_json(target.record(number))]
        done += len(chunk)
        options.progress(done, len(source.names))
    total = len(source.names) + len(source.unusable())
    check_share_of_bad(bad, total, max_share=options.max_bad)
    found = _finish(target, config, len(chunks), bad, _renamed(source, first, bad))
    shutil.rmtree(target.work)
    return found


def _begin(target: _Target, source: ImageSource, config: ConvertConfig) -> None:
    """Make the folder of the parts, or go on with the one that is there."""
    stamps = json.dumps([[name, *_stamp(source, name)] for name in source.names])
    record = {
        "kind": KIND,
        "format": FORMAT,
        "config": asdict(config),
        "source": {"num_images": len(source.names), "fingerprint": sha256_of(stamps.encode())},
    }
    file = target.work / "conversion.json"
    if file.exists() and read_json(file) != record:
        raise InputError(
            f"{target.work} holds parts of another conversion to {target.path}: other images or "
            "settings. Give those again to go on, or delete it."
        )
    target.work.mkdir(parents=True, exist_ok=True)
    write_json(file, record)


def _stamp(source: ImageSource, name: str) -> tuple[int, int]:
    try:
        return source.stamp(name)
    except UnreadableImageError:
        return 0, 0


def _renamed(
    source: ImageSource, names: dict[str, str], bad: list[tuple[str, str]]
) -> dict[str, str]:
    def stem(name: str) -> str:
        return posixpath.splitext(name)[0]

    missing = {name for name, _ in bad}
    return {
        name: new
        for name, new in names.items()
        if stem(new) not in (stem(name), stem(source.short_name(name))) and name not in missing
    }


def _write_part(
    target: _Target,
    number: int,
    source: ImageSource,
    chunk: list[str],
    names: dict[str, list[str]],
    config: ConvertConfig,
    options: ReadOptions,
) -> None:
    def read(name: str) -> list[bytes] | UnreadableImageError:
        def use(image: OpenImage) -> list[bytes]:
            return _encoded(image, config, name)

        try:
            return read_image(source, name, use, options=options, background=config.squares.colour)
        except UnreadableImageError as error:
            return error

    bad = list[tuple[str, str]]()
    with (
        ThreadPoolExecutor(num_threads()) as pool,
        atomic_file(target.part(number)) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, contents in zip(chunk, pool.map(read, chunk), strict=True):
            if isinstance(contents, UnreadableImageError):
                bad.append((name, str(contents)))
                continue
            first, *copies = names[name]
            records = [
                _captions(source, name),
                *({COPY_OF: posixpath.basename(first)} for _ in copies),
            ]
            for new, content, record in zip((first, *copies), contents, records, strict=True):
                _add(archive, new, content)
                if record:
                    side = json.dumps(record, ensure_ascii=False).encode()
                    _add(archive, posixpath.splitext(new)[0] + ".json", side)
    write_json(target.record(number), bad_image_rows(bad))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """A file with neither owner nor time: the same images give the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _encoded(image: OpenImage, config: ConvertConfig, name: str) -> list[bytes]:
    """The file of the image, and those of its copies."""
    if config.resolution is None:
        return [image.content]
    rgb = image.decoded.image
    squares = [Image.fromarray(to_square(rgb, config.resolution, config.squares))]
    for number in range(config.augmented_copies):
        random = seeds.numpy_generator("augmented copy", name, number)
        squares.append(augmented_square(rgb, config.resolution, config.squares, random))
    return [_file_of(square, config) for square in squares]


def _file_of(square: Image.Image, config: ConvertConfig) -> bytes:
    target = io.BytesIO()
    square.save(target, config.image_format.upper(), **_SAVING[config.image_format])
    return target.getvalue()


def _captions(source: ImageSource, name: str) -> dict[str, Any]:
    """All that is known of an image besides its pixels."""
    record = {key: value for key, value in source.metadata.get(name, {}).items() if key != "text"}
    record.pop("file_name", None)
    texts = source.captions.get(name, [])
    return record | ({"text": texts[0] if len(texts) == 1 else texts} if texts else {})


def _finish(
    target: _Target,
    config: ConvertConfig,
    num_parts: int,
    bad: list[tuple[str, str]],
    renamed: dict[str, str],
) -> Converted:
    """Lay the parts out as the target, and check it: read as a training reads it. An assertion is a
    fault of ours.
    """
    parts = [target.part(number) for number in range(num_parts)]
    images, captions = counts(parts)
    lay_out(parts, target.path, config.layout)
    path = target.path
    found = ImageSource(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    arrived = (len(found.names), len({*found.captions, *found.metadata}))
    assert arrived == (images, captions), f"{arrived} of {(images, captions)} arrived"
    return Converted(images, len(found.captions), size, bad, renamed)
