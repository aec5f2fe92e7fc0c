"""Identities of the edits: what must be the image itself, and what must stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted.editing.latents import Latents
from lafite_shifted.editing.sphere import angle
from lafite_shifted.editing.style_mixing import thirds
from lafite_shifted.errors import InputError
from lafite_shifted.generation import Generation
from lafite_shifted.pipeline import TextToImage
from tests.lafite_shifted.editing.edited import OTHER, TEXT, pixels, same

# --- latents


def test_latents_are_the_image_of_their_seed(model: TextToImage):
    found = pixels(model, model.latents(TEXT, seed=[3, 8]))
    expected = model(TEXT, seed=[3, 8], output_type="pt")
    assert same(found.clamp(-1, 1) / 2 + 0.5, expected)


def test_latents_by_style_render_the_same(model: TextToImage):
    latents = model.latents(TEXT, seed=[3, 8])
    split = latents.by_style(model.generator.num_styles)
    assert len(split) == 2
    assert same(pixels(model, split), pixels(model, latents), 1e-5)
    exact = model.generator.render_with_gradient(split.embedding, split.w)
    assert same(exact, pixels(model, latents))


def test_latents_are_read_again(model: TextToImage, tmp_path: Path):
    latents = model.latents(TEXT, seed=3)
    path = tmp_path / "a.safetensors"
    latents.save(path, encoder_id=model.clip.id, model=model.hash)
    found = Latents.load(path, model.generator, model=model.hash)
    assert torch.equal(pixels(model, found), pixels(model, latents))
    with pytest.raises(InputError, match="with the model"):
        Latents.load(path, model.generator, model="another")


# --- variations


def test_variations_hold_the_embedding(model: TextToImage, image: Image.Image):
    found = model.variations(image, num_images=3, seed=5).latents
    expected = model.embed_images([image])
    assert torch.equal(found.embedding, expected.expand(3, -1))
    alone = model.decode(expected, seeds=[6])
    again = (pixels(model, found)[1].permute(1, 2, 0) * 127.5 + 127.5).round().clamp(0, 255)
    assert int((again - alone[0].float()).abs().max()) <= 1


def test_spread_leads_away_one_way_and_no_further_than_unrelated(
    model: TextToImage, image: Image.Image
):
    start = model.embed_images([image])
    spreads = (0.1, 0.3, 1.0)
    found = [model.variations(image, num_images=32, spread=s).latents.embedding for s in spreads]
    cosines = [float((e @ start.T).mean()) for e in found]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] > 0.95
    for e in found:
        torch.testing.assert_close(e.norm(dim=1), torch.ones(32))
    alone = model.variations(image, seed=[7], spread=0.3).latents.embedding
    torch.testing.assert_close(alone, found[1][7:8], atol=1e-5, rtol=0)


def test_an_edit_is_its_images_and_goes_into_the_next(model: TextToImage, image: Image.Image):
    found = model.variations(image, num_images=2)
    assert isinstance(found[0], Image.Image)
    assert len(found) == len(list(found)) == 2
    again = model.render_latents(found.latents)
    assert [i.tobytes() for i in found] == [i.tobytes() for i in again]
    one = model.variations(image, num_images=1, seed=3)
    same_again = model.edit(one, TEXT, OTHER, strength=0.0)
    assert np.abs(np.asarray(same_again[0]).astype(int) - np.asarray(one[0])).max() <= 1
    with pytest.raises(InputError, match="2 images"):
        model.interpolate(found, TEXT)


# --- interpolation and walks


def test_interpolation_begins_and_ends_at_its_ends(
    model: TextToImage, image: Image.Image, other: Image.Image
):
    for a, b in ((TEXT, OTHER), (image, TEXT), (image, other)):
        path = pixels(model, model.interpolate(a, b, steps=5, seed=1, seed_b=2).latents)
        assert same(path[0], pixels(model, model.latents(a, seed=1))[0])
        assert same(path[-1], pixels(model, model.latents(b, seed=2))[0])
        back = pixels(model, model.interpolate(b, a, steps=5, seed=2, seed_b=1).latents)
        assert same(path, back.flip(0))


def test_interpolation_of_one_image_with_itself_stands_still(model: TextToImage):
    path = pixels(model, model.interpolate(TEXT, TEXT, steps=4, seed=3).latents)
    assert same(path, path[:1].expand_as(path), 1e-4)


def test_interpolation_is_even_on_the_sphere(model: TextToImage):
    found = model.interpolate(TEXT, OTHER, steps=6, seed=1, seed_b=2).latents
    steps = angle(found.embedding[1:], found.embedding[:-1])
    torch.testing.assert_close(steps, steps.mean().expand(5), rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(found.embedding.norm(dim=1), torch.ones(6))


def test_truncation_reaches_every_step(model: TextToImage):
    found = model.interpolate(TEXT, OTHER, steps=3, generation=Generation(truncation=0.0)).latents
    average = model.generator.network.mapping.w_average
    torch.testing.assert_close(found.w, average.expand(3, -1))


def alike(a: Image.Image, b: Image.Image) -> bool:
    """To one level: a batch of another size is rounded in another way."""
    levels = np.asarray(a, dtype=int) - np.asarray(b, dtype=int)
    return int(np.abs(levels).max()) <= 1


def test_a_walk_closes(model: TextToImage, image: Image.Image):
    frames = list(model.walk([TEXT, image, OTHER], frames=4, seeds=[1, 2, 3]))
    assert len(frames) == 12
    for number, (stop, seed) in enumerate(((TEXT, 1), (image, 2), (OTHER, 3))):
        (expected,) = model.render_latents(model.latents(stop, seed=seed))
        assert alike(frames[4 * number], expected)
    assert not alike(frames[0], frames[1])
    onward = model.render_latents(model.interpolate(OTHER, TEXT, steps=5, seed=3, seed_b=1).latents)
    assert all(alike(*pair) for pair in zip(frames[8:], onward[:4], strict=True))
    seeds = list(model.walk([TEXT], frames=3, seeds=[1, 2]))
    assert len(seeds) == 6
    assert alike(seeds[0], frames[0])


# --- edits by words


def test_no_strength_is_the_image(model: TextToImage, image: Image.Image):
    found = model.edit(image, TEXT, OTHER, strength=[0, 0.4, 1], seed=4).latents
    assert same(pixels(model, found)[:1], pixels(model, model.latents(image, seed=4)))
    start = model.embed_images([image])
    whole = float(angle(start, found.embedding[2:]))
    assert float(angle(start, found.embedding[1:2])) == pytest.approx(0.4 * whole, rel=1e-3)


def test_the_whole_strength_is_the_direction_whatever_the_image(
    model: TextToImage, image: Image.Image, other: Image.Image
):
    ends = [model.edit(i, TEXT, OTHER, strength=1.0).latents.embedding for i in (image, other)]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-5, rtol=0)
    texts = model.clip.embed_texts([TEXT, OTHER]).embedding
    direction = torch.nn.functional.normalize(texts[1:] - texts[:1], dim=1)
    plain = model.edit(
        image, TEXT, OTHER, strength=1.0, generation=Generation(use_prior=False)
    ).latents
    torch.testing.assert_close(plain.embedding, direction, atol=1e-5, rtol=0)


def test_an_edit_keeps_w(model: TextToImage, image: Image.Image):
    given = model.latents(image, seed=4)
    found = model.edit(given, TEXT, OTHER, strength=[0.2, 0.5]).latents
    assert torch.equal(found.w, given.w.expand(2, -1))


def test_sentences_that_mean_the_same_are_refused(model: TextToImage, image: Image.Image):
    with pytest.raises(InputError, match="mean the same"):
        model.edit(image, TEXT, TEXT)
    for strength in (-0.1, 1.1, float("nan"), []):
        with pytest.raises(InputError, match="strength"):
            model.edit(image, TEXT, OTHER, strength=strength)


# --- style mixing


def test_no_layers_are_a_and_all_layers_are_b(model: TextToImage, image: Image.Image):
    a, b = model.latents(TEXT, seed=1), model.latents(image, seed=2)
    num_layers = len(model.generator.network.generator.layers)
    assert same(pixels(model, model.style_mix(a, b, layers=()).latents), pixels(model, a), 1e-5)
    assert same(
        pixels(model, model.style_mix(a, b, layers=range(num_layers)).latents),
        pixels(model, b),
        1e-5,
    )
    for part in thirds(model.generator):
        rest = set(range(num_layers)) - set(part)
        one = model.style_mix(a, b, layers=part).latents
        complement = model.style_mix(b, a, layers=rest).latents
        assert same(pixels(model, one), pixels(model, complement), 1e-5)
        assert not same(pixels(model, one), pixels(model, a))
    with pytest.raises(InputError, match=r"There is no layer 99\. This model has 0: 4 pixels, 1-2"):
        model.style_mix(a, b, layers=[99])
