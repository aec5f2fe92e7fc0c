"""Embeddings as they are opened: damaged ones and those of two CLIPs are refused; held-out rows."""

import shutil
from pathlib import Path

import pytest

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import load_tensors, save_tensors, write_json_lines
from tests.training.data.embeddings.five_images import embed, open_set
from training.data.embeddings import shard_writer
from training.data.embeddings.embedding_set import EmbeddingSet, read_index
from training.data.split import is_held_out


def test_shards_of_two_clips_are_refused(images: Path, clip: ClipEncoder, monkeypatch):
    monkeypatch.setattr(shard_writer, "SHARD_SIZE", 3)
    embed(images, clip, batch=1)
    path = images.parent / "out" / "shard-00001.safetensors"
    tensors, metadata = load_tensors(path)
    metadata["encoder"][0]["weights"] = "0" * 16
    save_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match="cannot be mixed"):
        open_set(images)


def test_damaged_embeddings_are_refused(images: Path, clip: ClipEncoder, tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no embeddings\. Make them with `lafite-shifted"):
        EmbeddingSet(tmp_path)
    embed(images, clip)
    shard = images.parent / "out" / "shard-00000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(InputError, match="truncated"):
        open_set(images)
    shard.write_bytes(content)
    tensors, metadata = load_tensors(shard)
    save_tensors(shard, tensors, metadata | {"format": 99})
    with pytest.raises(InputError, match="format 99"):
        open_set(images)


def test_held_out_rows_follow_the_split(some_embeddings: Path, tmp_path: Path):
    assert not bool(EmbeddingSet(some_embeddings).held_out.any())  # no shipped image is
    folder = shutil.copytree(some_embeddings, tmp_path / "e")
    rows = read_index(folder)
    rows[3]["split_key"] = next(filter(is_held_out, map(str, range(99))))
    write_json_lines(folder / "index.jsonl", rows)
    data = EmbeddingSet(folder)
    assert data.held_out.nonzero().flatten().tolist() == [3]
    assert data.stats(~data.held_out).count == len(data) - 1
