"""Embeddings while they are made: images and captions in, shards and rows of an index out.

Shape letters: n images, m captions, D embedding, L tokens, F width of the text tower.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.text_encoder import TextEncoder, read_texts
from lafite_shifted.io.files import save_tensors, write_json_lines
from training.data.embeddings.embedding_set import FORMAT

SHARD_SIZE = 2048  # images


@dataclass(frozen=True)
class PreparedImage:
    """An image that waits to be embedded."""

    row: dict  # of the index, but for shard and row
    prepared: Tensor  # what the CLIP takes


class ShardWriter:
    """Embeddings that wait to be written as one file."""

    def __init__(self, clip: ClipEncoder, text_encoder: TextEncoder | None, background: str):
        self.clip, self.text_encoder, self.background = clip, text_encoder, background
        self.rows: list[dict] = []
        self.image: list[Tensor] = []
        self.text: list[Tensor] = []
        self.states: list[Tensor] = []  # of each caption, [L, F] float16
        self.caption_image: list[int] = []

    @torch.no_grad()
    def add(self, items: Sequence[PreparedImage]) -> None:
        """Embed a batch of images and their captions."""
        captions = [
            (len(self.rows) + i, text)
            for i, item in enumerate(items)
            for text in item.row["captions"]
        ]
        self.rows += [item.row for item in items]
        self.image.append(
            self.clip.embed_prepared(torch.stack([item.prepared for item in items])).cpu().half()
        )
        for start in range(0, len(captions), 256):
            part = captions[start : start + 256]
            features = read_texts([text for _, text in part], self.clip, self.text_encoder)
            self.text.append(features.embedding.cpu().half())
            lengths = features.lengths.tolist()
            self.states += [
                state[:n].cpu().half() for state, n in zip(features.tokens, lengths, strict=True)
            ]
            self.caption_image += [image for image, _ in part]

    def write(self, out: Path, number: int) -> list[dict]:
        """Write the shard; the index rows of its images."""
        tensors = {"image": torch.cat(self.image)}
        if self.caption_image:
            tensors |= {
                "text": torch.cat(self.text),
                "caption_image": torch.tensor(self.caption_image),
                "text_tokens": torch.cat(self.states),
                "text_offsets": torch.tensor(
                    [0, *np.cumsum([len(state) for state in self.states]).tolist()]
                ),
            }
        name = f"shard-{number:05d}.safetensors"
        save_tensors(
            out / name,
            tensors,
            {
                "kind": "embeddings",
                "format": FORMAT,
                "encoder": self.clip.id.to_json(),
                "context_length": (self.text_encoder or self.clip).context_length,
                "text_encoder": self.text_encoder and asdict(self.text_encoder.id),
                "background": self.background,
            },
        )
        return [item | {"shard": name, "row": row} for row, item in enumerate(self.rows)]


class EmbeddingWriter:
    """Shards and index of a folder. Whole shards are written as images come, and the index with
    each.
    """

    def __init__(
        self, out: Path, new_shard: Callable[[], ShardWriter], rows: list[dict], *, batch: int
    ):
        """`rows` are those of the index already; images are embedded `batch` at a time."""
        self.rows = rows
        self._out, self._new_shard, self._batch = out, new_shard, batch
        self._shard, self._waiting = new_shard(), list[PreparedImage]()
        found = (_number(path) for path in out.glob("shard-*.safetensors"))
        self._number = 1 + max(found, default=-1)

    def add(self, image: PreparedImage) -> None:
        """Embed and write it, at once or with later ones."""
        self._waiting.append(image)
        if len(self._waiting) == self._batch:
            self._embed()
        if len(self._shard.rows) >= SHARD_SIZE:
            self._write()

    def finish(self) -> list[dict]:
        """Write the rest; all rows of the index, by name."""
        if self._waiting:
            self._embed()
        if self._shard.rows:
            self._write()
        return self._sorted()

    def _embed(self) -> None:
        self._shard.add(self._waiting)
        self._waiting = []

    def _write(self) -> None:
        self.rows += self._shard.write(self._out, self._number)
        write_json_lines(self._out / "index.jsonl", self._sorted())
        self._shard, self._number = self._new_shard(), self._number + 1

    def _sorted(self) -> list[dict]:
        return sorted(self.rows, key=lambda row: row["file_name"])


def _number(shard: Path) -> int:
    """Of a shard; -1 for a file that is named otherwise."""
    number = shard.stem.partition("-")[2]
    return int(number) if number.isdecimal() else -1
