"""A GAN with heads on features, and its gradients."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from tests.training.gan.trainers import (
    CPU,
    SMALL,
    data_of,
)
from training.gan.features.config import FeatureConfig
from training.gan.features.terms import FeatureTerms
from training.gan.run import load_backbone
from training.gan.trainer import GanTrainer

ALL: dict[str, Any] = {"contrast_weight": 0.5, "matching_weight": 3.0, "r1_gamma": 2.0}
ALONE: dict[str, Any] = {"contrast_weight": 0.0, "clip_weight": 0.0, "r1_gamma": 0.0}


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
