"""How often each transformation of the augmentation happens, which random numbers it takes, and
settings that are refused.
"""

import dataclasses

import pytest
import torch

from tests.training.gan.augmented import EVERYTHING, applied, blobs, images, only, uniform
from training.gan.augment.config import AUGMENTATIONS, TRANSFORMATIONS, AugmentConfig
from training.gan.augment.control import AugmentControl
from training.gan.augment.random_numbers import COLUMNS, NUM_COLUMNS, AugmentNumbers


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_each_happens_with_the_given_probability(name: str):
    num = 1500
    x = images(num, size=16)
    strength = getattr(EVERYTHING, name)
    changed = (applied(x, only(**{name: strength}), probability=0.3) != x).flatten(1).any(dim=1)
    share = {"flip": 0.15, "turn": 0.225, "luma_flip": 0.15, "filter": 1 - 0.7**4}.get(name, 0.3)
    if name == "shift":
        share *= 24 / 25 * 0.99  # both may round to none
    error = (share * (1 - share) / num) ** 0.5
    assert abs(float(changed.double().mean()) - share) < 4.5 * error + 0.01


def test_probability_zero_and_off_change_nothing():
    x = images()
    assert applied(x, EVERYTHING, probability=0.0).equal(x)
    assert applied(x, AUGMENTATIONS["off"]).equal(x)
    assert not AUGMENTATIONS["off"].is_on


def test_switching_one_on_leaves_the_random_numbers_of_others_alone():
    x = blobs(50)
    alone = applied(x, only(brightness=0.2), probability=0.5) - x
    both = applied(x, only(brightness=0.2, contrast=1e-9), probability=0.5) - x
    torch.testing.assert_close(alone, both, rtol=0, atol=1e-7)


def test_an_image_depends_on_its_own_random_numbers_alone():
    x, draws = images(), uniform()
    config = dataclasses.replace(EVERYTHING, noise=0.0)
    together = applied(x, config, probability=0.6, numbers=draws)
    for i in range(len(x)):
        alone = applied(x[i : i + 1], config, probability=0.6, numbers=draws[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_the_input_is_left_alone_and_the_result_repeats():
    x = images()
    before = x.clone()
    assert applied(x, EVERYTHING).equal(applied(x, EVERYTHING))
    assert x.equal(before)


def test_diffaugment_is_always_on_and_moves_colour_place_and_a_square():
    config = AUGMENTATIONS["diffaugment"]
    on = {name for name in TRANSFORMATIONS if getattr(config, name)}
    assert on == {"shift", "brightness", "contrast", "saturation", "cutout"}
    assert AugmentControl(config, speed_kimg=50).probability == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"probability": 1.5},
        {"target": 1.0},
        {"speed_kimg": 0.0},
        {"scale": -0.1},
        {"rotate": 2.0},
        {"noise": float("nan")},
    ],
)
def test_what_makes_no_sense_is_refused(bad: dict):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AugmentConfig(**bad)


def test_every_number_has_a_name_of_its_own():
    assert len(set(COLUMNS)) == NUM_COLUMNS == 41
    numbers = AugmentNumbers(torch.arange(NUM_COLUMNS).expand(2, -1) / NUM_COLUMNS, torch.ones(2))
    found = [float(numbers.uniform(name)[0]) for name in COLUMNS]
    assert sorted(found) == found
    assert len(set(found)) == NUM_COLUMNS
    with pytest.raises(KeyError):
        numbers.uniform("tilt")


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_no_transformation_moves_the_numbers_of_another(name: str):
    """With only one on, other columns do not matter."""
    own = {"rotate": ("rotate_before", "rotate_after"), "filter": ("band_",)}.get(name, (name,))
    mine = torch.tensor([column.startswith(own) for column in COLUMNS])
    x, u = images(), uniform()
    strength = 0.2 if name in ("shift", "scale", "stretch", "drift", "noise") else 0.5
    config = only(**{name: 1.0 if name in ("flip", "turn", "luma_flip") else strength})
    others = torch.where(mine, u, uniform(seed=9))
    assert applied(x, config, numbers=u).equal(applied(x, config, numbers=others))
    assert not applied(x, config, numbers=u).equal(x)
