"""What users of diffusers expect of `TextToImage`: lists, generators, output types, callbacks,
`.to`.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted.editing.sphere import slerp
from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import load_generator
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.samplers import SamplerConfig

TEXTS = ["a red apple", "a cat", "a blue car"]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(model_folder, device="cpu", dtype="float32")


def levels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def close(a: list[Image.Image], b: list[Image.Image]) -> bool:
    """To one level, which the batch may move."""
    return len(a) == len(b) and bool(np.abs(levels(a) - levels(b)).max() <= 1)


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_a_list_of_prompts_is_each_of_them(model: TextToImage, batch: int):
    together = model(TEXTS, num_images=2, seed=5, batch=batch)
    alone = [image for text in TEXTS for image in model(text, num_images=2, seed=5)]
    assert close(together, alone)


def test_seeds_may_be_named(model: TextToImage):
    assert close(model(TEXTS[0], seed=[9, 4]), [model(TEXTS[0], seed=s)[0] for s in (9, 4)])
    assert close(model(TEXTS[0], seed=np.int64(9)), model(TEXTS[0], seed=9))


def test_a_generator_draws_the_seeds(model: TextToImage):
    def made(seed: int) -> list[Image.Image]:
        return model(TEXTS[:2], num_images=2, generator=torch.Generator().manual_seed(seed))

    assert close(made(0), made(0))
    assert not close(made(0), made(1))
    assert len({image.tobytes() for image in made(0)}) == 4
    own = [torch.Generator().manual_seed(s) for s in (1, 2, 3)]
    first = model(TEXTS, generator=own)
    assert close(first[2:], model(TEXTS[2], generator=torch.Generator().manual_seed(3)))


def test_output_types_are_one_image(model: TextToImage):
    pil, pt, array = (model(TEXTS[:2], output_type=kind) for kind in ("pil", "pt", "np"))
    assert isinstance(pt, torch.Tensor)
    assert pt.shape == (2, 3, 16, 16)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert np.array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert float(pt.min()) >= 0
    assert float(pt.max()) <= 1
    assert np.abs(array * 255 - levels(pil)).max() <= 0.51


def test_seeds_may_be_numpys(model: TextToImage):
    expected = model(TEXTS[0], num_images=2, seed=3)
    assert close(model(TEXTS[0], num_images=2, seed=np.int64(3)), expected)
    assert close(model(TEXTS[0], seed=np.arange(3, 5)), expected)
    assert len(model.variations(TEXTS[0], num_images=2, seed=np.int64(3))) == 2


def test_weights_are_a_slerp_of_embeddings(model: TextToImage):
    seeds = [3, 4]
    a, b = (model.embed([text], seeds=seeds) for text in TEXTS[:2])
    mixed = model.embed([{TEXTS[0]: 0.7, TEXTS[1]: 0.3}], seeds=seeds)
    torch.testing.assert_close(mixed, slerp(a, b, 0.3), atol=1e-5, rtol=0)
    whole = model.embed([{TEXTS[0]: 1.0, TEXTS[1]: 0.0}, TEXTS[1]], seeds=[3, 4, 3, 4])
    torch.testing.assert_close(whole, torch.cat([a, b]), atol=1e-5, rtol=0)


def test_an_image_stands_for_its_embedding(model: TextToImage):
    image = Image.new("RGB", (40, 30), "red")
    expected = model.decode(model.embed_images([image]).expand(2, -1), seeds=[0, 1])
    assert np.abs(levels(model(image, num_images=2)) - expected.numpy()).max() <= 1
    clear = image.convert("RGBA")
    clear.putalpha(0)
    white = model.embed_images([Image.new("RGB", (40, 30), "white")])
    torch.testing.assert_close(model.embed_images([clear]), white)
    with pytest.raises(InputError, match="interpolate"):
        model([image, TEXTS[0]])


# --- negative prompts


def test_guidance_leads_away_from_a_negative_prompt(model: TextToImage):
    guided = SamplerConfig(2, guidance=3.0)
    without = model(TEXTS[0], sampling=guided, output_type="pt")
    negative = model(TEXTS[0], sampling=guided, negative_prompt="a cat", output_type="pt")
    other = model(TEXTS[0], sampling=guided, negative_prompt="a dog", output_type="pt")
    assert not torch.equal(negative, without)
    assert not torch.equal(negative, other)


def test_a_prompt_against_itself_is_not_guided(model: TextToImage):
    """z_0 + s (z_0 - z_0) is z_0, whatever s."""
    plain = model(TEXTS, sampling=SamplerConfig(2), output_type="pt")
    for number, text in enumerate(TEXTS):
        sampling = SamplerConfig(2, guidance=4.0)
        found = model(text, sampling=sampling, negative_prompt=text, output_type="pt")
        torch.testing.assert_close(found[0], plain[number], atol=1e-3, rtol=0)


def test_negative_prompts_need_guidance_and_a_prior(model: TextToImage):
    assert model(TEXTS[0], negative_prompt="a cat")
    with pytest.raises(InputError, match="guidance 1 is none"):
        model(TEXTS[0], negative_prompt="a cat", sampling=SamplerConfig(guidance=1.0))
    with pytest.raises(InputError, match="which is not used"):
        model(TEXTS[0], negative_prompt="a cat", use_prior=False)
    bare = TextToImage(model.clip, model.generator, None)
    with pytest.raises(InputError, match="this model has none"):
        bare(TEXTS[0], negative_prompt="a cat")


def test_steps_and_guidance_have_the_names_of_diffusers(model: TextToImage):
    found = model(TEXTS, num_inference_steps=3, guidance_scale=2.5, output_type="pt")
    expected = model(TEXTS, sampling=SamplerConfig(3, guidance=2.5), output_type="pt")
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
    found = model(TEXTS, num_inference_steps=3, negative_prompt="a dog", output_type="pt")
    sampling = SamplerConfig(3, guidance=2.0)
    expected = model(TEXTS, sampling=sampling, negative_prompt="a dog", output_type="pt")
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
    assert close(model(TEXTS, negative_prompt=""), model(TEXTS))


def test_a_file_is_no_sentence(model: TextToImage):
    for name in ("cat.png", "a/b.JPEG", "latents.safetensors"):
        with pytest.raises(InputError, match="looks like a file"):
            model.variations(name)


# --- a callback after each step


def test_the_callback_follows_the_prior(model: TextToImage):
    calls = []

    def watch(pipe, step, time, tensors):
        assert pipe is model
        calls.append((step, time, tensors["latents"].shape))
        return tensors

    sampling = SamplerConfig(3)
    watched = model(TEXTS[:2], sampling=sampling, callback_on_step_end=watch)
    assert [step for step, *_ in calls] == [0, 1, 2]
    assert all(shape == (2, model.clip.id.dim) for *_, shape in calls)
    times = [time for _, time, _ in calls]
    assert times == sorted(times, reverse=True)
    assert close(watched, model(TEXTS[:2], sampling=sampling))


def test_the_callback_may_continue_with_another_embedding(model: TextToImage):
    wanted = model.embed_images([Image.new("RGB", (32, 32), "red")])

    def replace(_pipe, step, _time, _tensors):
        return {"latents": wanted} if step == 1 else None

    found = model(TEXTS[0], sampling=SamplerConfig(2), callback_on_step_end=replace)
    expected = model.decode(wanted, seeds=[0])
    assert np.abs(levels(found) - expected.numpy()).max() <= 1


# --- .to


def test_to_changes_the_dtype_in_place(model: TextToImage):
    moved = copy.deepcopy(model)
    assert moved.to("cpu", torch.bfloat16) is moved
    assert moved.generator.network.compute_dtype == torch.bfloat16
    assert moved.prior is not None
    assert moved.prior.prior.compute_dtype == torch.bfloat16
    rough = levels(moved(TEXTS))
    assert not np.array_equal(rough, levels(model(TEXTS)))
    assert moved.to(torch.float32).to("cpu") is moved
    assert np.array_equal(levels(moved(TEXTS)), levels(model(TEXTS)))
    assert moved.to(dtype="bfloat16").generator.network.compute_dtype == torch.bfloat16


def test_to_refuses_what_is_not_there(model: TextToImage):
    with pytest.raises(InputError, match="not available here"):
        model.to("cuda:99")
    with pytest.raises(InputError, match="one of auto, float32"):
        model.to(torch.int32)
    with pytest.raises(InputError, match="float99 is not one of auto, float32"):
        model.to("cpu", "float99")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "options",
    [
        {"seed": []},
        {"seed": [1.5]},
        {"seed": [1, 2], "num_images": 3},
        {"seed": 1.5},
        {"seed": "1"},
        {"seed": 1, "generator": torch.Generator()},
        {"num_inference_steps": 0},
        {"guidance_scale": float("inf")},
        {"guidance_scale": 2.0, "sampling": SamplerConfig(2)},
        {"guidance_scale": 1.0, "negative_prompt": "a dog"},
        {"callback_on_step_end": lambda *_: {"latents": torch.zeros(1, 2)}},
        {"generator": [torch.Generator()] * 2},
        {"output_type": "jpeg"},
        {"truncation": float("nan")},
        {"batch": 0},
    ],
)
def test_bad_options_are_refused(model: TextToImage, options: dict):
    with pytest.raises(InputError):
        model(TEXTS[0], **options)


@pytest.mark.parametrize("prompt", [[], [3], "", [""], {"a": -1.0}])
def test_bad_prompts_are_refused(model: TextToImage, prompt):
    with pytest.raises(InputError):
        model(prompt)


def test_without_a_prior_no_callback_is_needed(gan_run: Path, model: TextToImage):
    bare = TextToImage(model.clip, load_generator(gan_run / "generator", device=model.device), None)
    assert len(bare(TEXTS, num_images=2)) == 6
