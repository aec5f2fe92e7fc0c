"""What a user gets of `train-gan` and `generate`, from one end to the other: truncation, precision,
and what is computed once.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.io.files import read_json_lines
from lafite_shifted.model_folder import load_generator, load_prior
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.network import PriorNetwork
from lafite_shifted.prior.samplers import SamplerConfig
from tests.commands import succeed
from torch_utils.device import pick_dtype
from training.data.embeddings.embedding_set import EmbeddingSet
from training.prior.eval_set import EvalSet
from training.prior.evaluate import load_priors, report

CPU = torch.device("cpu")
TEXT = "a red apple"


def images_of(model: Path, out: Path, *flags: str) -> list[np.ndarray]:
    """The images that `generate` writes for TEXT, [R, R, 3] each."""
    succeed("generate", TEXT, "--model", model, "--out", out, *flags)
    files = sorted(path for path in out.glob("*.png") if path.name != "grid.png")
    return [np.asarray(Image.open(file)).astype(int) for file in files]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB between images of levels 0 to 255."""
    return float(10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-9)))


# --- truncation


@pytest.mark.parametrize("kind", ["generator", "best/generator"])
def test_a_trained_generator_has_its_mean_w(gan_run: Path, kind: str):
    """Entry by entry: a mean over its entries too would be one number."""
    mapping = load_generator(gan_run / kind, device=CPU).network.mapping
    w = mapping(torch.randn(4096, 8, generator=torch.Generator().manual_seed(0)))
    average = mapping.w_average
    assert float(average.std()) > 0.1 * float(average.abs().mean())
    cosine = torch.nn.functional.cosine_similarity(average - average.mean(), w.mean(0), dim=0)
    assert float(cosine) > 0.5
    if kind == "generator":  # of four steps a share of 1 - .995^4 is of batches, the rest of zeros
        share = float(average.norm() / w.mean(0).norm())
        assert share == pytest.approx(1 - 0.995**4, rel=0.5)


def test_no_truncation_left_is_the_image_of_mean_w(model_folder: Path, tmp_path: Path):
    flags = ("--truncation", "0", "--num-images", "3", "--dtype", "float32", "--no-prior")
    images = images_of(model_folder, tmp_path / "out", *flags)
    assert all(np.abs(image - images[0]).max() <= 1 for image in images)
    loaded = load_generator(model_folder / "generator", device=CPU, dtype="float32")
    text = ClipEncoder.load("starter").embed_texts([TEXT]).embedding
    with torch.no_grad():
        condition = loaded.gaussian.standardise(text)
        w = loaded.network.mapping.w_average[None]
        made = loaded.network.synthesise(w, condition)[0].permute(1, 2, 0)
    expected = (made * 127.5 + 127.5).round().clamp(0, 255).numpy()
    assert np.abs(images[0] - expected).max() <= 1


# --- precision


def test_images_of_bfloat16_are_those_of_float32(model_folder: Path, tmp_path: Path):
    flags = ("--num-images", "4", "--dtype")
    exact = images_of(model_folder, tmp_path / "a", *flags, "float32")
    for dtype in ("bfloat16", "float16"):
        found = images_of(model_folder, tmp_path / dtype, *flags, dtype)
        assert not all(np.array_equal(a, b) for a, b in zip(found, exact, strict=True))
        assert min(psnr(a, b) for a, b in zip(found, exact, strict=True)) >= 35


def test_models_compute_as_training_does(model_folder: Path, gan_run: Path, prior_run: Path):
    usual = pick_dtype("auto", CPU)
    model = TextToImage.from_pretrained(model_folder)
    assert model.generator.network.compute_dtype == usual
    assert model.prior is not None
    assert model.prior.prior.compute_dtype == usual
    assert load_generator(gan_run / "generator", device=CPU).network.compute_dtype == usual
    assert load_prior(prior_run / "prior", device=CPU).prior.compute_dtype == usual


