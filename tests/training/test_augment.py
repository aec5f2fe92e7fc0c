"""The augmentation: a slow version, its draws, its gradients, how far it shifts."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.references import augmentation
from training.augment import NUM_DRAWS, diff_augment

SIZE = 16


def pictures(num: int = 6, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num, 3, SIZE, SIZE + 8, dtype=torch.float64, generator=generator) * 2 - 1


def uniform(num: int = 6, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num, NUM_DRAWS, dtype=torch.float64, generator=generator)


def neutral(num: int) -> Tensor:
    """Draws that change no colour, shift nothing, and cut only around the first corner."""
    draws = torch.full((num, NUM_DRAWS), 0.5, dtype=torch.float64)
    draws[:, 5:] = 0.0
    return draws


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_it_matches_a_slow_version(strength: float):
    x, draws = pictures(), uniform()
    found = diff_augment(x, draws, strength=strength)
    for picture, draw, augmented in zip(x, draws, found, strict=True):
        expected = augmentation.diff_augment(picture.numpy(), draw.numpy(), strength=strength)
        np.testing.assert_allclose(augmented, expected, rtol=0, atol=1e-12)


def test_strength_zero_changes_nothing():
    x = pictures()
    assert diff_augment(x, uniform(), strength=0.0).equal(x)


def test_a_little_strength_changes_little():
    """Shift and cutout need whole pixels; colours move by the strength."""
    x = pictures()
    found = diff_augment(x, uniform() * 0.98 + 0.01, strength=1e-6)
    assert float((found - x).abs().max()) < 1e-5


def test_the_same_draws_give_the_same_result():
    x, draws = pictures(), uniform()
    first = diff_augment(x, draws, strength=1.0)
    assert diff_augment(x, draws, strength=1.0).equal(first)
    others = diff_augment(x, uniform(seed=2), strength=1.0)
    assert ((others - first).abs().flatten(1).max(dim=1).values > 0.01).all()


def test_a_picture_depends_on_its_own_draws_alone():
    x, draws = pictures(), uniform()
    together = diff_augment(x, draws, strength=1.0)
    for i in range(6):
        alone = diff_augment(x[i : i + 1], draws[i : i + 1], strength=1.0)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_the_input_is_left_alone():
    x = pictures()
    before = x.clone()
    diff_augment(x, uniform(), strength=1.0)
    assert x.equal(before)


def test_it_is_differentiable():
    x = pictures(1)[:, :, :6, :6].clone().requires_grad_()
    draws = uniform(1)
    assert torch.autograd.gradcheck(lambda x: diff_augment(x, draws, strength=1.0), x)
    assert torch.autograd.gradgradcheck(lambda x: diff_augment(x, draws, strength=1.0).square(), x)


def shifts(draws: Tensor, axis: int) -> Tensor:
    """How many pixels each picture was moved along `axis` (0 rows, 1 columns), away from the
    cutout.
    """
    ramp = torch.arange(32.0, dtype=torch.float64)
    plane = ramp[:, None].expand(32, 32) if axis == 0 else ramp.expand(32, 32)
    moved = diff_augment(plane.expand(len(draws), 1, 32, 32), draws, strength=1.0)
    return ramp[20] - moved[:, 0, 20, 20]


@pytest.mark.parametrize("axis", [0, 1])
def test_shifts_are_even_up_to_an_eighth(axis: int):
    num = 3000
    draws = neutral(num)
    draws[:, 3 + axis] = torch.rand(num, generator=torch.Generator().manual_seed(0)).double()
    moved = shifts(draws, axis)
    pixels, counts = moved.unique(return_counts=True)
    assert pixels.tolist() == list(range(-4, 5))
    share = np.array([0.5, 1, 1, 1, 1, 1, 1, 1, 0.5]) / 8  # rounding halves the two ends
    error = np.sqrt(share * (1 - share) / num)
    assert (np.abs(counts.numpy() / num - share) < 5 * error).all()
    assert shifts(draws, 1 - axis).count_nonzero() == 0


def test_the_border_is_repeated():
    draws = neutral(1)
    draws[:, 3] = 0.999  # down by 4 of 32 rows
    rows = torch.arange(32.0).double()[:, None].expand(1, 3, 32, 32)
    moved = diff_augment(rows, draws, strength=1.0)[0, 0, :, 31]
    assert moved[:6].tolist() == [0, 0, 0, 0, 0, 1]


def test_a_square_of_half_the_side_is_cut_out():
    draws = neutral(1)
    draws[:, 5:] = 0.5
    found = diff_augment(torch.ones(1, 3, 32, 32).double(), draws, strength=1.0)
    cut = found[0, 0] == 0
    rows, columns = cut.any(dim=1).nonzero(), cut.any(dim=0).nonzero()
    assert (int(rows.min()), int(rows.max())) == (int(columns.min()), int(columns.max())) == (9, 23)
    assert int(cut.sum()) == 15**2
    assert (found[0, :, ~cut] == 1).all()
