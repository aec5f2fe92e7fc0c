"""Five images and their captions, embedded beside them."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from training.data.decoding.read_image import DEFAULT_READ_OPTIONS, Progress, ReadOptions, silent
from training.data.embeddings.embed import EmbedReport, embed_folder
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.images import ImageSource

CAPTIONS = {
    "a.png": ["one"],
    "b.png": ["a long caption of a thing", "another"],
    "d.png": ["four"],
}


def write_captions(folder: Path, captions: dict[str, list[str]]) -> None:
    rows = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")


def embed(
    images: Path,
    clip: ClipEncoder,
    *,
    max_bad: float = DEFAULT_READ_OPTIONS.max_bad,
    progress: Progress = silent,
    **options,
) -> EmbedReport:
    cache = ReadOptions(max_bad=max_bad, progress=progress)
    out = images.parent / "out"
    return embed_folder(ImageSource(images), out, clip, options=cache, **options)


def open_set(images: Path) -> EmbeddingSet:
    return EmbeddingSet(images.parent / "out")


def expected_image(path: Path, clip: ClipEncoder) -> torch.Tensor:
    """[1, D]."""
    with Image.open(path) as image:
        levels = np.asarray(image.convert("RGB")).copy()
    return clip.embed_images(torch.from_numpy(levels).permute(2, 0, 1)[None])
