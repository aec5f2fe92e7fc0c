"""Keyed randomness: a value depends on its key and on nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torch_utils import seeds

SAMPLERS = [seeds.normal_per_sample, seeds.uniform_per_sample]
parts = st.lists(st.integers() | st.text(max_size=5), max_size=4)


def test_seeds_stay_the_same_between_versions():
    """Everyone's "seed 0" would change with these numbers."""
    assert seeds.seed_of(0, "z", 3) == 775147960684848245
    assert seeds.seed_of() == 5460801731388113703


@given(parts, parts)
def test_different_keys_give_different_seeds(a: list[int | str], b: list[int | str]):
    assert (seeds.seed_of(*a) == seeds.seed_of(*b)) == (a == b)
    assert 0 <= seeds.seed_of(*a) < 2**63


def test_a_number_and_its_name_are_different_keys():
    assert seeds.seed_of(1, "z") != seeds.seed_of("1", "z")
    assert seeds.seed_of("a", "b") != seeds.seed_of("ab")
    assert seeds.seed_of(1, 2) != seeds.seed_of(2, 1)


def test_generators_repeat():
    first, second = seeds.generator(0, "a"), seeds.generator(0, "a")
    assert torch.rand(5, generator=first).equal(torch.rand(5, generator=second))
    one, other = seeds.numpy_generator(0, "a"), seeds.numpy_generator(0, "a")
    np.testing.assert_array_equal(one.random(5), other.random(5))


def test_the_global_state_is_neither_used_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = seeds.normal_per_sample((3,), key=(0,), indices=range(4))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert seeds.normal_per_sample((3,), key=(0,), indices=range(4)).equal(first)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_row_depends_on_its_key_and_index_alone(sampler):
    rows: Tensor = sampler((2, 3), key=(7, "z"), indices=[5, 0, 9])
    assert rows.shape == (3, 2, 3)
    assert rows.dtype == torch.float32
    for row, index in zip(rows, [5, 0, 9], strict=True):
        assert row.equal(sampler((2, 3), key=(7, "z"), indices=[index])[0])
    assert not rows.equal(sampler((2, 3), key=(8, "z"), indices=[5, 0, 9]))
    assert not rows.equal(sampler((2, 3), key=(7, "w"), indices=[5, 0, 9]))
    assert not rows[0].equal(rows[1])


def test_rows_of_different_indices_are_independent_normals():
    rows = seeds.normal_per_sample((200,), key=(0, "z"), indices=range(200))
    assert float(rows.mean()) == pytest.approx(0, abs=5 / 200)
    assert float(rows.square().mean()) == pytest.approx(1, abs=5 * 2**0.5 / 200)
    correlations = (rows @ rows.T / 200).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 6 / 200**0.5


def test_uniform_rows_fill_the_unit_interval():
    rows = seeds.uniform_per_sample((200,), key=(0, "u"), indices=range(200))
    assert 0 <= float(rows.min()) < 0.001
    assert 0.999 < float(rows.max()) < 1
    assert float(rows.mean()) == pytest.approx(0.5, abs=5 * 12**-0.5 / 200)


@given(size=st.integers(1, 30), start=st.integers(0, 100), cut=st.integers(0, 40))
def test_data_order_does_not_depend_on_how_it_is_requested(size: int, start: int, cut: int):
    whole = seeds.epoch_indices(range(start, start + 40), size=size, key=(0, "images"))
    pieces = [
        *seeds.epoch_indices(range(start, start + cut), size=size, key=(0, "images")),
        *seeds.epoch_indices(range(start + cut, start + 40), size=size, key=(0, "images")),
    ]
    assert whole == pieces


@pytest.mark.parametrize("size", [1, 7, 50])
def test_every_epoch_is_a_fresh_permutation(size: int):
    epochs = [
        seeds.epoch_indices(range(epoch * size, (epoch + 1) * size), size=size, key=(0,))
        for epoch in range(4)
    ]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert size < 7 or len({tuple(epoch) for epoch in epochs}) == 4
