"""The benchmark of training steps: what it counts, and under which part."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lafite_shifted.decoder.generator import Generator
from lafite_shifted.encoders.clip import ClipEncoder
from tests.commands import succeed
from tests.training.gan.trainers import SMALL
from torch_utils.ops import native
from training.bench import step_profile
from training.bench.step_profile import StepProfile, convolution_of
from training.bench.train import _Timer
from training.gan import step
from training.gan.probe import probe_trainer

CPU = torch.device("cpu")


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operation takes a second."""

    def one(run: Callable[[], object], _device: torch.device) -> float:
        run()
        return 1.0

    monkeypatch.setattr(step_profile, "seconds_of", one)


@pytest.mark.usefixtures("operations")
def test_gradients_of_a_part_are_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step, "augment", lambda x: x.sin().cos())
    with StepProfile(CPU).parts() as profile:
        x = torch.ones(3, requires_grad=True)  # 1 operation
        y = step.augment(x.exp())  # 1; an alias, 2
        y.tanh().sum().backward()
    # sin, cos; of the gradient sin, its sign, times, cos, times
    assert profile.seconds["augmentation"] == 2 + 5
    assert profile.seconds["other operations"] >= 7  # exp, tanh, sum and their gradients


@pytest.mark.usefixtures("operations")
def test_a_step_has_the_parts_that_it_has(clip: ClipEncoder):
    trainer = probe_trainer(SMALL, clip, device=CPU)
    everywhere = {"data", "augmentation", "CLIP and features", "optimizer"}
    everywhere |= {"convolutions", "operators", "other operations"}
    for number, parts in ((0, everywhere | {"regularisation"}), (1, everywhere)):
        with StepProfile(CPU).parts() as profile:
            trainer.step(number * SMALL.batch)
        assert {name for name, seconds in profile.seconds.items() if seconds > 0} == parts
    before = step.augment
    with StepProfile(CPU).parts():
        assert step.augment is not before
    assert step.augment is before


def test_convolutions_are_counted_and_made_again():
    generator = Generator(SMALL.generator)
    z, condition = torch.randn(4, 8), torch.randn(4, SMALL.generator.condition_dim)
    found: list[Tensor] = []
    with StepProfile(CPU) as profile:
        images = generator(z, condition)
        images.sum().backward()
    assert profile.convolutions.total() == 2 * len(generator.layers)
    for call in profile.convolutions:
        found += [y for y in _tensors(convolution_of(call, CPU)()) if y is not None]
    shapes = {tuple(y.shape) for y in found}
    assert {tuple(layer.conv.kernel(torch.float32).shape) for layer in generator.layers} <= shapes


def test_work_is_counted_as_the_layers_say(clip: ClipEncoder):
    """Of a step without R1 the two networks' passes, at the least, and no more than ten times."""
    config = dataclasses.replace(SMALL, r1_every=1000, clip_weight=0.0)
    trainer = probe_trainer(config, clip, device=CPU)
    layers = trainer.generator.layers
    macs = sum(x.conv.kernel(torch.float32).numel() * x.resolution**2 for x in layers)
    gflop = _Timer(config, CPU).gflop_an_image(trainer)
    assert 3 * 2 * macs / 1e9 / 4 < gflop < 30 * 2 * macs / 1e9  # an up layer's at a quarter


def _tensors(result: object) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]  # type: ignore[list-item]


def test_the_verb_compares_a_step_with_its_convolutions_and_the_reference():
    before = native.mode()
    sizes = ["generator.channel_max=8", "discriminator.channel_max=8", "r1_every=2"]
    flags = [flag for size in sizes for flag in ("--set", size)]
    output = succeed("bench", "train", "--preset", "tiny", "--rounds", "1", "--json", *flags)
    found = json.loads(output.out)["results"]
    seconds = found["seconds_per_kimg"]
    assert seconds.keys() == {"as trained", "float32 reference", "its convolutions alone"}
    assert found["over_convolutions"] == pytest.approx(
        seconds["as trained"] / seconds["its convolutions alone"]
    )
    rate = found["matrix_gflop_a_second"]  # taken in the one round that counts
    share = found["gflop_an_image"] * 1000 / seconds["as trained"] / rate
    assert found["share_of_matrix_rate"] == pytest.approx(share)
    assert found["parts"]["regularisation"] > 0  # how long is the benchmark's to say
    assert native.mode() == before
