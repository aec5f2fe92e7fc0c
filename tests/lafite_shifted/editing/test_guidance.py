"""Guidance: the image of the seed without it, and never further from the sentence with it."""

import pytest
import torch

from lafite_shifted.editing.guidance import GuidanceConfig
from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from tests.lafite_shifted.editing.edited import TEXT, pixels, same


def test_no_guidance_is_the_image_of_the_seed(model: TextToImage):
    found = model.guide(TEXT, num_images=2, seed=3, config=GuidanceConfig(1, 0))
    assert same(pixels(model, found.latents), pixels(model, model.latents(TEXT, seed=[3, 4])))
    torch.testing.assert_close(found.of_seed, found.of_end, atol=1e-4, rtol=0)


@pytest.mark.parametrize("space", ["w", "z"])
def test_guidance_never_leads_away_from_the_sentence(model: TextToImage, space):
    config = GuidanceConfig(4, 4, space, 0.3)
    found = model.guide(TEXT, num_images=2, config=config)
    assert bool((found.of_best >= found.of_seed - 1e-5).all())
    assert bool((found.of_end >= found.of_best - 1e-4).all())
    assert float((found.of_end - found.of_best).max()) > 0
    alone = model.guide(TEXT, seed=[1], config=config)
    assert same(pixels(model, alone.latents)[0], pixels(model, found.latents)[1])


def test_guidance_stays_in_its_trust_region(model: TextToImage):
    start = model.guide(TEXT, num_images=2, config=GuidanceConfig(2, 0)).latents.w
    w = model.generator.w(range(256))
    usual = float((w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt())
    for radius in (0.05, 0.5):
        found = model.guide(TEXT, num_images=2, config=GuidanceConfig(2, 6, "w", radius))
        moved = (found.latents.w - start).norm(dim=1)
        assert float(moved.max()) <= radius * usual * 1.001


@pytest.mark.parametrize("bad", [{"best_of": 0}, {"steps": -1}, {"radius": 0.0}])
def test_bad_guidance_is_refused(bad: dict):
    with pytest.raises(InputError, match="Guidance needs"):
        GuidanceConfig(**bad)
