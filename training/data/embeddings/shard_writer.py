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
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import save_tensors, write_json_lines
from torch_utils.host_reads import HostRead, on_host
from torch_utils.sending import send
from training.data.embeddings.embedding_set import FORMAT

SHARD_SIZE = 2048  # images
UNINDEXED = (
    1 / 8
)  # of all rows, in shards that a killed process may lose: the index is written whole


@dataclass(frozen=True)
class PreparedImage:
    """An image that waits to be embedded."""

    row: dict  # of the index, but for shard and row
    resized: Tensor  # as `ClipEncoder.resize` gives it


class ShardWriter:
    """Embeddings that wait to be written as one file."""

    def __init__(self, clip: ClipEncoder, text_encoder: TextEncoder | None, background: str):
        self.clip, self.text_encoder, self.background = clip, text_encoder, background
        self.rows: list[dict] = []
        self.image: list[Tensor] = []  # on the CLIP's device
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
        resized = {"images": torch.stack([item.resized for item in items])}
        images = send(resized, self.clip.device)["images"]
        self.image.append(self.clip.embed_resized(images).half())
        for start in range(0, len(captions), 256):
            part = captions[start : start + 256]
            features = read_texts([text for _, text in part], self.clip, self.text_encoder)
            self.text.append(on_host(features.embedding, HostRead.EMBEDDINGS).half())
            tokens, lengths = on_host(features.tokens, HostRead.EMBEDDINGS), features.lengths
            self.states += [s[:n].half() for s, n in zip(tokens, lengths.tolist(), strict=True)]
            self.caption_image += [image for image, _ in part]

    def write(self, out: Path, number: int) -> list[dict]:
        """Write the shard; the index rows of its images. InputError where an embedding is not
        finite.
        """
        tensors = {"image": on_host(torch.cat(self.image), HostRead.EMBEDDINGS)}
        if self.caption_image:
            tensors |= {
                "text": torch.cat(self.text),
                "caption_image": torch.tensor(self.caption_image),
                "text_tokens": torch.cat(self.states),
                "text_offsets": torch.tensor(
                    [0, *np.cumsum([len(state) for state in self.states]).tolist()]
                ),
            }
        for what, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(
                    f"The encoder gives embeddings ({what}) that are not finite, or beyond "
                    "float16. Copy or download its weights again, or choose another."
                )
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
    """Shards and index of a folder. Whole shards are written as images come, and the index where it
    has grown by an eighth: with each shard it would be written n^2 times for n shards.
    """

    def __init__(
        self, out: Path, new_shard: Callable[[], ShardWriter], rows: list[dict], *, batch: int
    ):
        """`rows` are those of the index already; images are embedded `batch` at a time."""
        self.rows, self._num_indexed = rows, len(rows)
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
        self._shard, self._number = self._new_shard(), self._number + 1
        if len(self.rows) - self._num_indexed >= len(self.rows) * UNINDEXED:
            self.save_index()

    def save_index(self) -> None:
        """Write the index of the whole shards."""
        write_json_lines(self._out / "index.jsonl", self._sorted())
        self._num_indexed = len(self.rows)

    def _sorted(self) -> list[dict]:
        return sorted(self.rows, key=lambda row: row["file_name"])


def _number(shard: Path) -> int:
    """Of a shard; -1 for a file that is named otherwise."""
    number = shard.stem.partition("-")[2]
    return int(number) if number.isdecimal() else -1
