"""CLIP: preprocessing and features against open_clip's own, and identities."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.starter import starter_clip
from tests.small_clip import save_small_clip


def mosaic(folder: Path, size: tuple[int, int], *, cell: int) -> Image.Image:
    """Shipped images side by side, with the hard edges that resizing filters differ at."""
    canvas = Image.new("RGB", size, "white")
    files = iter(sorted(folder.glob("*.png")))
    for top in range(0, size[1], cell):
        for left in range(0, size[0], cell):
            with Image.open(next(files)) as image:
                enlarged = image.convert("RGB").resize((cell, cell), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (left, top))
    return canvas


def to_tensor(image: Image.Image) -> torch.Tensor:
    """[3, H, W] uint8."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def open_clip_prepared(encoder: ClipEncoder, image: Image.Image) -> torch.Tensor:
    """[1, 3, S, S] by open_clip's own transform."""
    transform = image_transform_v2(PreprocessCfg(**encoder.model.visual.preprocess_cfg), False)
    return transform(image)[None]


def assert_prepared_as_by_open_clip(encoder: ClipEncoder, image: Image.Image) -> None:
    expected = open_clip_prepared(encoder, image)
    prepared = encoder.preprocess(to_tensor(image)[None])
    assert prepared.shape == expected.shape
    std = torch.tensor(encoder.preprocess_config.std).view(3, 1, 1)
    assert float(((prepared - expected) * std).abs().max()) <= 2 / 255 + 1e-6
    theirs = F.normalize(encoder.model.encode_image(expected), dim=1)
    assert float((encoder.embed_images(to_tensor(image)[None]) * theirs).sum()) >= 0.9999


LARGE = [(900, 400), (333, 1201), (40, 30), (65, 64)]