@pytest.mark.parametrize("verb", ["generate", "prior"])
def test_benchmarks_compute_as_users_do(verb: str, model_folder: Path):
    import json

    usual = str(pick_dtype("auto", CPU)).removeprefix("torch.")
    what = ("bench", verb, "--rounds", "1", "--json")
    for flags, expected in (((), usual), (("--dtype", "float16"), "float16")):
        found = json.loads(succeed(*what, "--model", model_folder, *flags).out)["results"]
        rows = found if isinstance(found, list) else [found]
        assert {row["dtype"] for row in rows} == {expected}
    if verb == "prior":
        found = json.loads(succeed(*what, "--preset", "tiny").out)["results"]
        assert found["dtype"] == usual


# --- a text is encoded once


class Calls:
    """Texts that the text tower and the network of the prior have encoded."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.tower, self.prior = 0, 0
        embed, encode = ClipEncoder.embed_texts, PriorNetwork.encode_text

        def embed_texts(clip, texts):
            self.tower += len(texts)
            return embed(clip, texts)

        def counted(network, text, has_text, cluster):
            self.prior += len(text)
            return encode(network, text, has_text, cluster)

        patch.setattr(ClipEncoder, "embed_texts", embed_texts)
        patch.setattr(PriorNetwork, "encode_text", counted)


@pytest.mark.parametrize(
    ("flags", "caches"),
    [((), 1), (("--guidance", "2"), 2), (("--best-of", "3"), 1), (("--no-prior",), 0)],
)
def test_a_text_is_encoded_once_for_all_its_images(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    caches: int,
):
    flags = (*flags, "--dtype", "float32")
    calls = Calls(monkeypatch)
    together = images_of(
        model_folder, tmp_path / "all", "--num-images", "5", "--batch-size", "2", *flags
    )
    assert (calls.tower, calls.prior) == (1, caches)
    for seed, image in enumerate(together):
        seeded = ("--num-images", "1", "--seed", str(seed))
        (alone,) = images_of(model_folder, tmp_path / str(seed), *seeded, *flags)
        assert np.abs(image - alone).max() <= 1


def test_a_report_encodes_a_text_once_for_both_samples(
    prior_run: Path, some_embeddings: Path, monkeypatch: pytest.MonkeyPatch
):
    data = EmbeddingSet(some_embeddings)
    true = data.image[data.caption_image[:20]]
    eval_set = EvalSet(data, torch.arange(20), true, torch.arange(20, 48), 0)
    priors = load_priors([prior_run], data, CPU)
    calls = Calls(monkeypatch)
    report(priors, eval_set, [SamplerConfig(2)], bootstrap=0)
    assert calls.prior == 20


def test_training_a_prior_encodes_held_out_texts_once_for_both_samples(
    some_embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from training.prior.presets import PRIOR_PRESETS
    from training.prior.run import open_prior_run, prior_config

    small = ["prior.width=32", "prior.depth=1", "prior.heads=2", "batch=8"]
    config = prior_config(PRIOR_PRESETS["tiny"], assignments=small)
    data = EmbeddingSet(some_embeddings)
    trainer, _ = open_prior_run(config, data, tmp_path / "run", device=CPU)
    trainer.held_out = torch.arange(12)
    calls = Calls(monkeypatch)
    trainer.evaluate(0, tmp_path / "run")
    assert calls.prior == 12


# --- what is made beside the images that a user trains on


def test_sheets_strips_and_plots_in_a_set_are_not_trained_on(
    model_folder: Path, some_embeddings: Path, some_images: Path, tmp_path: Path
):
    photos = tmp_path / "photos"
    photos.mkdir()
    image = next(some_images.glob("*.png"))
    shutil.copy(image, photos)
    to = ("--model", model_folder, "--out")
    succeed(
        "generate", TEXT, *to, photos / "a", "--num-images", "2", "--as", "grid", "--as", "sheet"
    )
    succeed("variations", image, *to, photos / "b", "--num-images", "2")
    succeed("stats", some_embeddings, "--plot", photos / "cone.png")
    outcome = succeed("embed", photos, "--out", tmp_path / "out")
    assert "3 images embedded" in outcome.err  # the photograph, and its two variations
    reasons = {
        row["file_name"]: row["reason"]
        for row in read_json_lines(tmp_path / "out" / "report.jsonl")
    }
    for name in ("a/grid.png", "a/sheet_0001.png", "b/strip.png", "cone.png"):
        assert reasons[name].startswith("a grid of lafite-shifted")
