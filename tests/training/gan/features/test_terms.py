"""The heads in a step: their gradients against the losses written out, what stays frozen, and the
same however a batch is divided.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.generator import Generator
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.io.files import load_tensors
from tests.ranks import run_in_ranks
from tests.small_clip import load_resnet_clip
from tests.training.gan.features.networks import features_of, save_timm
from tests.training.gan.trainers import (
    CPU,
    EVERYTHING,
    SMALL,
    assert_same,
    data_of,
)
from training.checkpoint import flatten_state, restore_state
from training.gan.augment.config import AUGMENTATIONS
from training.gan.config import GanTrainConfig
from training.gan.cost import measure_gan
from training.gan.features.config import FeatureConfig
from training.gan.features.terms import FeatureTerms
from training.gan.run import load_backbone
from training.gan.trainer import GanTrainer

ALL: dict[str, Any] = {"contrast_weight": 0.5, "matching_weight": 3.0, "r1_gamma": 2.0}
ALONE: dict[str, Any] = {"contrast_weight": 0.0, "clip_weight": 0.0, "r1_gamma": 0.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_resnet_clip()


def trainer_of(clip: ClipEncoder, features: FeatureConfig, **changes: Any) -> GanTrainer:
    config = dataclasses.replace(SMALL, features=features, **changes)
    backbone = load_backbone(config, clip, device=CPU)
    return GanTrainer(config, data_of(clip), clip, device=CPU, backbone=backbone)


def terms_of(trainer: GanTrainer) -> FeatureTerms:
    assert trainer.features is not None
    return trainer.features


def gradients(trainer: GanTrainer, *, samples_seen: int = 0) -> dict[str, Tensor]:
    """Of D and the heads, then of G against the same."""
    batch, found = trainer.sample_batch(samples_seen), {}
    seen = trainer.steps.see(batch, with_features=True)
    trainer.steps.discriminator_gradients(batch, regularise=True, with_features=True, seen=seen)
    judges = {"D": trainer.discriminator, "H": terms_of(trainer).heads}
    for name, network in judges.items():
        found |= {f"{name}.{n}": p.grad.clone() for n, p in network.named_parameters()}
    mean = torch.tensor(0.5) if trainer.config.path_length_weight else None
    trainer.steps.generator_gradients(batch, path_length_mean=mean, with_features=True, seen=seen)
    named = trainer.generator.named_parameters()
    return found | {f"G.{n}": p.grad.clone() for n, p in named if p.grad is not None}


@pytest.mark.parametrize("adversarial", ["non_saturating", "relativistic"])
def test_gradients_match_the_losses_written_out(clip: ClipEncoder, weights: Path, adversarial: str):
    """Of the heads, and what they add to those of G."""
    options: dict[str, Any] = {"adversarial": adversarial, "augment": AUGMENTATIONS["off"]}
    options |= {**ALONE, "mismatch_weight": 0.5, "r1_every": 3}
    features = features_of(weights, weight=0.7, r1_gamma=2.0, matching_weight=3.0)
    trainer = trainer_of(clip, features, **options)
    found = gradients(trainer)
    without = gradients(trainer_of(clip, features_of(weights, weight=0.0), **options))
    batch, terms = trainer.sample_batch(0), terms_of(trainer)
    pair = adversarial == "relativistic"

    def logits(maps: list[Tensor], condition: Tensor) -> list[Tensor]:
        judged = []
        for head, x in zip(terms.heads.heads, maps, strict=True):
            realness, feature = head(x)
            judged.append(realness + (feature * condition).sum(1) / condition.shape[1] ** 0.5)
        return judged

    fake = trainer.generator(batch.z, batch.condition, noise=batch.noise)
    losses, losses_of_g = [], []
    all_maps = [terms.backbone(x) for x in (batch.real, fake.detach(), fake)]
    real_maps = [x.requires_grad_() for x in all_maps[0]]
    all_logits = [logits(maps, batch.condition) for maps in all_maps]
    wrongs = logits(real_maps, batch.mismatch)
    slopes = [
        torch.autograd.grad(logit.sum(), x, create_graph=True)[0]
        for logit, x in zip(all_logits[0], real_maps, strict=True)
    ]
    for real, made, through, wrong, slope in zip(*all_logits, wrongs, slopes, strict=True):
        loss = F.softplus(made - real) if pair else F.softplus(-real) + F.softplus(made)
        r1 = 2.0 / 2 * 3 * slope.square().sum(dim=(1, 2, 3)).mean()
        losses.append(loss.mean() + 0.5 * (F.softplus(wrong) * batch.keep).mean() + r1)
        losses_of_g.append(F.softplus(real.detach() * pair - through).mean())
    assert not batch.keep.all()
    for wanted, seen in zip(all_maps[0], all_maps[2], strict=True):
        distance = (wanted.detach() - seen).abs().flatten(1).mean(1)
        losses_of_g.append(3.0 / 0.7 * distance[batch.keep].sum() / len(batch.keep))
    heads, g = (dict(n.named_parameters()) for n in (terms.heads, trainer.generator))
    parts = torch.autograd.grad(0.7 * sum(losses) / 2, list(heads.values()))
    expected = {f"H.{name}": part for name, part in zip(heads, parts, strict=True)}
    parts = torch.autograd.grad(0.7 * sum(losses_of_g) / 2, list(g.values()), allow_unused=True)
    added = {f"G.{n}": part for n, part in zip(g, parts, strict=True) if part is not None}
    expected |= {name: without[name] + part for name, part in added.items()}
    assert_same({name: found[name] for name in expected}, expected)
    assert all(expected[f"H.{name}"].any() for name in heads)
    assert any(added[name].any() for name in added if "condition" in name or "styles" in name)
    unchanged = {name: part for name, part in without.items() if name.startswith("D.")}
    assert_same({name: found[name] for name in unchanged}, unchanged)


@pytest.mark.parametrize("adversarial", ["non_saturating", "relativistic"])
def test_micro_batches_have_the_gradients_of_the_whole(
    clip: ClipEncoder, weights: Path, adversarial: str
):
    features = features_of(weights, **ALL)
    options: dict[str, Any] = {"adversarial": adversarial, **EVERYTHING}
    whole = gradients(trainer_of(clip, features, **options))
    for size in (4, 12):
        divided = trainer_of(clip, features, micro_batch=size, **options)
        assert_same(gradients(divided), whole)


SCRIPT = """
import sys
from pathlib import Path
from lafite_shifted.io.files import save_tensors
from tests.small_clip import load_resnet_clip
from tests.training.gan.features.networks import features_of
from tests.training.gan.features.test_terms import ALL, EVERYTHING, gradients, trainer_of
from torch_utils import distributed
with distributed.group():
    features = features_of(Path(sys.argv[1]), **ALL)
    found = gradients(trainer_of(load_resnet_clip(), features, **EVERYTHING))
    save_tensors(Path(sys.argv[2]) / f"{distributed.rank()}.safetensors", found, {})
