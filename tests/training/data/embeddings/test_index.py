"""The index in few bytes, and embeddings that are larger than memory may be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lafite_shifted.errors import InputError
from torch_utils import seeds
from training.data.embeddings.embedding_set import EmbeddingSet, load_shard, read_index
from training.data.embeddings.index import Fingerprint, Index

ROW = {"size": 1, "mtime_ns": 1, "sha256": "ab", "shard": "s", "row": 0, "split_key": "k"}


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [("a.png", "ab")],
        [("a.png", "ab", "a cat"), ("b.png", "cd")],
        [("it's", "ab", 'said "no"', "a\\b\nc", "ü\u2028\ud800")],
        [("it's", "ab"), ("b", "cd", "\t'")],
        [('"', "ab")],
    ],
)
def test_the_fingerprint_is_that_of_the_list(parts: list[tuple[str, ...]]):
    found = Fingerprint()
    for part in parts:
        found.add(part)
    assert found.value == f"{seeds.seed_of(repr(parts)):016x}"


def test_rows_are_read_from_the_file(tmp_path: Path):
    names = ["a", "ü\u2028b", "c"]
    rows = [ROW | {"file_name": name, "captions": [name] * 2} for name in names]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "index.jsonl").write_text(f"\n{lines[0]}\n\n{lines[1]}\n{lines[2]}", "utf-8")
    index = Index(tmp_path)
    assert list(index.names) == names
    assert index.names[1:] == names[1:]
    assert [index.record(row) for row in range(3)] == rows == list(index.records())
    with pytest.raises(IndexError):
        index.names[3]


@pytest.mark.parametrize(("line", "reason"), [("{", "line 3"), ("[]", "not written by")])
def test_what_is_no_row_is_refused(line: str, reason: str, tmp_path: Path):
    good = json.dumps(ROW | {"file_name": "a", "captions": []})
    (tmp_path / "index.jsonl").write_text(f"{good}\n\n{line}\n", "utf-8")
    with pytest.raises(InputError, match=reason):
        Index(tmp_path)


def test_captions_and_rows_are_those_of_the_shards(some_embeddings: Path):
    data, rows = EmbeddingSet(some_embeddings), read_index(some_embeddings)
    assert list(data.names) == [row["file_name"] for row in rows]
    assert list(data.captions) == [text for row in rows for text in row["captions"]]
    assert data.captions_by_name() == {row["file_name"]: row["captions"] for row in rows}
    tensors, _ = load_shard(some_embeddings / rows[0]["shard"])
    order = torch.tensor([row["row"] for row in rows])
    expected = data.encoder_id.normalise(tensors["image"][order].float())
    assert torch.equal(data.image[:], expected)
    assert data.text_features(torch.tensor([5, 0])).tokens.shape[0] == 2


MANY = """
import sys
from pathlib import Path
from tests.training.data.embeddings.many import measure
print(measure(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 images with 512 dimensions and a caption each, whose embeddings are 400 MB as
    float32, and those of the captions as much again.
    """
    from tests.training.data.embeddings.many import write_many

    folder = tmp_path_factory.mktemp("many")
    write_many(folder, num_images=200_000)
    return folder


@pytest.mark.parametrize("what", ["gan", "prior"])
def test_training_does_not_hold_embeddings(what: str, many: Path):
    root = Path(__file__).parents[4]
    found = subprocess.run(
        [sys.executable, "-c", MANY, many, what],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(found.stdout) < 300e6  # a batch of statistics in float64 is most of it
