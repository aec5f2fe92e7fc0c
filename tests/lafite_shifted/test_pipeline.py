"""The public API: a model folder makes images, and a seed means one image."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lafite_shifted
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import load_generator, load_prior, model_hash
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.samplers import SamplerConfig
from tests.commands import TINY_GAN, TINY_PRIOR, succeed

TEXT = "a red apple"


@pytest.fixture(scope="module")
def model(model_folder: Path) -> TextToImage:
    """In float32, where a batch changes an image by one level at most."""
    return TextToImage.from_pretrained(model_folder, device="cpu", dtype="float32")


def pixels(images: list[Image.Image]) -> np.ndarray:
    """[N, R, R, 3]."""
    return np.stack([np.asarray(image) for image in images]).astype(int)


def drawn(model: TextToImage, **options) -> dict[int, np.ndarray]:
    """The images of TEXT by seed."""
    found = pixels(model(TEXT, **options))
    return dict(enumerate(found, start=options.get("seed", 0)))


def test_package_exports_the_model(model_folder: Path):
    assert lafite_shifted.TextToImage is TextToImage
    images = lafite_shifted.TextToImage.from_pretrained(model_folder)(TEXT, num_images=2, seed=3)
    assert [(image.size, image.mode) for image in images] == [((16, 16), "RGB")] * 2


def test_model_has_its_hash(model: TextToImage, model_folder: Path):
    assert model.hash == model_hash(model_folder)
    assert len(model.hash) == 16


def test_same_seed_same_image(model: TextToImage):
    first, second = model(TEXT, num_images=3, seed=5), model(TEXT, num_images=3, seed=5)
    assert np.array_equal(pixels(first), pixels(second))
    assert len({image.tobytes() for image in pixels(first)}) == 3
    assert not np.array_equal(pixels(first), pixels(model(TEXT, num_images=3, seed=50)))


@pytest.mark.parametrize("use_prior", [True, False])
def test_image_i_uses_seed_plus_i(model: TextToImage, use_prior: bool):
    together = drawn(model, num_images=4, seed=7, use_prior=use_prior)
    assert list(together) == [7, 8, 9, 10]
    for seed, image in together.items():
        alone = drawn(model, num_images=1, seed=seed, use_prior=use_prior)
        assert np.abs(image - alone[seed]).max() <= 1


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_batch_size_changes_an_image_by_rounding_at_most(model: TextToImage, batch: int):
    whole = drawn(model, num_images=7, batch=16)
    parts = drawn(model, num_images=7, batch=batch)
    assert parts.keys() == whole.keys()
    assert max(np.abs(parts[seed] - whole[seed]).max() for seed in whole) <= 1


def test_prior_never_shifts_z(model: TextToImage):
    """Whatever the prior draws, and whether there is one, the same seed has the same z."""
    seen: list[torch.Tensor] = []
    hook = model.generator.network.generator.mapping.register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].clone())
    )
    for options in (
        {"sampling": SamplerConfig(1)},
        {"sampling": SamplerConfig(5, "dpm++", best_of=2)},
        {"sampling": SamplerConfig(guidance=2.0)},
        {"use_prior": False},
    ):
        drawn(model, num_images=3, seed=11, **options)
    hook.remove()
    assert len(seen) == 4
    assert all(torch.equal(z, seen[0]) for z in seen[1:])
    assert len({tuple(row.tolist()) for row in seen[0]}) == 3


def test_prior_embeddings_depend_on_text_and_seed_alone(model: TextToImage):
    texts, seeds = [TEXT, "a cat", TEXT], [4, 4, 9]
    together = model.embed(texts, seeds=seeds, sampling=SamplerConfig(3))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for row, (text, seed) in enumerate(zip(texts, seeds, strict=True)):
        alone = model.embed([text], seeds=[seed], sampling=SamplerConfig(3))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)
    assert float((together[0] - together[2]).norm()) > 1e-2
    assert float((together[0] - together[1]).norm()) > 1e-4


def test_images_are_those_of_the_prior_embedding(model: TextToImage):
    embeddings = model.embed([TEXT] * 2, seeds=[3, 4], sampling=SamplerConfig(2))
    decoded = model.decode(embeddings, seeds=[3, 4]).numpy().astype(int)
    made = drawn(model, num_images=2, seed=3, sampling=SamplerConfig(2))
    assert np.abs(decoded - np.stack([made[3], made[4]])).max() <= 1


def test_without_prior_the_text_embedding_conditions(model: TextToImage, gan_run: Path):
    expected = model.clip.embed_texts([TEXT]).embedding
    found = model.embed([TEXT], seeds=[0], use_prior=False)
    torch.testing.assert_close(found, expected)
    assert float((model.embed([TEXT], seeds=[0]) - expected).norm()) > 1e-2
    bare = TextToImage(model.clip, load_generator(gan_run / "generator", device=model.device), None)
    torch.testing.assert_close(bare.embed([TEXT], seeds=[0]), expected)


def test_no_truncation_is_the_default_and_zero_forgets_z(model: TextToImage):
    embedding = model.clip.embed_texts([TEXT]).embedding.expand(2, -1)
    plain, full, none = (
        model.decode(embedding, seeds=[1, 2], **options).int()
        for options in ({}, {"truncation": 1.0}, {"truncation": 0.0})
    )
    assert torch.equal(plain, full)
    assert int((none[0] - none[1]).abs().max()) <= 1
    assert int((plain[0] - plain[1]).abs().max()) > 1


@pytest.mark.parametrize("options", [{"num_images": 0}, {"batch": 0}])
def test_counts_below_one_are_refused(model: TextToImage, options: dict):
    with pytest.raises(InputError, match="at least 1"):
        drawn(model, **options)


def test_missing_device_is_refused(model_folder: Path):
    with pytest.raises(InputError, match="not available here"):
        TextToImage.from_pretrained(model_folder, device="cuda:99")


@pytest.mark.parametrize("name", ["nothing-here", "a/b/c", "someone/no-such-model"])
def test_missing_model_is_refused(name: str):
    with pytest.raises(InputError, match=rf"{name} is no folder"):
        TextToImage.from_pretrained(name)


def test_folder_that_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        TextToImage.from_pretrained(tmp_path)


def test_another_clip_is_refused(model_folder: Path, small_clip_folder: Path):
    with pytest.raises(InputError, match=r"The generator was made with .*CLIP it was trained"):
        TextToImage.from_pretrained(model_folder, clip=str(small_clip_folder))


def test_prior_of_another_clip_is_refused(model: TextToImage, prior_run: Path):
    prior = load_prior(prior_run / "prior", device=model.device)
    block = type(prior.encoder_id.blocks[0])("other", "0" * 16, "{}", 128)
    other = type(prior)(prior.prior, type(prior.encoder_id)((block,)), {})
    with pytest.raises(InputError, match="The prior was made with the CLIP other"):
        TextToImage(model.clip, model.generator, other)


def test_clip_that_moved_can_be_named(small_clip_folder: Path, some_images: Path, tmp_path: Path):
    """A CLIP of 77 tokens through the whole chain, then moved: `clip` says where it lies now."""
    here = Path(shutil.copytree(small_clip_folder, tmp_path / "here"))
    named = ("--clip", here)
    succeed("train-gan", some_images, "--out", tmp_path / "gan", *named, *TINY_GAN)
    embeddings = tmp_path / "gan" / "embeddings"
    succeed("train-prior", embeddings, "--out", tmp_path / "prior", *named, *TINY_PRIOR)
    parts = ("--gan", tmp_path / "gan", "--prior", tmp_path / "prior")
    succeed("pack", *parts, "--out", tmp_path / "model")
    there = here.rename(tmp_path / "there")
    with pytest.raises(InputError, match="--clip"):
        TextToImage.from_pretrained(tmp_path / "model")
    model = TextToImage.from_pretrained(tmp_path / "model", clip=str(there))
    assert model.clip.context_length == 77
    long_text = " ".join(["cat"] * 75)
    assert len(model(TEXT)) == len(model(long_text)) == 1


def test_texts_can_be_embedded_by_any_clip_length(clip: ClipEncoder, model: TextToImage):
    text = " ".join(["cat"] * (clip.context_length - 2))
    assert clip.embed_texts([text]).lengths.tolist() == [clip.context_length]
    assert len(model(text)) == 1
