"""A GAN's step on augmented images: R1, and a probability that follows D."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.discriminator import (
    conditional_logit,
)
from lafite_shifted.encoders.clip import ClipEncoder
from tests.small_clip import load_resnet_clip
from tests.training.gan.trainers import assert_same, trainer_of
from torch_utils.lagged import LAG
from training.checkpoint import flatten_state, restore_state
from training.config import RunConfig
from training.gan.augment.augment import augment
from training.gan.augment.config import AugmentConfig
from training.gan.augment.plan import AugmentPlan


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_resnet_clip()


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
