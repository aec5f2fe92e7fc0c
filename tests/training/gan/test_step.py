"""Gradients of a GAN's step: against autograd on the losses written out, and the same however the
batch is divided, into micro-batches or over processes.
"""

from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.discriminator import (
    Discriminator,
    conditional_logit,
)
from lafite_shifted.decoder.generator import Generator
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import DivergedError, InputError
from lafite_shifted.io.files import load_tensors
from tests.ranks import run_in_ranks
from tests.small_clip import load_resnet_clip
from tests.training.gan.trainers import EVERYTHING, SMALL, assert_same, gradients, trainer_of
from torch_utils.autograd import saved_bytes
from torch_utils.lagged import LAG
from training.checkpoint import flatten_state, restore_state
from training.config import RunConfig, override
from training.gan.augment.augment import augment
from training.gan.augment.config import AUGMENTATIONS, AugmentConfig
from training.gan.augment.plan import AugmentPlan
from training.gan.batch import Batch
from training.gan.losses import path_lengths
from training.gan.step import GanSteps
from training.gan.trainer import MAX_SKIPPED


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_resnet_clip()


@pytest.mark.parametrize("adversarial", ["non_saturating", "relativistic"])
def test_gradients_match_the_losses_written_out(clip: ClipEncoder, adversarial: str):
    trainer = trainer_of(clip, adversarial=adversarial, augment=AUGMENTATIONS["off"], **EVERYTHING)
    found = gradients(trainer)
    batch, config = trainer.sample_batch(0), trainer.config
    generator, discriminator = trainer.generator, trainer.discriminator

    def logits(images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        realness, feature = discriminator(images)
        return conditional_logit(realness, feature, condition), feature

    def contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
        kept = batch.keep.nonzero().flatten()
        similarity = F.normalize(a[kept], dim=1) @ F.normalize(b[kept], dim=1).T / temperature
        target = torch.arange(len(kept))
        both = F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)
        return both / 2

    fake = generator(batch.z, batch.condition, noise=batch.noise)
    real_leaf = batch.real.clone().requires_grad_()
    fake_leaf = fake.detach().requires_grad_()
    (real, feature), (made, _) = (logits(x, batch.condition) for x in (real_leaf, fake_leaf))
    pair = adversarial == "relativistic"
    loss = F.softplus(made - real) if pair else F.softplus(-real) + F.softplus(made)
    total = loss.mean() + config.contrast_weight * contrast(
        feature, batch.condition, config.contrast_temperature
    )
    wrong = F.softplus(logits(batch.real, batch.mismatch)[0]) * batch.keep
    total = total + config.mismatch_weight * wrong.mean()
    for logit, leaf in ((real, real_leaf), (made, fake_leaf)):
        (slope,) = torch.autograd.grad(logit.sum(), leaf, create_graph=True)
        total = total + config.gamma / 2 * slope.square().sum(dim=(1, 2, 3)).mean()
    parameters = dict(discriminator.named_parameters())
    expected = dict(
        zip(
            (f"D.{name}" for name in parameters),
            torch.autograd.grad(total, list(parameters.values())),
            strict=True,
        )
    )
    w = generator.mapping(batch.z)
    fake = generator.synthesise(w, batch.condition, noise=batch.noise)
    logit, feature = logits(fake, batch.condition)
    against = real.detach() if pair else 0.0
    total = F.softplus(against - logit).mean()
    total = total + config.contrast_weight * contrast(
        feature, batch.condition, config.contrast_temperature
    )
    seen = clip.embed_images(fake)
    total = total + config.clip_weight * contrast(seen, batch.pseudo, config.clip_temperature)
    for factor in (2, 4, 8):  # squares of pixels
        small, wanted = (
            F.interpolate(x, scale_factor=1 / factor, mode="area") for x in (fake, batch.real)
        )
        gaps = (small - wanted).abs().mean(dim=(1, 2, 3)) * batch.keep
        total = total + config.pixel_matching_weight * gaps.mean() / 3
    lengths = path_lengths(fake, w, batch.path_noise)
    total = total + config.path_length_weight * (lengths - 0.5).square().mean()
    parameters = dict(generator.named_parameters())
    for name, gradient in zip(
        parameters, torch.autograd.grad(total, list(parameters.values())), strict=True
    ):
        expected[f"G.{name}"] = gradient
    assert_same(found, expected | {"w": w.mean(dim=0).detach()})


@pytest.mark.parametrize(("micro_batch", "expected"), [(None, [16]), (8, [8] * 8)])
def test_images_of_a_whole_batch_are_generated_once_a_step(
    clip: ClipEncoder, monkeypatch: pytest.MonkeyPatch, micro_batch: int | None, expected: list[int]
):
    """In pieces, whose graphs cannot all be kept: for D, for both contrasts, and for G."""
    sizes, synthesise = list[int](), Generator.synthesise

    def counted(self: Generator, w: Tensor, *arguments: Any, **options: Any) -> Tensor:
        sizes.append(len(w))
        return synthesise(self, w, *arguments, **options)

    monkeypatch.setattr(Generator, "synthesise", counted)
    trainer_of(clip, micro_batch=micro_batch).step(0)
    assert sizes == expected


@pytest.mark.parametrize("adversarial", ["non_saturating", "relativistic"])
def test_micro_batches_have_the_gradients_of_the_whole(clip: ClipEncoder, adversarial: str):
    """With contrastive terms, too: a micro-batch is compared with all others."""
    whole = gradients(trainer_of(clip, adversarial=adversarial, **EVERYTHING))
    for size in (4, 12):
        divided = trainer_of(clip, adversarial=adversarial, micro_batch=size, **EVERYTHING)
        assert_same(gradients(divided), whole)


