"""How images of a CLIP's training are chosen, and changed at random."""

import numpy as np
import torch
from torch import Tensor

from training.clip.data import CaptionedImage, CaptionedSet, augment


def changed(images: Tensor, strength: float, colour: float) -> Tensor:
    return augment(
        images, strength=strength, colour=colour, generator=torch.Generator().manual_seed(0)
    )


def test_shape_and_colours_change_by_strengths_of_their_own():
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    flat = torch.tensor([0.5, -0.25, 0.0]).view(1, 3, 1, 1).expand(4, 3, 16, 16)
    torch.testing.assert_close(changed(images, 0.0, 0.0), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(changed(flat, 1.0, 0.0), flat, atol=1e-5, rtol=0)
    assert (changed(images, 1.0, 0.0) - images).abs().mean() > 0.1
    assert (changed(flat, 0.0, 1.0) - flat).abs().amax(dim=(1, 2, 3)).min() > 0.02


def images_of(*names: str) -> CaptionedSet:
    images = [
        CaptionedImage(name, (), "flat", name.partition(":")[0], n) for n, name in enumerate(names)
    ]
    return CaptionedSet(np.zeros((len(names), 4, 4, 3), np.uint8), images, [])


def test_siblings_take_the_last_places():
    data = images_of("hand", "hand: dark", "hand: light", "sea", "sky", "sun", "moon", "moon")
    batches = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = data.with_siblings(np.array([0, 3, 6, 4, 5]), share=0.4, rng=rng)
        assert len(set(found)) == 5
        assert list(found[:3]) == [0, 3, 6]
        assert set(found[3:]) == {1, 2}  # not 7, of the same name as 6
        batches.append(tuple(found))
    assert len(set(batches)) == 2
    alone = data.with_siblings(np.array([3, 4, 5]), share=0.4, rng=np.random.default_rng(0))
    assert list(alone) == [3, 4, 5]
    few = data.with_siblings(np.array([0, 3, 1, 2]), share=0.5, rng=np.random.default_rng(0))
    assert sorted(few) == [0, 1, 2, 3]
