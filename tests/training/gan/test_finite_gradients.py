"""Gradients of a GAN's step that are not finite, and those of half precision."""

from collections.abc import Container

import pytest
import torch

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import DivergedError
from tests.small_clip import load_resnet_clip
from tests.training.gan.trainers import gradients, trainer_of
from torch_utils.lagged import LAG
from training.gan.batch import Batch
from training.gan.step import GanSteps
from training.gan.trainer import MAX_SKIPPED


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_resnet_clip()


def broken(
    network: str, monkeypatch: pytest.MonkeyPatch, *, steps: Container[int] = range(10_000)
) -> None:
    """Make the gradients of D or G infinite in these steps."""
    name = f"{network}_gradients"
    whole, calls = getattr(GanSteps, name), []

    def gradients_of_it(self: GanSteps, batch: Batch, **options):
        found = whole(self, batch, **options)
        if len(calls) in steps:
            next(getattr(self, network).parameters()).grad.fill_(torch.inf)
        calls.append(0)
        return found

    monkeypatch.setattr(GanSteps, name, gradients_of_it)


def test_a_step_without_finite_gradients_changes_nothing(
    clip: ClipEncoder, monkeypatch: pytest.MonkeyPatch
):
    trainer = trainer_of(clip)
    broken("discriminator", monkeypatch, steps={1})
    assert trainer.step(0)["skipped"] == 0
    before = {n: p.clone() for n, p in trainer.discriminator.named_parameters()}
    assert trainer.step(16)["skipped"] == 1
    assert all(p.equal(before[n]) for n, p in trainer.discriminator.named_parameters())
    assert int(trainer.running.skipped_in_a_row) == 1
    assert trainer.step(32)["skipped"] == 0
    assert int(trainer.running.skipped_in_a_row) == 0
    assert not any(p.equal(before[n]) for n, p in trainer.discriminator.named_parameters())


@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_many_steps_without_finite_gradients_stop_the_run(
    network: str, clip: ClipEncoder, monkeypatch: pytest.MonkeyPatch
):
    """Of one of them, while the other's are well."""
    trainer = trainer_of(clip)
    broken(network, monkeypatch)
    for step in range(MAX_SKIPPED + LAG - 1):  # the host learns of it later
        trainer.step(16 * step)
    with pytest.raises(DivergedError, match="diverged: the gradients of 20 steps in a row"):
        trainer.step(16 * (MAX_SKIPPED + LAG))


def test_float16_is_closer_to_float32_than_bfloat16_is(clip: ClipEncoder):
    """It has three more bits, which a loss scale too small or too large would lose again."""
    batches = (0, 16, 32, 48)  # of one, a few slopes at zero decide
    exact = [gradients(trainer_of(clip), samples_seen=seen) for seen in batches]
    errors: dict[str, dict[str, float]] = {}
    for dtype, scale in (("float16", 2.0**14), ("bfloat16", 1.0)):
        errors[dtype] = {"D.": 0.0, "G.": 0.0}
        for seen, wanted in zip(batches, exact, strict=True):
            trainer = trainer_of(clip, dtype=dtype)
            assert trainer.d_scale.scale == trainer.g_scale.scale == scale
            found = gradients(trainer, samples_seen=seen)
            for network in errors[dtype]:
                names = [name for name in wanted if name.startswith(network)]
                whole = torch.cat([wanted[name].flatten() for name in names])
                error = torch.cat([found[name].flatten() / scale for name in names]) - whole
                errors[dtype][network] += float(error.norm() / whole.norm())
                assert not [n for n in names if wanted[n].any() and not found[n].any()]
    for network, error in errors["float16"].items():
        assert error < 0.5 * errors["bfloat16"][network]


def test_the_loss_scale_halves_where_gradients_overflow(clip: ClipEncoder):
    trainer = trainer_of(clip, dtype="float16")
    trainer.d_scale.scale.fill_(2.0**100)
    before = [p.detach().clone() for p in trainer.discriminator.parameters()]
    assert trainer.step(0)["skipped"] == 1
    assert trainer.d_scale.scale == 2.0**99
    for old, new in zip(before, trainer.discriminator.parameters(), strict=True):
        assert old.equal(new)
    trainer.d_scale.scale.fill_(2.0**10)
    assert trainer.step(0)["skipped"] == 0
