"""The moving average: its half-life, its ramp, and what it copies."""

import pytest
import torch
from torch import nn

from torch_utils.ema import Ema


class Source(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("average", torch.zeros(2))


def changed(source: Source, value: float) -> Source:
    with torch.no_grad():
        source.weight.fill_(value)
        source.average.fill_(value)
    return source


@pytest.mark.parametrize("batch", [1, 10, 100])
def test_half_of_the_old_value_is_left_after_the_half_life(batch: int):
    source = Source()
    ema = Ema(source, half_life=100)
    changed(source, 1.0)
    for _ in range(100 // batch):
        ema.update(source, batch=batch, samples_seen=1_000_000)
    torch.testing.assert_close(ema.network.weight.detach(), torch.full((3,), 0.5))


def test_the_half_life_is_ramped_up_with_the_samples_seen():
    source = Source()
    ema = Ema(source, half_life=1000, ramp=0.05)
    changed(source, 1.0)
    ema.update(source, batch=10, samples_seen=200)  # half-life 0.05 * 200 = 10 samples
    torch.testing.assert_close(ema.network.weight.detach(), torch.full((3,), 0.5))


def test_the_first_update_forgets_the_random_weights():
    source = changed(Source(), 100.0)
    ema = Ema(source, half_life=1000)
    ema.update(changed(source, 1.0), batch=32, samples_seen=32)
    torch.testing.assert_close(ema.network.weight.detach(), torch.ones(3), rtol=0, atol=1e-3)
    ema.update(changed(source, 2.0), batch=32, samples_seen=0)
    torch.testing.assert_close(ema.network.weight.detach(), torch.full((3,), 2.0))


def test_buffers_are_copied():
    source = Source()
    ema = Ema(source, half_life=1e9)
    ema.update(changed(source, 3.0), batch=1, samples_seen=10**12)
    assert ema.network.average.equal(torch.full((2,), 3.0))
    assert float(ema.network.weight.detach().max()) < 0.001


def test_the_ema_is_a_frozen_copy():
    source = nn.Sequential(Source(), nn.Dropout())
    ema = Ema(source, half_life=10)
    assert not ema.network.training
    assert source.training
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    assert all(parameter.requires_grad for parameter in source.parameters())
    changed(source[0], 5.0)
    assert ema.network[0].weight.equal(torch.zeros(3))
    ema.update(source, batch=1, samples_seen=100)
    assert source[0].weight.detach().equal(torch.full((3,), 5.0))