"""


def test_processes_have_the_gradients_of_the_whole(
    clip: ClipEncoder, weights: Path, tmp_path: Path
):
    outcome = run_in_ranks(("-c", SCRIPT, weights, tmp_path), folder=tmp_path)
    assert outcome.code == 0, outcome.err
    whole = gradients(trainer_of(clip, features_of(weights, **ALL), **EVERYTHING))
    for rank in range(2):
        assert_same(load_tensors(tmp_path / f"{rank}.safetensors")[0], whole)


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


def test_images_are_matched_as_they_are_augmented(
    clip: ClipEncoder, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    """A generator that gives the real images has nothing to match."""
    always = dataclasses.replace(AUGMENTATIONS["ada"], control="fixed", probability=1.0)
    options: dict[str, Any] = {"augment": always, **ALONE}
    trainer = trainer_of(clip, features_of(weights, matching_weight=1.0), **options)
    batch = trainer.sample_batch(0)
    logged, _ = trainer.steps.generator_gradients(batch, path_length_mean=None, with_features=True)
    assert logged["loss_matching"] > 0.05
    monkeypatch.setattr(Generator, "synthesise", lambda *_, **__: batch.real + 0 * bias)
    bias = torch.zeros((), requires_grad=True)
    logged, _ = trainer.steps.generator_gradients(batch, path_length_mean=None, with_features=True)
    assert logged["loss_matching"] == 0


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