SCRIPT = """
import sys, torch
from pathlib import Path
from lafite_shifted.io.files import save_tensors
from tests.ranks import run_in_ranks
from tests.small_clip import load_resnet_clip
from tests.training.gan.trainers import EVERYTHING, gradients, trainer_of
from torch_utils import distributed
with distributed.group():
    found = gradients(trainer_of(load_resnet_clip(), **EVERYTHING))
    save_tensors(Path(sys.argv[1]) / f"{distributed.rank()}.safetensors", found, {})
"""


def test_processes_have_the_gradients_of_the_whole(clip: ClipEncoder, tmp_path: Path):
    """Two of 8 samples, and two more that wait for them, against one of 16."""
    outcome = run_in_ranks(("-c", SCRIPT, tmp_path), folder=tmp_path)
    assert outcome.code == 0, outcome.err
    whole = gradients(trainer_of(clip, **EVERYTHING))
    for rank in range(2):
        assert_same(load_tensors(tmp_path / f"{rank}.safetensors")[0], whole)


# --- gradients that are not finite


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


def test_batches_that_cannot_be_shared_are_refused(
    clip: ClipEncoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="a multiple of 12"):
        trainer_of(clip)
    with pytest.raises(InputError, match=r"multiple of discriminator\.group"):
        override(SMALL, ["micro_batch=6"])


def test_every_parameter_gets_a_gradient(clip: ClipEncoder):
    found = gradients(trainer_of(clip, **EVERYTHING))
    named = [*(f"D.{n}" for n, _ in Discriminator(SMALL.discriminator).named_parameters())]
    named += [f"G.{n}" for n, _ in Generator(SMALL.generator).named_parameters()]
    assert [name for name in named if name not in found or not found[name].any()] == []


ALWAYS = AugmentConfig(control="fixed", probability=0.8, cutout=0.5)


def test_r1_is_of_the_images_before_they_are_augmented(clip: ClipEncoder):
    trainer = trainer_of(clip, augment=ALWAYS, contrast_weight=0.0, clip_weight=0.0)
    batch, config = trainer.sample_batch(0), trainer.config
    trainer.steps.discriminator_gradients(batch, regularise=True)
    found = {n: p.grad.clone() for n, p in trainer.discriminator.named_parameters()}

    def logit(images: Tensor, plan: AugmentPlan) -> Tensor:
        seen = augment(images, plan)
        return conditional_logit(*trainer.discriminator(seen), batch.condition)

    leaf = batch.real.clone().requires_grad_()
    with torch.no_grad():
        fake = trainer.generator(batch.z, batch.condition, noise=batch.noise)
    real = logit(leaf, batch.augment)
    loss = (F.softplus(-real) + F.softplus(logit(fake, batch.augment))).mean()
    (slope,) = torch.autograd.grad(real.sum(), leaf, create_graph=True)
    penalty = slope.square().sum(dim=(1, 2, 3)).mean()
    parameters = dict(trainer.discriminator.named_parameters())
    total = loss + config.gamma / 2 * config.r1_every * penalty
    expected = torch.autograd.grad(total, list(parameters.values()))
    assert_same(found, dict(zip(parameters, expected, strict=True)))


def test_augmentation_rises_where_d_is_sure_and_rises_on_after_a_resume(clip: ClipEncoder):
    trainer = trainer_of(clip, augment=AugmentConfig(target=-0.99, speed_kimg=0.1))
    for step in range(LAG + 2):
        logged = trainer.step(step * trainer.batch)
    assert float(logged["ada_p"]) == pytest.approx(16 / 100)  # by the sign of the first step
    other = trainer_of(clip, augment=AugmentConfig(target=-0.99, speed_kimg=0.1))
    saved = {name: t.clone() for name, t in flatten_state(trainer.parts()).items()}
    restore_state(other.parts(), saved)
    for each in (trainer, other):
        each.step(64)
    assert float(trainer.augment.probability) == pytest.approx(3 * 16 / 100)
    assert trainer.augment.probability == other.augment.probability
    for a, b in zip(trainer.generator.parameters(), other.generator.parameters(), strict=True):
        assert a.equal(b)


def test_a_longer_run_keeps_the_speed_it_began_with(clip: ClipEncoder):
    short = trainer_of(clip, run=RunConfig(kimg=900))
    longer = trainer_of(clip, run=RunConfig(kimg=1100))
    assert longer.augment.speed_kimg == 500
    restore_state(longer.parts(), flatten_state(short.parts()))
    assert longer.augment.speed_kimg == 50


def test_recomputed_activations_have_the_same_gradients(clip: ClipEncoder):
    kept = gradients(trainer_of(clip, **EVERYTHING))
    assert_same(gradients(trainer_of(clip, activation_checkpointing=True, **EVERYTHING)), kept)


def test_recomputing_keeps_fewer_activations(clip: ClipEncoder):
    def bytes_of(activation_checkpointing: bool) -> float:
        trainer = trainer_of(clip, activation_checkpointing=activation_checkpointing)
        batch = trainer.sample_batch(0)
        return saved_bytes(
            lambda: trainer.discriminator(trainer.generator(batch.z, batch.condition))
        )

    assert bytes_of(activation_checkpointing=True) < 0.5 * bytes_of(activation_checkpointing=False)


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


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_step_moves_the_average_of_w_to_the_mean_of_its_batch(
    clip: ClipEncoder, micro_batch: int | None
):
    """Entry by entry, in the network that is saved too."""
    trainer = trainer_of(clip, micro_batch=micro_batch)
    with torch.no_grad():
        mean = trainer.generator.mapping(trainer.sample_batch(0).z).mean(dim=0)  # [V]
    trainer.step(0)
    for network in (trainer.generator, trainer.ema.network):
        torch.testing.assert_close(network.mapping.w_average, 0.005 * mean)
