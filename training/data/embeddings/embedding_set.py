"""CLIP embeddings of a folder on disk: float16 shards and an index, made once, reused by every
verb.

    shard-00000.safetensors   image [n, D]; with captions also text [m, D], caption_image [m],
                              text_tokens [sum of lengths, F], text_offsets [m + 1]
    index.jsonl               {"file_name", "size", "mtime_ns", "sha256", "shard", "row",
                              "captions", "split_key"}
    report.jsonl              what cannot be read or is not used, see `report_file`

Shards carry the format number of the whole, the encoder's id, that of the text encoder whose token
states they hold (none: the CLIP's own text tower), and the background of transparent images. An
index.jsonl with other fields is another program's.

Shape letters: n images, m captions, D embedding, L tokens, F width of the text tower.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
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
from torch_utils import seeds
from training.data.split import is_held_out

FORMAT = 1
_FIELDS = {"file_name": str, "sha256": str, "shard": str, "row": int, "captions": list}


def holds_embeddings(folder: Path) -> bool:
    """Whether index.jsonl there is one of ours, by its first row; an empty one is."""
    path = folder / "index.jsonl"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        return not first or has_fields(json.loads(first), _FIELDS)
    except (ValueError, RecursionError):
        return False


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The rows of index.jsonl, none where there is no such file; InputError where it is another
    program's.
    """
    path = folder / "index.jsonl"
    if not path.is_file():
        return []
    rows: list[Any] = read_json_lines(path) if holds_embeddings(folder) else [None]
    return check_own_rows(rows, _FIELDS, path)


class EmbeddingSet:
    """Embeddings of a folder in memory, rows in the order of the index; unit float32."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not holds_embeddings(folder):
            raise InputError(
                f"{folder} holds no embeddings. Make them with `lafite-shifted embed IMAGES "
                f"--out {folder}`."
            )
        self.rows = read_index(folder)
        shards = {
            name: load_shard(folder / name) for name in sorted({row["shard"] for row in self.rows})
        }
        if not shards:
            raise InputError(f"{folder} lists no images. Embed a folder that holds some.")
        ids = {
            name: EncoderId.from_json(metadata["encoder"]) for name, (_, metadata) in shards.items()
        }
        self.encoder_id = next(iter(ids.values()))
        readers = {name: text_encoder_of(metadata) for name, (_, metadata) in shards.items()}
        self.text_encoder = next(iter(readers.values()))
        for name, encoder_id in ids.items():
            what, remedy = str(folder / name), f"Delete {folder} and embed again."
            check_same_encoder(encoder_id, self.encoder_id, what=what, remedy=remedy)
            check_same_text_encoder(readers[name], self.text_encoder, what=what, remedy=remedy)
        images = [shards[row["shard"]][0]["image"][row["row"]] for row in self.rows]
        self.image = self.encoder_id.normalise(torch.stack(images).float())
        self._gather_captions({name: tensors for name, (tensors, _) in shards.items()})
        recorded = [int(metadata.get("context_length", 0)) for _, metadata in shards.values()]
        # tokens that the text tower reads, however short the captions are
        self.context_length = max(*recorded, *map(len, self._states), 1)

    def _gather_captions(self, shards: dict[str, dict[str, Tensor]]) -> None:
        captions_of: dict[tuple[str, int], list[int]] = {}
        for name, tensors in shards.items():
            for caption, image in enumerate(tensors.get("caption_image", torch.empty(0)).tolist()):
                captions_of.setdefault((name, int(image)), []).append(caption)
        text, image_index, states, self.captions = [], [], [], list[str]()
        for index, row in enumerate(self.rows):
            tensors = shards[row["shard"]]
            for number, caption in enumerate(captions_of.get((row["shard"], row["row"]), [])):
                start, end = tensors["text_offsets"][caption : caption + 2].tolist()
                text.append(tensors["text"][caption])
                states.append(tensors["text_tokens"][start:end])
                image_index.append(index)
                self.captions.append(row["captions"][number])
        self.caption_image = torch.tensor(image_index, dtype=torch.long)  # [m]
        found = torch.stack(text).float() if text else torch.empty(0, self.image.shape[1])
        self.text = self.encoder_id.normalise(found)
        self._states = states

    @property
    def names(self) -> list[str]:
        """File names of the images, [n]."""
        return [row["file_name"] for row in self.rows]

    @property
    def fingerprint(self) -> str:
        """Changes when an image, its name or a caption does."""
        parts = [(row["file_name"], row["sha256"], *row["captions"]) for row in self.rows]
        return f"{seeds.seed_of(repr(parts)):016x}"

    @property
    def token_width(self) -> int:
        """Width of the text tower; 0 without captions."""
        return self._states[0].shape[1] if self._states else 0

    @property
    def held_out(self) -> Tensor:
        """[n] bool: the side of the split."""
        return torch.tensor([is_held_out(row["split_key"]) for row in self.rows])

    def stats(self, rows: Tensor | None = None) -> EmbeddingStats:
        """Statistics of all images, or of those that `rows` (indices or a mask) picks."""
        return EmbeddingStats.of(self.image if rows is None else self.image[rows], self.encoder_id)

    def text_features(self, captions: Tensor, *, length: int | None = None) -> TextFeatures:
        """Text features of the captions with these indices, tokens padded to `length` or the
        longest.
        """
        states = [self._states[i] for i in captions.tolist()]
        lengths = torch.tensor([len(state) for state in states])
        tokens = pad_sequence(states, batch_first=True).float()
        if length:
            tokens = F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))
        return TextFeatures(self.text[captions], tokens, lengths)


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
