"""Statistics of embeddings: moments in pieces, merged, saved and read again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats, merged
from tests.lafite_shifted.gaussian.rows import embeddings


def assert_same_stats(a: EmbeddingStats, b: EmbeddingStats) -> None:
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(a.m2, b.m2, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(a.third, b.third, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(a.fourth, b.fourth, rtol=1e-9, atol=1e-11)


def test_stats_match_numpy():
    rows = embeddings(200, 12)
    stats = EmbeddingStats.of(rows)
    expected = rows.numpy().astype(np.float64)
    assert stats.count == 200
    assert stats.mean.dtype == stats.covariance.dtype == torch.float64
    np.testing.assert_allclose(stats.mean, expected.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        stats.covariance, np.cov(expected, rowvar=False), rtol=1e-11, atol=1e-15
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(2, 40))
def test_merging_pieces_in_any_order_matches_one_piece(data: st.DataObject, count: int):
    rows = embeddings(count, 5) + 100  # far from zero, where a naive sum of squares fails
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    pieces = [rows[i:j] for i, j in zip([0, *cuts], [*cuts, count], strict=True)]
    total = EmbeddingStats(None, dim=5)
    for piece in data.draw(st.permutations(pieces)):
        total.merge(EmbeddingStats.of(piece))
    whole = EmbeddingStats.of(rows)
    assert total.count == whole.count
    torch.testing.assert_close(total.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(total.m2, whole.m2, rtol=1e-9, atol=1e-9)


def test_updating_in_batches_matches_one_batch():
    rows = embeddings(50, 6)
    stats = EmbeddingStats(None, dim=6)
    for batch in rows.split(7):
        stats.update(batch)
    assert_same_stats(stats, EmbeddingStats.of(rows))


def test_empty_updates_and_merges_change_nothing():
    rows = embeddings(9, 4)
    stats = EmbeddingStats(None, dim=4)
    stats.update(rows[:0])
    stats.merge(EmbeddingStats(None, dim=4))
    assert stats.count == 0
    stats.update(rows)
    stats.update(rows[:0])
    stats.merge(EmbeddingStats(None, dim=4))
    assert_same_stats(stats, EmbeddingStats.of(rows))
    assert stats.mean.isfinite().all()


def test_merge_leaves_the_other_alone():
    a, b = EmbeddingStats.of(embeddings(9, 4)), EmbeddingStats.of(embeddings(5, 4, seed=1))
    a.merge(b)
    assert_same_stats(b, EmbeddingStats.of(embeddings(5, 4, seed=1)))


@pytest.mark.parametrize("shape", [(3,), (3, 5), (2, 3, 4)])
def test_updates_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected embeddings"):
        EmbeddingStats(None, dim=4).update(torch.zeros(shape))


def test_merging_other_dimensions_is_refused():
    with pytest.raises(ValueError, match="cannot merge"):
        EmbeddingStats(None, dim=4).merge(EmbeddingStats(None, dim=5))


@pytest.mark.parametrize("count", [0, 1])
def test_a_covariance_of_fewer_than_two_is_refused(count: int):
    stats = EmbeddingStats.of(embeddings(2, 4)[:count])
    with pytest.raises(InputError, match=f"there is {count}"):
        _ = stats.covariance


@pytest.mark.parametrize("encoder", [None, EncoderId((EncoderBlock("m", "abc", "{}", 6),))])
def test_stats_survive_saving(tmp_path: Path, encoder: EncoderId | None):
    stats = EmbeddingStats.of(embeddings(20, 6), encoder)
    stats.save(tmp_path / "stats.safetensors")
    loaded = EmbeddingStats.load(tmp_path / "stats.safetensors")
    assert loaded.count == 20
    assert loaded.encoder_id == encoder
    assert loaded.mean.equal(stats.mean)
    assert loaded.m2.equal(stats.m2)
    loaded.update(embeddings(3, 6, seed=1))
    stats.update(embeddings(3, 6, seed=1))
    assert_same_stats(loaded, stats)


def test_merging_files_of_another_encoder_is_refused():
    one, other = (EncoderId((EncoderBlock("m", weights, "{}", 6),)) for weights in "ab")
    rows = embeddings(20, 6)
    with pytest.raises(InputError, match="Merge others"):
        merged([EmbeddingStats.of(rows, one), EmbeddingStats.of(rows, other)])
    with pytest.raises(InputError, match="5 and 6 dimensions"):
        merged([EmbeddingStats.of(rows), EmbeddingStats.of(embeddings(20, 5))])
    assert merged([EmbeddingStats.of(rows, one)] * 3).count == 60
