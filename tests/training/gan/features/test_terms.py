"""The heads' terms: their gradients against the losses written out, and the same however a batch is
divided.
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
from tests.training.gan.features.heads import ALL, ALONE, gradients, terms_of, trainer_of
from tests.training.gan.features.networks import features_of
from tests.training.gan.trainers import (
    EVERYTHING,
    assert_same,
)
from training.gan.augment.config import AUGMENTATIONS


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_resnet_clip()


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
from tests.training.gan.features.heads import ALL, gradients, trainer_of
from tests.training.gan.features.networks import features_of
from tests.training.gan.trainers import EVERYTHING
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
