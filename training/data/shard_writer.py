"""One shard of embeddings while it is made: images and captions in, a file and its index rows out.

Shape letters: n images, m captions, D embedding, L tokens, F width of the text tower.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.text_encoder import TextEncoder, read_texts
from lafite_shifted.io.files import save_tensors
from training.data.embeddings import FORMAT


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
