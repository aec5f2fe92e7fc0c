"""Projections: of the image's own embedding, resumable, and noise where a generator has some."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lafite_shifted.decoder.generator import Generator
from lafite_shifted.decoder.inference import freeze_for_inference
from lafite_shifted.editing.latents import Latents
from lafite_shifted.editing.projection import ProjectionConfig, psnr
from lafite_shifted.editing.projection_file import resume, save
from lafite_shifted.encoders.image_input import image_levels
from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from tests.lafite_shifted.editing.edited import TEXT, pixels, same

CONFIG = ProjectionConfig(candidates=4)


def test_a_projection_holds_the_embedding_and_comes_nearer(model: TextToImage, image: Image.Image):
    projection = model.projection(image, CONFIG)
    before = projection.metrics()["psnr"]
    losses = [loss for _, loss in projection.run(40)]
    assert losses[-1] < losses[0]
    after = projection.metrics()
    assert after["psnr"] > before
    assert torch.equal(projection.latents.embedding, model.embed_images([image]))
    rendered = model.render_latents(projection.latents)[0]
    levels = image_levels(rendered)[None]
    assert after["psnr"] == pytest.approx(psnr(levels, projection.target_uint8), abs=0.05)


def test_the_metrics_of_an_image_at_its_own_latents(model: TextToImage):
    own = model.latents(TEXT, seed=2)
    projection = model.projection(model.render_latents(own)[0], CONFIG)
    projection.embedding, projection.best_w = own.embedding, own.w
    found = projection.metrics()
    assert found["psnr"] > 48
    assert found["cosine"] > 0.999


def test_two_parts_of_a_projection_are_the_whole(
    model: TextToImage, image: Image.Image, tmp_path: Path
):
    whole = model.project(image, steps=8, config=CONFIG)
    part = model.project(image, steps=3, config=CONFIG)
    save(tmp_path, part, model=model.hash)
    rest = model.projection(image, CONFIG)
    assert resume(tmp_path, rest, model=model.hash) == 3
    list(rest.run(8))
    for name, tensor in whole.state().items():
        assert torch.equal(rest.state()[name], tensor), name


def test_the_state_of_another_projection_is_refused(
    model: TextToImage, image: Image.Image, other: Image.Image, tmp_path: Path
):
    save(tmp_path, model.project(image, steps=1, config=CONFIG), model=model.hash)
    for given, config, name, expected in (
        (other, CONFIG, model.hash, "another image"),
        (image, replace(CONFIG, clip_weight=0.5), model.hash, "another clip_weight"),
        (image, CONFIG, "0", "another model"),
    ):
        with pytest.raises(InputError, match=expected):
            resume(tmp_path, model.projection(given, config), model=name)


def test_noise_is_optimised_where_there_is_some(model: TextToImage, image: Image.Image):
    shape = replace(model.generator.network.config, noise=True)
    network = freeze_for_inference(Generator(shape))
    for layer in network.generator.layers:
        layer.noise_strength.data.fill_(0.1)
    noisy = TextToImage(model.clip, replace(model.generator, network=network), None)
    projection = noisy.projection(image, CONFIG)
    start = projection.noise.detach().clone()
    (first, *_, last) = [loss for _, loss in projection.run(10)]
    assert last < first
    noise = projection.latents.noise
    assert noise is not None
    assert not torch.equal(noise, start)
    assert float(noise.square().mean()) == pytest.approx(1, rel=1e-3)
    fixed = Latents(projection.embedding, projection.w.detach(), noise=start)
    plain = replace(fixed, noise=None)
    assert same(pixels(noisy, fixed), pixels(noisy, plain), 1e-5)
