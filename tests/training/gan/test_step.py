"""Gradients of a GAN's step: against autograd on the losses written out, and the same however the
batch is divided, into micro-batches or over processes.
"""

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
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import load_tensors
from tests.ranks import run_in_ranks
from tests.small_clip import load_resnet_clip
from tests.training.gan.trainers import EVERYTHING, SMALL, assert_same, gradients, trainer_of
from torch_utils.autograd import saved_bytes
from training.config import override
from training.gan.augment.config import AUGMENTATIONS
from training.gan.losses import path_lengths


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
