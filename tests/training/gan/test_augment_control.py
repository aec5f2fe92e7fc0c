"""How often images are augmented follows the discriminator's signs."""

import pytest

from training.gan.augment.config import AugmentConfig
from training.gan.augment.control import AugmentControl


def test_adaptive_probability_follows_the_sign():
    config = AugmentConfig(probability=0.5)
    control = AugmentControl(config, speed_kimg=1.0)
    assert control.probability == 0
    for _ in range(4):
        control.update(1.0, samples=100)
    assert float(control.probability) == pytest.approx(0.4)
    for _ in range(4):
        control.update(1.0, samples=100)
    assert float(control.probability) == pytest.approx(0.5)  # its limit
    for _ in range(40):
        control.update(-1.0, samples=100)
    assert control.probability == 0


def test_one_odd_batch_does_not_turn_it():
    """r_t is an average over more than a step, so its sign is not a coin's."""
    control = AugmentControl(AugmentConfig(), speed_kimg=1.0)
    for _ in range(20):
        control.update(0.9, samples=16)
    before = control.probability
    control.update(0.0, samples=16)
    assert control.probability > before


def test_a_ramp_ends_at_its_probability():
    control = AugmentControl(AugmentConfig(control="ramp", probability=0.4), speed_kimg=1.0)
    for _ in range(3):
        control.update(-1.0, samples=100)
    assert float(control.probability) == pytest.approx(0.3)
    control.update(-1.0, samples=500)
    assert float(control.probability) == pytest.approx(0.4)
