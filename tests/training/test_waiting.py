"""A step of a training on a GPU mixes no devices, and waits for no number of the GPU but where it
must: to decide whether a step is taken.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from tests.fake_cuda import CUDA, fake_cuda, in_a_process_of_its_own

EVERY_TERM: dict[str, Any] = {
    "clip_weight": 0.3,
    "r2": True,
    "path_length_weight": 2.0,
    "mismatch_weight": 0.5,
    "caption_share": 0.5,
    "r1_every": 1,
    "path_length_every": 1,
    "dtype": "float32",
    "micro_batch": 8,
}


def step_of_a_gan(**changes: Any) -> None:
    import training.gan.trainer as module
    from lafite_shifted.encoders.clip import ClipEncoder
    from tests.training.gan.test_step import SMALL, data_of
    from torch_utils.ops import native

    native.choose("reference")
    clip = ClipEncoder.load("starter")
    data = data_of(clip)
    # made of numbers that a fake mode has not
    stats = EmbeddingStats.of(data.embeddings, data.encoder_id)
    known: dict[str, Gaussian] = {
        kind: Gaussian.from_stats(stats, covariance_type=kind)  # type: ignore[arg-type]
        for kind in ("full", "diagonal")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddingStats, "of", staticmethod(lambda *_: stats))
        patch.setattr(
            Gaussian, "from_stats", staticmethod(lambda _stats, kind="full", **_: known[kind])
        )
        eval_set = module.EvalSet.of(data)
        patch.setattr(module.EvalSet, "of", staticmethod(lambda *_: eval_set))
        decisions = []
        patch.setattr(module, "_is_finite", lambda norm: decisions.append(norm.device) or True)
        config = dataclasses.replace(SMALL, **EVERY_TERM, **changes)
        here = module.GanTrainer(config, data, clip, device=torch.device("cpu")).sample_batch(0)
        with fake_cuda():
            fields = {field.name: getattr(here, field.name) for field in dataclasses.fields(here)}
            there = module.Batch(**{name: value.to(CUDA) for name, value in fields.items()})
            patch.setattr(module.GanTrainer, "sample_batch", lambda *_: there)
            clip.model.to(CUDA)
            clip.device = CUDA
            trainer = module.GanTrainer(config, data, clip, device=CUDA)
            for step in range(2):
                logged = trainer.step(step * trainer.batch)
        assert decisions == [CUDA] * 4
        assert {value.device for name, value in logged.items() if "loss" in name} == {CUDA}


def plain_gan() -> None:
    step_of_a_gan()


def gan_with_every_augmentation() -> None:
    from training.gan.augment.config import AugmentConfig

    step_of_a_gan(
        adversarial="relativistic",
        augment=AugmentConfig("fixed", filter=1.0, noise=0.1, cutout=0.5),
    )


def gan_in_float16() -> None:
    from torch_utils.loss_scale import LossScale

    with fake_cuda():
        scale = LossScale(torch.float16).to(CUDA)
        scale.update(finite=True)
        scale.update(finite=False)
        assert scale.scale.device == CUDA


def loss_of_a_prior() -> None:
    from lafite_shifted.encoders.text_features import TextFeatures
    from lafite_shifted.prior import network
    from lafite_shifted.prior.network import PriorConfig
    from lafite_shifted.prior.prior import Prior

    for objective in ("mse", "energy"):
        config = PriorConfig(
            objective=objective,  # type: ignore[arg-type]
            width=32,
            depth=1,
            heads=2,
            embed_dim=16,
            token_width=8,
            context_length=6,
        )
        prior = Prior(config, EmbeddingStats.of(torch.randn(64, 16)))
        lengths, has_text = torch.tensor([2, 6, 3]), torch.tensor([True, False, True])
        known = network.what_is_visible(lengths, has_text, 6)

        def visible(
            lengths: torch.Tensor, has_text: torch.Tensor, _num_tokens: int, known=known
        ) -> tuple[torch.Tensor, torch.Tensor]:
            assert lengths.device == has_text.device == torch.device("cpu")
            return known

        with pytest.MonkeyPatch.context() as patch, fake_cuda():
            patch.setattr(network, "what_is_visible", visible)
            prior.network.to(CUDA)
            prior.gaussian = prior.gaussian.to(CUDA)
            if prior.linear is not None:
                prior.linear = prior.linear.to(CUDA)
            here = TextFeatures(torch.randn(3, 16), torch.randn(3, 6, 8), lengths)
            text = here.to(CUDA)
            sample_noise = torch.randn(3, 1, 4, 16, device=CUDA) if objective == "energy" else None
            loss = prior.loss(
                torch.randn(3, 16, device=CUDA),
                text,
                t=torch.full((3, 1), 7, device=CUDA),
                noise=torch.randn(3, 1, 16, device=CUDA),
                has_text=has_text,
                sample_noise=sample_noise,
            )
            loss.mean().backward()
            assert loss.device == CUDA


PARTS = [plain_gan, gan_with_every_augmentation, gan_in_float16, loss_of_a_prior]


@pytest.mark.parametrize("part", PARTS)
def test_a_step_on_a_gpu_waits_for_nothing(part: Callable[[], None]):
    in_a_process_of_its_own(part)


def waits() -> None:
    with fake_cuda():
        bool(torch.ones(1, device=CUDA).any())


def test_what_waits_is_noticed():
    with pytest.raises(AssertionError, match="DataDependentOutputException"):
        in_a_process_of_its_own(waits)
