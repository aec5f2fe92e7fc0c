"""CLIP embeddings of a folder on disk: float16 shards and an index, made once, reused by every
verb.

    shard-00000.safetensors   image [n, D]; with captions also text [m, D], caption_image [m],
                              text_tokens [sum of lengths, F], text_offsets [m + 1]
    index.jsonl               {"file_name", "size", "mtime_ns", "sha256", "shard", "row",
                              "captions", "split_key"}, of an augmented copy "copy_of" too
    report.jsonl              what cannot be read or is not used, see `report_file`

Shards carry the format number of the whole, the encoder's id, that of the text encoder whose token
states they hold (none: the CLIP's own text tower), and the background of transparent images. An
index.jsonl with other fields is another program's.

Shape letters: n images, m captions, D embedding, L tokens, F width of the text tower.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lafite_shifted.encoders.encoder_id import (
    EncoderId,
    TextEncoderId,
    check_same_encoder,
    check_same_text_encoder,
)
from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import (
    check_format,
    check_own_rows,
    has_fields,
    load_tensors,
    read_json_lines,
)
from lafite_shifted.io.stored_rows import StoredRows, StoredTensor, open_tensors
from training.data.embeddings.index import FIELDS, Lazy, open_index

FORMAT = 1


def holds_embeddings(folder: Path) -> bool:
    """Whether index.jsonl there is one of ours, by its first row; an empty one is."""
    path = folder / "index.jsonl"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        return not first or has_fields(json.loads(first), FIELDS)
    except (ValueError, RecursionError):
        return False


def check_own_index(folder: Path) -> None:
    """InputError where index.jsonl there is another program's, by its first row."""
    if (folder / "index.jsonl").is_file() and not holds_embeddings(folder):
        check_own_rows([None], FIELDS, folder / "index.jsonl")


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The rows of index.jsonl, none where there is no such file; InputError where it is another
    program's.
    """
    path = folder / "index.jsonl"
    if not path.is_file():
        return []
    rows: list[Any] = read_json_lines(path) if holds_embeddings(folder) else [None]
    return check_own_rows(rows, FIELDS, path)


class EmbeddingSet:
    """Embeddings of a folder, rows in the order of the index: unit float32 when they are read,
    which is when they are indexed. Memory holds some 30 bytes an image and as many a caption.
    """

    image: StoredRows  # [n, D]
    text: StoredRows  # [m, D]
    caption_image: Tensor  # [m], rows of images

    def __init__(self, folder: Path):
        self.folder = folder
        if not holds_embeddings(folder):
            raise InputError(
                f"{folder} holds no embeddings. Make them with `lafite-shifted embed IMAGES "
                f"--out {folder}`."
            )
        self._index = open_index(folder)
        shards = [_Shard.open(folder / name, folder) for name in self._index.shards]
        self.encoder_id, self.text_encoder = shards[0].encoder_id, shards[0].text_encoder
        for name, shard in zip(self._index.shards, shards, strict=True):
            what, remedy = str(folder / name), f"Delete {folder} and embed again."
            check_same_encoder(shard.encoder_id, self.encoder_id, what=what, remedy=remedy)
            check_same_text_encoder(shard.text_encoder, self.text_encoder, what=what, remedy=remedy)
        self._tensors = [shard.tensors for shard in shards]
        self.image = self._rows("image", self._index.shard, self._index.row)
        self._gather_captions()
        # tokens that the text tower reads, however short the captions are
        longest = int(self._lengths.max(initial=1))
        self.context_length = max(longest, *(shard.context_length for shard in shards))

    def _rows(self, name: str, shard: np.ndarray, row: np.ndarray) -> StoredRows:
        tensors = [tensors.get(name, tensors["image"]) for tensors in self._tensors]
        dim, normalise = self._tensors[0]["image"].shape[1], self.encoder_id.normalise
        return StoredRows(tensors, tensor=shard, row=row, dim=dim, prepare=normalise)

    def _gather_captions(self) -> None:
        """Where the captions of each image lie, in the order of the images."""
        images, shard = [np.empty(0, np.int64)], self._index.shard
        places, starts, lengths = ([np.empty(0, np.int32)] for _ in range(3))
        order = np.argsort(shard, kind="stable")
        ends = np.searchsorted(shard[order], np.arange(len(self._tensors)), side="right")
        for own, tensors in zip(np.split(order, ends[:-1]), self._tensors, strict=True):
            if "text" not in tensors:
                continue
            image_of = np.full(tensors["image"].shape[0], -1, np.int64)  # by row of the shard
            image_of[self._index.row[own]] = own
            found = image_of[tensors["caption_image"].all().numpy()]
            offsets = tensors["text_offsets"].all().numpy()
            (kept,) = np.nonzero(found >= 0)
            images.append(found[kept])
            places.append(kept.astype(np.int32))
            starts.append(offsets[kept].astype(np.int32))
            lengths.append((offsets[kept + 1] - offsets[kept]).astype(np.int32))
        image = np.concatenate(images)
        order = np.argsort(image, kind="stable")
        self.caption_image = torch.from_numpy(image[order])
        place, self._starts, self._lengths = (
            np.concatenate(parts)[order] for parts in (places, starts, lengths)
        )
        self.text = self._rows("text", shard[self.caption_image], place)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def names(self) -> Lazy[str]:
        """File names of the images, [n]."""
        return self._index.names

    @property
    def captions(self) -> Lazy[str]:
        """Their texts, [m]."""

        def text(caption: int) -> str:
            image = int(self.caption_image[caption])
            first = int(torch.searchsorted(self.caption_image, image))
            return self._index.record(image)["captions"][caption - first]

        return Lazy(len(self.text), text)

    def captions_by_name(self) -> dict[str, list[str]]:
        """The captions of every file, in memory."""
        return {row["file_name"]: row["captions"] for row in self._index.records()}

    @property
    def fingerprint(self) -> str:
        """Changes when an image, its name or a caption does."""
        return self._index.fingerprint

    @property
    def token_width(self) -> int:
        """Width of the text tower; 0 without captions."""
        return self._tokens_of(0).shape[1] if len(self.text) else 0

    @property
    def held_out(self) -> Tensor:
        """[n] bool: the side of the split."""
        return self._index.held_out

    @property
    def is_copy(self) -> Tensor:
        """[n] bool: an augmented copy of another image, to train on and not to measure on."""
        return self._index.is_copy

    def stats(self, rows: Tensor | None = None) -> EmbeddingStats:
        """Statistics of all images, or of those that `rows` (indices or a mask) picks."""
        image = self.image if rows is None else self.image.take(rows)
        return EmbeddingStats.of(image, self.encoder_id)

    def _tokens_of(self, caption: int) -> StoredTensor:
        image = int(self.caption_image[caption])
        return self._tensors[self._index.shard[image]]["text_tokens"]

    def text_features(self, captions: Tensor) -> TextFeatures:
        """Text features of the captions with these indices, tokens padded to the longest."""
        places = captions.numpy()
        starts, lengths = self._starts[places], self._lengths[places]
        states = [
            self._tokens_of(caption).span(start, start + count)
            for caption, start, count in zip(
                places.tolist(), starts.tolist(), lengths.tolist(), strict=True
            )
        ]
        tokens = pad_sequence(states, batch_first=True).float()
        return TextFeatures(self.text[captions], tokens, torch.from_numpy(lengths).long())


class _Shard(NamedTuple):
    """A shard as it is opened: nothing of its rows is read."""

    tensors: dict[str, StoredTensor]
    encoder_id: EncoderId
    text_encoder: TextEncoderId | None
    context_length: int

    @staticmethod
    def open(path: Path, folder: Path) -> "_Shard":
        remedy = f"Delete {folder} and embed the images again."
        tensors, metadata = open_tensors(path, remedy=remedy)
        check_format(metadata, kind="embeddings", version=FORMAT, path=path)
        encoder_id = EncoderId.from_json(metadata["encoder"])
        length = int(metadata.get("context_length", 0))
        return _Shard(tensors, encoder_id, text_encoder_of(metadata), length)


def text_encoder_of(metadata: dict) -> TextEncoderId | None:
    """Whose token states a shard holds; None: those of the CLIP's own text tower."""
    record = metadata.get("text_encoder")
    return TextEncoderId(**record) if record else None


def load_shard(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of one shard; InputError if damaged or of another format."""
    remedy = f"Delete {path.parent} and embed the images again."
    tensors, metadata = load_tensors(path, remedy=remedy)
    check_format(metadata, kind="embeddings", version=FORMAT, path=path)
    return tensors, metadata
