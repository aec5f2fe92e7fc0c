"""What a sample of a step meets: the same in any batch."""

import dataclasses

import pytest
import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from tests.small_clip import load_resnet_clip
from tests.training.gan.trainers import (
    CPU,
    EVERYTHING,
    SMALL,
    data_of,
    trainer_of,
)
from training.gan.augment.config import AugmentConfig
from training.gan.augment.plan import AugmentPlan
from training.gan.batch import Batch
from training.gan.trainer import GanTrainer

ALWAYS = AugmentConfig(control="fixed", probability=0.8, cutout=0.5)


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return load_resnet_clip()


def test_a_sample_meets_the_same_in_any_batch(clip: ClipEncoder):
    """Whatever the size of the batch, and so whatever the number of processes."""
    options = EVERYTHING | {"augment": ALWAYS}
    large, small = (trainer_of(clip, batch=size, **options) for size in (16, 4))
    whole = large.sample_batch(16)
    assert 0 < len(whole.augment.rows) <= 16
    for place, expected in whole.parts(4):
        part = small.sample_batch(16 + place.start)
        assert part.augment.rows == expected.augment.rows
        for name, wanted in tensors_of(expected).items():
            torch.testing.assert_close(tensors_of(part)[name], wanted, msg=name)


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """By name, those of the augmentation too."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(Batch):
        value = getattr(batch, field.name)
        if isinstance(value, AugmentPlan):
            found |= {f"{field.name}.{name}": part for name, part in value.tensors().items()}
        else:
            found[field.name] = value
    return found


def test_captions_take_the_place_of_pseudo_texts(clip: ClipEncoder):
    """For the captioned images alone, as often as asked."""
    plain, captioned = trainer_of(clip), trainer_of(clip, caption_share=0.5)
    data, replaced, count = captioned.data, 0, 0
    for start in range(0, 400, 16):
        before, after = plain.sample_batch(start).pseudo, captioned.sample_batch(start).pseudo
        for row in range(16):
            if after[row].equal(before[row]):
                continue
            replaced += 1
            assert (data.captions[:] == after[row]).all(dim=1).any()
        count += 16
    assert 0.25 < replaced / count < 0.5  # half of the three quarters that have one: .375


def test_captions_that_do_not_exist_cannot_be_shared(clip: ClipEncoder):
    data = dataclasses.replace(
        data_of(clip), captions=torch.empty(0, clip.id.dim), first_caption=torch.zeros(41).long()
    )
    with pytest.raises(InputError, match="no training image has a caption"):
        GanTrainer(dataclasses.replace(SMALL, caption_share=0.1), data, clip, device=CPU)
