"""Eight of the shipped images, to learn by heart; and images to damage."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.conftest import ASSETS

# globe, tree, rose, apple, ball, elephant, face, rocket
NAMES = ["1f30e", "1f333", "1f339", "1f34e", "1f3b1", "1f418", "1f600", "1f680"]


def eight_images(size: int) -> Tensor:
    """[8, 3, size, size] in [-1, 1]."""
    arrays = []
    for name in NAMES:
        with Image.open(ASSETS / "images" / f"3d-{name}.png") as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
            arrays.append(np.array(small))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def damage(path: Path) -> None:
    """So that size and time of change tell nothing."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def some_of(images: Path, folder: Path, *, count: int) -> Path:
    """The first of shipped images with their captions, in a folder that is there."""
    rows = (images / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    for row in rows:
        shutil.copy(images / json.loads(row)["file_name"], folder)
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
