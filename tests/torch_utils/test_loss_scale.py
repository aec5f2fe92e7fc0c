"""The loss scale moves on the device."""

import torch

from torch_utils.loss_scale import GROWTH_STEPS, LARGEST, LossScale

FINE, OVERFLOWED = torch.tensor(0.0), torch.tensor(1.0)


def test_it_halves_where_a_step_was_skipped_and_doubles_after_many_that_were_not():
    scale = LossScale(torch.float16)
    scale.scale.fill_(2.0**10)
    scale.update(OVERFLOWED)
    assert scale.scale == 2.0**9
    for _ in range(GROWTH_STEPS - 1):
        scale.update(FINE)
    assert scale.scale == 2.0**9
    scale.update(FINE)
    assert scale.scale == 2.0**10
    scale.update(OVERFLOWED)
    assert (scale.scale, scale.finite_steps) == (2.0**9, 0)


def test_it_stays_between_one_and_the_largest():
    scale = LossScale(torch.float16)
    scale.scale.fill_(1.0)
    scale.update(OVERFLOWED)
    assert scale.scale == 1
    scale.scale.fill_(LARGEST)
    scale.finite_steps.fill_(GROWTH_STEPS - 1)
    scale.update(FINE)
    assert scale.scale == LARGEST


def test_other_dtypes_have_none():
    scale = LossScale(torch.bfloat16)
    scale.update(OVERFLOWED)
    assert scale.scale == 1
    assert scale.divisor is None
