"""philox: the published answers, and the same numbers whatever computes them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.emulation_cases import exact_normal
from tests.operators import using
from torch_utils.ops.philox import Distribution, philox, philox_4x32

KEYS = [0, 1, 2**31, 2**32 + 5, 2**63 - 1, 2**64 - 1]
INDICES = torch.tensor([0, 1, -1, 2**31, 2**40 + 7, -(2**63)])
# "kat_vectors" of Random123, the authors' library: counter, key, result
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_rounds_match_the_published_answers(
    counter: tuple[int, ...], key: int, expected: tuple[int, ...]
):
    found = philox_4x32([torch.tensor(word) for word in counter], key)
    assert tuple(map(int, found)) == expected


def test_the_first_numbers_are_the_published_ones():
    found = philox(torch.tensor([0]), 4, key=0, distribution="bits")
    assert tuple(int(x) % 2**32 for x in found[0]) == KNOWN[0][2]


@pytest.mark.parametrize("count", [0, 1, 4, 63, 64, 65, 1000, 20000])
@pytest.mark.parametrize("key", KEYS)
def test_integers_and_uniform_numbers_equal_the_references(key: int, count: int):
    for distribution in ("bits", "uniform"):
        found = philox(INDICES, count, key=key, distribution=distribution)
        with using(None):
            expected = philox(INDICES, count, key=key, distribution=distribution)
        assert found.equal(expected)
        assert found.dtype == (torch.int32 if distribution == "bits" else torch.float32)


@pytest.mark.parametrize("count", [1, 4, 67, 20000])
def test_normal_numbers_equal_float64s_to_rounding(count: int):
    found = philox(INDICES, count, key=KEYS[-1], distribution="normal")
    exact = exact_normal(INDICES, count, KEYS[-1])
    assert (found.double() - exact).abs().max() < 1.5e-6  # of numbers up to 6
    assert found.isfinite().all()


@given(
    count=st.integers(1, 200),
    more=st.integers(0, 200),
    row=st.integers(0, len(INDICES) - 1),
    distribution=st.sampled_from(["bits", "uniform", "normal"]),
)
def test_a_row_depends_on_key_and_index_alone(
    count: int, more: int, row: int, distribution: Distribution
):
    whole = philox(INDICES, count + more, key=9, distribution=distribution)
    alone = philox(INDICES[row : row + 1], count, key=9, distribution=distribution)
    assert whole[row, :count].equal(alone[0])


def test_numbers_of_one_row_and_of_several_are_independent():
    uniform = philox(torch.arange(4000), 8, key=3, distribution="uniform")
    for numbers in (uniform, uniform.T.contiguous().view(-1, 8)):
        correlations = torch.corrcoef(numbers.double().T).fill_diagonal_(0)
        assert correlations.abs().max() < 5 / 4000**0.5
    normal = philox(torch.arange(4000), 50, key=4, distribution="normal").double()
    assert normal.pow(4).mean() == pytest.approx(3, abs=5 * (96 / normal.numel()) ** 0.5)
    extreme = float((normal.abs() > 3).double().mean())
    assert extreme == pytest.approx(0.0026998, abs=5 * (0.0027 / normal.numel()) ** 0.5)


def test_wrong_indices_are_refused():
    for bad in (torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"indices must be \[N\] int64"):
            philox(bad, 4, key=0, distribution="normal")


def test_the_operator_is_one_of_pytorchs(implementation: str):
    if implementation == "reference":  # there is none then
        return
    given = torch.tensor([3, 4]), 5, 1, "normal"
    torch.library.opcheck(
        torch.ops.lafite.philox.default, given, test_utils=("test_schema", "test_faketensor")
    )
