"""Frames as an animated WebP or GIF, by Pillow, or as an MP4, by PyAV where it is installed. Each
says that it is ours, and none is written over another program's.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import atomic_file
from lafite_shifted.io.image_file import has_own_exif, own_exif
from lafite_shifted.io.png import SOFTWARE

KINDS = ("webp", "gif", "mp4")
SMALLEST = 256  # pixels: smaller frames are enlarged, or players show stamps


def check_own_animation(path: Path) -> None:
    """InputError where `path` is there, and another program's; or where it cannot be written."""
    if path.suffix == ".mp4":
        _require_av()
    if path.exists() and not _is_own(path):
        raise InputError(
            f"{path} was not written by lafite-shifted, and stays as it is. Choose another --out, "
            "or move it away."
        )


def _is_own(path: Path) -> bool:
    if path.suffix == ".mp4":
        return SOFTWARE.encode() in path.read_bytes()
    if path.suffix == ".webp":
        return has_own_exif(path)
    try:
        with Image.open(path) as image:
            return image.info.get("comment", b"").startswith(SOFTWARE.encode())
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return False


def save_animation(
    path: Path, frames: Iterable[Image.Image], metadata: Mapping[str, str], *, fps: int
) -> int:
    """Write frames of one size as they come, in the format of the suffix, atomically; returns how
    many. WebP and GIF play for ever.
    """
    check_own_animation(path)
    with atomic_file(path) as file:
        return write_animation(file, path.suffix[1:], frames, metadata, fps=fps)


def write_animation(
    file: BinaryIO,
    kind: str,
    frames: Iterable[Image.Image],
    metadata: Mapping[str, str],
    *,
    fps: int,
) -> int:
    """The same into an open file; `kind` is one of KINDS."""
    count = 0

    def counted() -> Iterator[Image.Image]:
        nonlocal count
        for frame in frames:
            count += 1
            scale = max(1, -(-SMALLEST // min(frame.size)))
            size = (frame.width * scale, frame.height * scale)
            yield frame.resize(size, Image.Resampling.NEAREST)

    described = f"{SOFTWARE} {json.dumps(metadata)}"
    if kind == "mp4":
        _save_mp4(file, counted(), described, fps)
        return count
    own = {"webp": {"exif": own_exif(metadata), "quality": 90}}
    options = own.get(kind, {"comment": described.encode()[:255]})
    rest = counted()
    next(rest).save(
        file,
        format=kind.upper(),
        save_all=True,
        append_images=rest,
        duration=max(20, round(1000 / fps)),
        loop=0,
        **options,
    )
    return count


def _require_av():
    try:
        import av
    except ImportError as error:
        raise InputError(
            "MP4 needs the package av. Install it: pip install 'lafite-shifted[video]'; or take "
            "--animation webp."
        ) from error
    return av


def _save_mp4(file: BinaryIO, frames: Iterator[Image.Image], described: str, fps: int) -> None:
    av = _require_av()
    with av.open(file, mode="w", format="mp4") as container:
        container.metadata["comment"] = described
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"  # what every player shows
        for number, frame in enumerate(frames):
            if number == 0:
                stream.width, stream.height = frame.size
            packet = av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")
            container.mux(stream.encode(packet))
        container.mux(stream.encode())
