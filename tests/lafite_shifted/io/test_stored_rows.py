"""Rows read from files when they are wanted equal the tensors in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import save_tensors
from lafite_shifted.io.stored_rows import BATCH, Batches, StoredRows, open_tensors

SIZES = (7, 1, 40)


@pytest.fixture
def held(tmp_path: Path) -> list[Tensor]:
    tensors = [torch.randn(size, 6).half() for size in SIZES]
    for number, tensor in enumerate(tensors):
        others = {"a": torch.randn(3), "x": tensor, "z": torch.randn(2, 2)}
        save_tensors(tmp_path / f"{number}.safetensors", others, {"kind": "x"})
    return tensors


@pytest.fixture
def stored(held: list[Tensor], tmp_path: Path) -> tuple[StoredRows, Tensor]:
    """Rows in a mixed order, and the same in memory."""
    files = [open_tensors(tmp_path / f"{n}.safetensors", remedy="Go.")[0]["x"] for n in range(3)]
    tensor = np.repeat(np.arange(3, dtype=np.int32), SIZES)
    row = np.concatenate([np.arange(size, dtype=np.int32) for size in SIZES])
    order = np.random.default_rng(0).permutation(len(row))
    rows = StoredRows(files, tensor=tensor[order], row=row[order], dim=6, prepare=F.normalize)
    return rows, F.normalize(torch.cat(held).float()[torch.from_numpy(order)])


def test_any_key_gives_what_a_tensor_would(stored: tuple[StoredRows, Tensor]):
    rows, expected = stored
    assert rows.shape == expected.shape
    assert len(rows) == 48
    mask = torch.rand(48) < 0.3
    for key in (3, -1, [4, 4, 0], [], slice(None), slice(5, 40, 3), mask, torch.tensor([9, 2])):
        assert torch.equal(rows[key], expected[key]), key
    assert torch.equal(rows.take(mask)[[0, 2]], expected[mask][[0, 2]])
    with pytest.raises(IndexError):
        rows[[48]]


def test_a_row_is_the_same_alone_and_in_a_batch(stored: tuple[StoredRows, Tensor]):
    rows, _ = stored
    assert torch.equal(torch.stack([rows[n] for n in range(48)]), rows[:])


def test_batches_come_in_order_and_again(stored: tuple[StoredRows, Tensor]):
    rows, expected = stored
    batches = Batches(rows, size=20)
    for _ in range(2):
        assert [number for number, _ in batches] == [0, 1, 2]
        assert torch.equal(torch.cat([batch for _, batch in batches]), expected)
    assert EmbeddingStats.of(rows).mean.equal(EmbeddingStats.of(expected).mean)


def test_statistics_of_several_batches_are_those_of_one():
    x = torch.randn(2 * BATCH + 5, 3)
    found, whole = EmbeddingStats.of(x), EmbeddingStats(None, dim=3)
    whole.update(x)
    torch.testing.assert_close(found.covariance, whole.covariance, rtol=1e-12, atol=1e-12)


def test_a_file_that_shrinks_is_told(stored: tuple[StoredRows, Tensor], tmp_path: Path):
    rows, _ = stored
    path = tmp_path / "2.safetensors"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match="has become shorter"):
        rows[:]
    with pytest.raises(InputError, match=r"truncated .*Go\."):
        open_tensors(path, remedy="Go.")