@pytest.fixture(scope="module")
def large_images(shipped_images: Path) -> list[Image.Image]:
    return [mosaic(shipped_images, size, cell=max(64, max(size) // 12)) for size in LARGE]


def test_shipped_images_are_prepared_as_by_open_clip(clip: ClipEncoder, shipped_images: Path):
    files = sorted(shipped_images.glob("*.png"))[::8]
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(image.convert("RGB"))
    expected = torch.cat([open_clip_prepared(clip, image) for image in images])
    prepared = clip.preprocess(torch.stack([to_tensor(image) for image in images]))
    std = torch.tensor(clip.preprocess_config.std).view(3, 1, 1)
    assert float(((prepared - expected) * std).abs().max()) <= 2 / 255 + 1e-6
    theirs = clip.model.encode_image(expected, normalize=True)
    assert float((clip.embed_prepared(prepared) * theirs).sum(dim=1).min()) >= 0.9999


def test_a_cpu_embeds_with_a_folded_copy(clip: ClipEncoder, rng: torch.Generator):
    """The model itself stays as it was, for whoever saves it or begins from it."""

    def norms(network: torch.nn.Module) -> list[torch.nn.Module]:
        return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    prepared = torch.randn(5, 3, *clip.input_size, generator=rng)
    theirs = clip.model.encode_image(prepared, normalize=True)
    torch.testing.assert_close(clip.embed_prepared(prepared), theirs, rtol=0, atol=1e-5)
    assert norms(clip.model.visual)
    assert not norms(clip._image_tower)


def test_what_is_resized_is_embedded_as_the_image_is(clip: ClipEncoder, rng: torch.Generator):
    images = torch.randint(0, 256, (3, 3, 64, 80), dtype=torch.uint8, generator=rng)
    levels = clip.resize(images)
    assert (levels.dtype, levels.shape) == (torch.uint8, (3, 3, *clip.input_size))
    assert clip.embed_resized(levels).equal(clip.embed_images(images))


@pytest.mark.parametrize("index", range(len(LARGE)), ids=[f"{w}x{h}" for w, h in LARGE])
@pytest.mark.parametrize("which", ["clip", "small_clip"])
def test_large_images_are_prepared_as_by_open_clip(
    which: str, index: int, large_images: list[Image.Image], request: pytest.FixtureRequest
):
    assert_prepared_as_by_open_clip(request.getfixturevalue(which), large_images[index])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_every_resize_mode_is_prepared_as_by_open_clip(
    tmp_path: Path, resize_mode: str, interpolation: str, large_images: list[Image.Image]
):
    options = {"resize_mode": resize_mode, "interpolation": interpolation, "fill_color": 30}
    encoder = ClipEncoder.load(str(save_small_clip(tmp_path / "clip", **options)))
    for image in large_images[:2]:
        assert_prepared_as_by_open_clip(encoder, image)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_oblong_input_is_prepared_as_by_open_clip(
    tmp_path: Path, resize_mode: str, large_images: list[Image.Image]
):
    folder = save_small_clip(tmp_path / "clip", image_size=(96, 160), resize_mode=resize_mode)
    encoder = ClipEncoder.load(str(folder))
    for image in large_images[:2]:
        assert_prepared_as_by_open_clip(encoder, image)


def test_float_and_uint8_images_embed_alike(clip: ClipEncoder, large_images):
    levels = to_tensor(large_images[0])[None]
    as_float = levels.float() / 127.5 - 1
    # bytes are resized in whole numbers, by Pillow's arithmetic: a level apart here and there
    apart = (clip.preprocess(as_float) - clip.preprocess(levels)).abs().amax(dim=(0, 2, 3))
    level = 1 / 255 / torch.tensor(clip.preprocess_config.std)
    assert (apart <= 1.01 * level).all()
    similarity = (clip.embed_images(as_float) * clip.embed_images(levels)).sum()
    assert similarity > 0.9999


def test_images_of_different_sizes_embed_as_they_do_alone(clip: ClipEncoder, large_images):
    tensors = [to_tensor(image) for image in large_images[:4]]
    together = clip.embed_images(tensors)
    alone = torch.cat([clip.embed_images(tensor[None]) for tensor in tensors])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    assert together.dtype == torch.float32


def test_gradient_reaches_the_pixels(clip: ClipEncoder, rng: torch.Generator):
    images = (torch.rand(2, 3, 80, 100, generator=rng) * 1.8 - 0.9).requires_grad_(True)
    direction = F.normalize(torch.randn(2, clip.id.dim, generator=rng), dim=1)
    (clip.embed_images(images) * direction).sum().backward()
    gradient = images.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())
    seen = gradient.abs().sum(dim=1) > 0  # [N, H, W]
    assert float(seen[:, :, 12:88].float().mean()) > 0.9  # outside lies what the crop cuts off
    assert all(parameter.grad is None for parameter in clip.model.parameters())


# --- texts

TEXTS = ["cat", "a red apple on a green leaf", "two dogs, a clock & 3 stars!"]


@pytest.fixture(scope="module")
def custom_text_clip(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    folder = tmp_path_factory.mktemp("custom") / "clip"
    return ClipEncoder.load(str(save_small_clip(folder, custom_text=True)))


@pytest.mark.parametrize("which", ["clip", "small_clip", "custom_text_clip"])
def test_text_features_match_open_clip(which: str, request: pytest.FixtureRequest):
    encoder: ClipEncoder = request.getfixturevalue(which)
    features = encoder.embed_texts(TEXTS)
    expected = encoder.model.encode_text(encoder.tokenizer(TEXTS), normalize=True)
    torch.testing.assert_close(features.embedding, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features.embedding.norm(dim=1), torch.ones(3))
    expected_lengths = [len(encoder.tokenizer.encode(text)) + 2 for text in TEXTS]
    assert features.lengths.tolist() == expected_lengths
    is_cut = which != "custom_text_clip"  # to the longest text
    length = max(expected_lengths) if is_cut else encoder.context_length
    assert features.tokens.shape[:2] == (3, length)
    for row, length in zip(features.tokens, expected_lengths, strict=True):
        assert bool((row[length:] == 0).all())
        assert bool((row[:length].abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("which", ["clip", "small_clip", "custom_text_clip"])
def test_state_at_the_end_of_text_projects_to_the_embedding(
    which: str, request: pytest.FixtureRequest
):
    """So the token states are those after the final norm, of the layer that CLIP itself uses."""
    encoder: ClipEncoder = request.getfixturevalue(which)
    features = encoder.embed_texts(TEXTS)
    last = features.tokens[torch.arange(3), features.lengths - 1]
    projection = getattr(encoder.model, "text", encoder.model).text_projection
    projected = F.normalize(last @ projection, dim=1)
    torch.testing.assert_close(projected, features.embedding, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("which", ["clip", "small_clip", "custom_text_clip"])
def test_text_features_do_not_depend_on_the_batch(which: str, request: pytest.FixtureRequest):
    encoder: ClipEncoder = request.getfixturevalue(which)
    together = encoder.embed_texts(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = encoder.embed_texts([text])
        own = together.tokens[row, : alone.tokens.shape[1]]
        torch.testing.assert_close(own, alone.tokens[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.embedding[row], alone.embedding[0], atol=1e-5, rtol=0)


def test_long_text_is_cut_with_one_warning(small_clip_folder: Path):
    encoder = ClipEncoder.load(str(small_clip_folder))
    fits = " ".join(["cat"] * 75)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.embed_texts([fits]).lengths.tolist() == [77]
    with pytest.warns(UserWarning, match="longer than the 77 tokens") as caught:
        features = encoder.embed_texts([f"{fits} dog", "cat", f"{fits} dog dog"])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.embed_texts([f"{fits} apple"])
    assert features.lengths.tolist() == [77, 3, 77]
    torch.testing.assert_close(features.embedding[0], features.embedding[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("texts", [[], [""], ["cat", "  "]])
def test_empty_text_is_refused(clip: ClipEncoder, texts: list[str]):
    with pytest.raises(InputError, match=r"(texts|sentence) is empty"):
        clip.embed_texts(texts)


# --- identity


def test_id_depends_on_weights_and_preprocessing_alone(
    small_clip: ClipEncoder, small_clip_folder: Path, tmp_path: Path
):
    moved = ClipEncoder.load(str(shutil.copytree(small_clip_folder, tmp_path / "moved")))
    check_same_encoder(moved.id, small_clip.id, what="it", remedy="")
    assert moved.id.to_json()[0]["model"] != small_clip.id.to_json()[0]["model"]
    assert EncoderId.from_json(json.loads(json.dumps(moved.id.to_json()))) == moved.id
    others = {
        "weights": save_small_clip(tmp_path / "weights", seed=1),
        "preprocessing": save_small_clip(tmp_path / "squash", resize_mode="squash"),
        "mean": save_small_clip(tmp_path / "mean", mean=(0.5, 0.5, 0.5)),
    }
    for folder in others.values():
        other = ClipEncoder.load(str(folder))
        with pytest.raises(InputError, match=r"The shard was made with the CLIP .*Do that\."):
            check_same_encoder(other.id, small_clip.id, what="The shard", remedy="Do that.")


def test_id_tells_activations_apart(small_clip_folder: Path, small_clip: ClipEncoder):
    """The same weights under QuickGELU are another encoder."""
    model = open_clip.create_model(f"local-dir:{small_clip_folder}", force_quick_gelu=True)
    other = ClipEncoder(model, small_clip.tokenizer, name="quick", device=torch.device("cpu"))
    assert all(
        a.equal(b)
        for a, b in zip(
            model.state_dict().values(), small_clip.model.state_dict().values(), strict=True
        )
    )
    with pytest.raises(InputError, match="cannot be mixed"):
        check_same_encoder(other.id, small_clip.id, what="it", remedy="")


def test_starter_can_be_named_by_its_folder(clip: ClipEncoder):
    by_folder = ClipEncoder.load(str(starter_clip()))
    check_same_encoder(by_folder.id, clip.id, what="it", remedy="")
    assert by_folder.id.blocks[0].dim == clip.embed_texts(["cat"]).embedding.shape[1]
