"""Statistics of embeddings shard by shard, in constant memory, shared among the processes of
torchrun. Shape letters: n rows of a shard, D embedding.
"""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.kmeans import Reservoir
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import check_format, load_tensors
from torch_utils import distributed
from training.data.embeddings.embedding_set import FORMAT


class EmbeddingStream:
    """The image embeddings of a folder, without captions and names.

    With an index.jsonl those that it lists; without one, as a cluster of machines may have written
    them, all rows of all shards.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._rows = _rows_by_shard(folder / "index.jsonl")
        found = sorted(path.name for path in folder.glob("shard-*.safetensors"))
        self.shards = found if self._rows is None else sorted(self._rows)
        if not self.shards:
            raise InputError(
                f"{folder} holds no embeddings. Make them with `lafite-shifted embed IMAGES "
                f"--out {folder}`."
            )
        image, self.encoder_id = self._load(self.shards[0])
        self.dim = image.shape[1]

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the shard, unit float32 [n, D]) of this process's share of the shards."""
        for number in range(distributed.rank(), len(self.shards), distributed.world_size()):
            yield number, self._load(self.shards[number])[0]

    def _load(self, name: str) -> tuple[Tensor, EncoderId]:
        path = self.folder / name
        remedy = f"Delete {self.folder} and embed the images again."
        tensors, metadata = load_tensors(path, only=("image",), remedy=remedy)
        check_format(metadata, kind="embeddings", version=FORMAT, path=path)
        encoder_id = EncoderId.from_json(metadata["encoder"])
        if name != self.shards[0]:
            check_same_encoder(encoder_id, self.encoder_id, what=str(path), remedy=remedy)
        image = tensors["image"]
        if self._rows is not None:
            image = image[torch.tensor(self._rows[name], dtype=torch.long)]
        return encoder_id.normalise(image.float()), encoder_id


def _rows_by_shard(index: Path) -> dict[str, array] | None:
    """Four bytes an image, however long the index is."""
    if not index.is_file():
        return None
    rows: dict[str, array] = {}
    with index.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                rows.setdefault(row["shard"], array("i")).append(row["row"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise InputError(
                    f"{index}, line {number}, names no shard and row ({error}). Embed again."
                ) from error
    return rows


def stream_stats(stream: EmbeddingStream) -> EmbeddingStats:
    """Statistics of all embeddings, the same in every process."""
    stats = EmbeddingStats(stream.encoder_id, dim=stream.dim)
    for _, batch in stream:
        stats.update(batch)
    stats.all_reduce()
    return stats


def stream_sample(stream: EmbeddingStream, size: int, *, seed: int = 0) -> Tensor:
    """`size` embeddings, a uniform sample, the same in every process."""
    sample = Reservoir(size, dim=stream.dim, seed=seed)
    for number, batch in stream:
        sample.update(batch, number=number)
    sample.all_reduce()
    return sample.rows
