"""A small image, and the same files in a folder, a zip and a tar."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE = io.BytesIO()
Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(IMAGE, "PNG")
PNG = IMAGE.getvalue()


def zip_of(path: Path, entries: dict[str, bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def tar_of(path: Path, entries: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def folder_of(path: Path, entries: dict[str, bytes]) -> Path:
    for name, content in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path
