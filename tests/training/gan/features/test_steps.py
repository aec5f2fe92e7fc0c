"""Steps with heads on features: what changes and what stays frozen, when they start, what they
learn and cost.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from tests.small_clip import load_resnet_clip
from tests.training.gan.features.heads import ALONE, terms_of, trainer_of
from tests.training.gan.features.networks import features_of
from tests.training.gan.trainers import (
    CPU,
    SMALL,
)
from training.checkpoint import flatten_state, restore_state
from training.gan.config import GanTrainConfig
from training.gan.cost import measure_gan
from training.gan.features.config import FeatureConfig
from training.gan.features.terms import FeatureTerms
from training.gan.run import load_backbone


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_resnet_clip()


def test_steps_change_the_heads_and_never_the_frozen_network(
    clip: ClipEncoder, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither its weights nor the statistics of batch norms that are not folded."""
    monkeypatch.setattr("training.gan.features.backbone.fold_batch_norms", lambda *_: False)
    trainer = trainer_of(clip, features_of(weights))
    terms = terms_of(trainer)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in terms.backbone.modules())
    assert not any(module.training for module in terms.backbone.modules())
    before, heads = (
        {name: t.clone() for name, t in network.state_dict().items()}
        for network in (terms.backbone, terms.heads)
    )
    for step in range(2):
        logged = trainer.step(16 * step)
    assert all(t.equal(before[name]) for name, t in terms.backbone.state_dict().items())
    assert not any(t.equal(heads[name]) for name, t in terms.heads.state_dict().items())
    names = ("loss_d_features", "loss_g_features", "logit_real_features", "logit_fake_features")
    assert all(logged[name].isfinite() for name in names)
    assert not any(name.startswith("backbone") for name in flatten_state(trainer.parts()))


def test_each_step_leaves_the_other_networks_alone(clip: ClipEncoder, weights: Path):
    trainer = trainer_of(clip, features_of(weights), **ALONE)
    terms, batch = terms_of(trainer), trainer.sample_batch(0)
    trainer.steps.discriminator_gradients(batch, regularise=True, with_features=True)
    assert all(p.grad is None for p in trainer.generator.parameters())
    assert all(p.grad is not None for p in terms.heads.parameters())
    trainer.d_optimizer.zero_grad(set_to_none=True)
    trainer.steps.generator_gradients(batch, path_length_mean=None, with_features=True)
    assert any(p.grad is not None for p in trainer.generator.parameters())
    others = [*terms.heads.parameters(), *trainer.discriminator.parameters()]
    assert all(p.grad is None and p.requires_grad for p in others)
    assert all(p.grad is None for p in terms.backbone.parameters())


def test_heads_learn_to_tell_colours_from_noise_and_conditions_apart(
    clip: ClipEncoder, weights: Path
):
    """On samples that they were not trained on: real ones match their condition."""
    trainer = trainer_of(clip, features_of(weights), **ALONE)
    terms, generator = terms_of(trainer), torch.Generator().manual_seed(1)
    dim = SMALL.discriminator.condition_dim
    conditions = torch.randn(2, dim, generator=generator)

    def samples(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images of a colour, noise, and the right and the wrong condition."""
        colour = torch.randint(2, (count,), generator=generator)
        level = (colour * 2 - 1).float()[:, None, None, None] * 0.5
        noise = torch.randn(count, 3, 16, 16, generator=generator) * 0.3
        real = level.expand(-1, 3, 16, 16) + noise * 0.1
        return real, noise, conditions[colour], conditions[1 - colour]

    def logit(images: Tensor, condition: Tensor) -> Tensor:
        return terms.logit(terms.backbone(images), condition)

    optimizer = torch.optim.Adam(terms.heads.parameters(), lr=0.01, betas=(0.0, 0.99))
    for _ in range(40):
        real, noise, right, wrong = samples(16)
        better, worse = logit(real, right), logit(noise, right)
        loss = F.softplus(-better) + F.softplus(worse) + F.softplus(logit(real, wrong))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    real, noise, right, wrong = samples(32)
    with torch.no_grad():
        logits = [logit(*pair) for pair in ((real, right), (noise, right), (real, wrong))]
    assert [logit.shape for logit in logits] == [(2, 32)] * 3
    for better, *worse in zip(*logits, strict=True):  # of each head
        assert all((better > other).float().mean() > 0.9 for other in worse)


def test_heads_wait_for_their_start(clip: ClipEncoder, weights: Path):
    """As if they were not there; a run that is resumed before or after it is exact."""
    features = features_of(weights, start_kimg=0.032)
    late = trainer_of(clip, features)
    plain = trainer_of(clip, FeatureConfig())
    before = {name: t.clone() for name, t in terms_of(late).heads.state_dict().items()}
    saved = []
    for step in range(4):
        saved.append({name: t.clone() for name, t in flatten_state(late.parts()).items()})
        logged = late.step(16 * step)
        assert ("loss_d_features" in logged) == (step >= 2)
        if step < 2:
            plain.step(16 * step)
    assert not any(t.equal(before[n]) for n, t in terms_of(late).heads.state_dict().items())
    alone = flatten_state(plain.parts())
    assert all(saved[2][name].equal(alone[name]) for name in alone)
    for first in (1, 3):
        again = trainer_of(clip, features)
        restore_state(again.parts(), saved[first])
        for step in range(first, 4):
            again.step(16 * step)
        found = flatten_state(again.parts())
        expected = flatten_state(late.parts())
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in expected)


def test_what_they_cost_is_counted(
    clip: ClipEncoder, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in the middle of a run: a late start does not hide it."""
    whole, calls = FeatureTerms.of_generator, list[int]()

    def counted(self: FeatureTerms, *arguments: Any, **options: Any):
        calls.append(0)
        return whole(self, *arguments, **options)

    monkeypatch.setattr(FeatureTerms, "of_generator", counted)

    def cost(config: GanTrainConfig):
        backbone = load_backbone(config, clip, device=CPU)
        return measure_gan(config, clip, device=CPU, backbone=backbone, probe_seconds=0.0)

    small = dataclasses.replace(SMALL, batch=64)
    plain = cost(small)
    assert calls == []
    longer = cost(dataclasses.replace(small, features=features_of(weights, start_kimg=9.0)))
    assert (plain.feature_parameters, plain.feature_gmac) == (0, 0)
    trainer = trainer_of(clip, features_of(weights))
    heads = sum(p.numel() for p in terms_of(trainer).heads.parameters())
    assert longer.feature_parameters == heads
    assert longer.feature_gmac > 0
    assert longer.training_gib > plain.training_gib
    assert calls
    assert longer.discriminator_gmac == plain.discriminator_gmac
