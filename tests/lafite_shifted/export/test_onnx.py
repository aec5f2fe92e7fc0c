"""ONNX graphs in onnxruntime against the pipeline in PyTorch: the same images to 1e-4."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lafite_shifted.decoder.generator import Generator
from lafite_shifted.decoder.inference import freeze_for_inference
from lafite_shifted.export import onnx_folder
from lafite_shifted.export.onnx_model import content_of, to_onnx
from lafite_shifted.export.parts import GeneratorPart, Part, parts_of
from lafite_shifted.export.runner import Model, philox, png
from lafite_shifted.export.storage import store
from lafite_shifted.generation import Generation
from lafite_shifted.model_folder import load_generator
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.samplers import SamplerConfig
from tests.commands import assert_refused, half_written, run_command, succeed
from torch_utils import seeds
from training.gan.presets import GAN_PRESETS

CLOSE = 1e-4  # of images about [-1, 1]
SEEDS = (3, 4, 2**40)


def runner(folder: Path) -> Model:
    return Model(lambda name: (folder / name).read_bytes(), threads=1)


def random_generator(preset: str, gan_run: Path):
    """A generator of a preset with random weights, noise and mean of w, conditioned as one that was
    trained.
    """
    trained = load_generator(gan_run / "generator", device=torch.device("cpu"))
    changes = {"condition_dim": trained.stats.dim, "conditional_start": True}
    config = dataclasses.replace(GAN_PRESETS[preset].generator, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Generator(config)
        for layer in network.layers:
            torch.nn.init.normal_(layer.noise_strength)  # type: ignore[arg-type]
            torch.nn.init.normal_(layer.bias)  # type: ignore[arg-type]
        network.mapping.w_average.normal_()
        torch.nn.init.normal_(network.start.weight)  # type: ignore[union-attr]
    return dataclasses.replace(trained, network=freeze_for_inference(network))


@pytest.mark.parametrize(
    "preset", ["tiny", "small", pytest.param("256", marks=pytest.mark.slow)]
)  # the larger ones are the same layers, more of them
def test_generator_of_a_preset_matches_pytorch(preset: str, gan_run: Path):
    generator = random_generator(preset, gan_run)
    dim, z_dim = generator.stats.dim, generator.network.config.z_dim
    inputs = {
        "image_embedding": F.normalize(torch.randn(2, dim), dim=1),
        "z": torch.randn(2, z_dim),
        "truncation": torch.tensor([1.0, 0.6]),
    }
    part = Part(GeneratorPart(generator), inputs, ("image",))
    content = content_of("generator", to_onnx("generator", part))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for count in (1, 2) if preset == "256" else (1, 2, 5):
            embedding = F.normalize(torch.randn(count, dim), dim=1)
            w = generator.w(range(count), truncation=0.7)
            expected = generator.render(embedding, w)
            z = seeds.normal_per_sample((z_dim,), key=("z",), indices=range(count))
            given = {"image_embedding": embedding, "z": z, "truncation": torch.full((count,), 0.7)}
            (made,) = session.run(None, {name: value.numpy() for name, value in given.items()})
            assert expected.std() > 0.1
            largest = max(1.0, float(expected.abs().max()))  # 1 where the weights are trained
            np.testing.assert_allclose(made, expected.numpy(), rtol=0, atol=CLOSE * largest)


@pytest.mark.parametrize(
    ("text", "guidance", "negative", "truncation"),
    [
        ("a red heart", 1.0, None, 1.0),
        ("A smiling cat\u2019s hat", 3.0, None, 0.5),
        ("a cat", 2.0, "a red dog with a long name", 1.0),
    ],
)
def test_whole_chain_matches_the_pipeline(
    exported: Path,
    model: TextToImage,
    text: str,
    guidance: float,
    negative: str | None,
    truncation: float,
):
    """For one image, and for several at once."""
    sampling = SamplerConfig(guidance=guidance)
    found = runner(exported)
    for numbers in (SEEDS[:1], SEEDS):
        generation = Generation(True, sampling, truncation, negative)
        embedding = model.sampler([text], generation)(numbers)
        made = found.embed(text, numbers, guidance=guidance, negative=negative)
        np.testing.assert_allclose(made, embedding.numpy(), rtol=0, atol=CLOSE)
        expected = model.render(embedding, seeds=numbers, truncation=truncation)
        images = found.render(made, numbers, truncation=truncation)
        np.testing.assert_allclose(images, expected.numpy(), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("objective", ["mse", "energy"])
def test_every_noise_of_a_sampler_is_an_input(
    model: TextToImage, objective: str, monkeypatch: pytest.MonkeyPatch
):
    """Ancestral sampling takes a noise a step, the energy objective one more."""
    assert model.prior is not None
    prior = model.prior.prior
    config = dataclasses.replace(prior.config, objective=objective)
    monkeypatch.setattr(prior, "config", config)
    sampling = SamplerConfig(3, "ancestral")
    if objective == "energy":
        layer = torch.nn.Linear(config.embed_dim, config.width, bias=False).requires_grad_(False)
        monkeypatch.setattr(prior.network, "from_sample_noise", layer)
    part = parts_of(model, sampling)["prior"]
    keys = part.record["noise"]
    assert len(keys) == {"mse": 3, "energy": 6}[objective]
    features = model.clip.embed_texts(["a red heart", "a cat"])
    text = (features.embedding, features.tokens, features.lengths)
    shape = (config.embed_dim,)
    noise = [seeds.normal_per_sample(shape, key=key, indices=[7, 9]) for key in keys]
    none = tuple(value * 0 for value in text)
    with torch.no_grad():
        made = part.module(*text, *none, torch.stack(noise, dim=1), torch.ones(2))
    expected = model.embed(["a red heart", "a cat"], seeds=[7, 9], sampling=sampling)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


def test_numpy_philox_matches_the_operator():
    for key in (seeds.seed_of("z"), 2**63 - 1, 0):
        indices = [0, 1, 7, 2**32, 2**40 + 5, -1]
        expected = seeds.philox(torch.tensor(indices), 41, key=key, distribution="normal")
        found = philox(indices, 41, key=key)
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-6)


def test_manifest_tells_the_files(exported: Path, model: TextToImage):
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["kind"], manifest["model"]) == ("onnx-export", model.hash)
    assert manifest["opset"] == 18
    assert manifest["psnr_db"] > 80
    for name, part in manifest["parts"].items():
        content = (exported / part["file"]).read_bytes()
        assert part["sha256"] == hashlib.sha256(content).hexdigest()
        graph = onnx.load_from_string(content)
        onnx.checker.check_model(graph)
        assert [row.version for row in graph.opset_import if row.domain == ""] == [18]
        assert {row.domain for row in graph.opset_import} <= {""}, "no operators of others"
        assert [i.name for i in graph.graph.input] == [row["name"] for row in part["inputs"]]
        assert [o.name for o in graph.graph.output] == part["outputs"], name
        for row in graph.graph.input:
            assert row.type.tensor_type.shape.dim[0].dim_param, "the batch has no fixed size"
    assert half_written(exported) == []


def test_runner_needs_no_pytorch(exported: Path, model_folder: Path, tmp_path: Path):
    """generate.py as a program of its own, where torch and lafite_shifted cannot be imported."""
    forbid = "import sys, runpy; sys.modules['torch'] = sys.modules['lafite_shifted'] = None; "
    words = ["a red heart", "a cat", "--seed", "5", "--num-images", "2", "--out", "made"]
    program = f"{forbid} sys.argv[:] = {['generate.py', *words]!r}; "
    program += f"runpy.run_path({str(exported / 'generate.py')!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    flags = ("--dtype", "float32", "--device", "cpu", "--out", tmp_path / "own")
    succeed("generate", *words[:-2], "--model", model_folder, *flags)
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == [f"{name}-000{n}.png" for name in ("a-cat", "a-red-heart") for n in (5, 6)]
    for name in names:
        with (
            Image.open(tmp_path / "made" / name) as made,
            Image.open(tmp_path / "own" / name) as own,
        ):
            assert made.mode == "RGB"
            difference = np.asarray(made).astype(int) - np.asarray(own.convert("RGB"))
        assert np.abs(difference).max() <= 1


def test_png_is_what_was_given(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(png(pixels, {}))
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(("storage", "share"), [("float16", 0.56), ("int8", 0.34)])
def test_stored_weights_are_small_and_images_stay(
    exported: Path, model: TextToImage, tmp_path: Path, storage, share: float
):
    """Of the text tower, which is mostly weights here."""
    folder = Path(shutil.copytree(exported, tmp_path / storage))
    for name in ("text", "prior", "generator"):
        path = folder / f"{name}.onnx"
        path.write_bytes(content_of(name, store(onnx.load(path), storage)))
    size = (folder / "text.onnx").stat().st_size / (exported / "text.onnx").stat().st_size
    assert size < share
    embedding = model.embed(["a red heart"], seeds=SEEDS)
    expected = model.render(embedding, seeds=SEEDS).numpy()
    found = runner(folder)
    made = found.render(found.embed("a red heart", SEEDS), SEEDS)
    for image, wanted in zip(made, expected, strict=True):
        psnr = onnx_folder.image_psnr(image, wanted)
        assert (50 if storage == "float16" else 30) < psnr < 120


def test_int8_is_refused_where_images_suffer(
    model_folder: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No part reaches 300 dB with int8: each is said, and stays float16. The graphs are those of
    another export of the same model: making them takes most of its time.
    """
    monkeypatch.setattr(onnx_folder, "LEAST_PSNR", 300.0)
    monkeypatch.setattr(
        onnx_folder, "to_onnx", lambda name, _part: onnx.load(exported / f"{name}.onnx")
    )
    said = succeed("export", "onnx", model_folder, "--dtype", "int8", "--out", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    for name, part in manifest["parts"].items():
        assert part["stored"] == "float16"
        assert f"{name} stays float16: with int8 an image falls to" in said.err
    found = runner(tmp_path / "out")
    assert found.images("a red heart", SEEDS).shape == (3, 16, 16, 3)


def test_refusals(model_folder: Path, exported: Path, tmp_path: Path, small_clip_folder: Path):
    there = run_command("export", "onnx", model_folder, "--out", exported)
    assert_refused(there, "exists already")
    gone = run_command("export", "onnx", tmp_path / "no", "--out", tmp_path / "out")
    assert_refused(gone, "is no folder")
    steps = run_command(
        "export", "onnx", model_folder, "--steps", "2000", "--out", tmp_path / "out"
    )
    assert_refused(steps, "this prior allows")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["onnx", "web"])
def test_missing_packages_are_told_before_the_model_is_loaded(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused = run_command("export", verb, tmp_path / "no-model", "--out", tmp_path / "out")
    assert_refused(refused, "not installed", "lafite-shifted[export]")


def test_bench_measures_what_was_exported(exported: Path, tmp_path: Path):
    (row,) = json.loads(succeed("bench", "export", exported, "--json", "--rounds", "2").out)[
        "results"
    ].values()
    parts = ("text", "prior", "generator")
    assert row["stored"] == dict.fromkeys(parts, "float32")
    sizes = {name: (exported / f"{name}.onnx").stat().st_size / 1e6 for name in parts}
    assert row["megabytes"] == pytest.approx(sizes)
    assert row["all_megabytes"] > sum(sizes.values())
    assert row["milliseconds"].keys() == set(parts)
    assert row["milliseconds"]["generator"] > 0
    again = shutil.copytree(exported, tmp_path / "again")
    table = succeed("bench", "export", exported, again, "--rounds", "1").out
    assert table.count("| float32 / float32 / float32 |") == 2
    (again / "text.onnx").write_bytes(b"")
    assert_refused(run_command("bench", "export", again), "again: text.onnx is damaged")
    assert_refused(run_command("bench", "export", tmp_path), "no folder of `export onnx`")
