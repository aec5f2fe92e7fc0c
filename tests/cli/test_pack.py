"""What `pack` stores beside the parts as they are: float16, the discriminator, the CLIP's place."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import load_tensors, read_json, save_tensors
from lafite_shifted.io.starter import starter_clip
from lafite_shifted.model_folder import load_generator, load_prior, model_hash, save_generator
from tests.commands import TINY_GAN, assert_refused, half_written, run_command, succeed
from training.checkpoint import checkpoint_paths

CPU = torch.device("cpu")


def weights(model: Path, part: str) -> dict[str, Tensor]:
    """As they are stored."""
    return load_tensors(model / part / "weights.safetensors")[0]


@pytest.fixture
def half(gan_run: Path, prior_run: Path, tmp_path: Path) -> Path:
    """`model_folder` in float16, with its discriminator."""
    out, flags = tmp_path / "half", ("--half", "--with-discriminator")
    outcome = succeed("pack", "--gan", gan_run, "--prior", prior_run, "--out", out, *flags)
    assert "generator and prior, with its discriminator, in " in outcome.out
    assert half_written(out) == []
    return out


# --- float16


@pytest.mark.parametrize("part", ["generator", "prior"])
def test_matrices_are_float16_and_all_else_is_as_it_was(half: Path, model_folder: Path, part: str):
    found, exact = weights(half, part), weights(model_folder, part)
    assert found.keys() == exact.keys()
    for name, tensor in found.items():
        if tensor.ndim < 2:
            assert tensor.equal(exact[name]), name
        else:
            assert tensor.dtype == torch.float16
            # half a unit in the last of 11 bits, or of a subnormal number
            torch.testing.assert_close(tensor.float(), exact[name], rtol=2**-11, atol=2**-25)
    assert (half / part / "config.json").read_bytes() == (
        model_folder / part / "config.json"
    ).read_bytes()
    # the entries of a safetensors header come in any order
    (stats, told), (others, also) = (
        load_tensors(m / part / "stats.safetensors") for m in (half, model_folder)
    )
    assert told == also
    assert stats.keys() == others.keys()
    assert all(tensor.equal(others[name]) for name, tensor in stats.items())
    sizes = [(m / part / "weights.safetensors").stat().st_size for m in (half, model_folder)]
    assert sizes[0] < 0.75 * sizes[1]


def test_the_mean_of_w_stays_exact(half: Path, model_folder: Path):
    (name,) = [name for name in weights(half, "generator") if name.endswith("w_average")]
    found = load_generator(half / "generator", device=CPU).network.mapping.w_average
    assert found.equal(weights(model_folder, "generator")[name])
    assert found.dtype == torch.float32


def test_it_computes_in_float32_and_makes_the_same_images(
    half: Path, model_folder: Path, tmp_path: Path
):
    network = load_generator(half / "generator", device=CPU, dtype="float32").network
    prior = load_prior(half / "prior", device=CPU, dtype="float32").prior
    for module in (network, prior.network):
        assert {p.dtype for p in module.parameters()} == {torch.float32}
    for model in (half, model_folder):
        flags = ("--model", model, "--num-images", "4", "--dtype", "float32")
        succeed("generate", "a cat", "--out", tmp_path / model.name, *flags)
    names = [p.name for p in (tmp_path / "half").glob("a-cat-*.png")]
    assert len(names) == 4
    for name in names:
        a, b = (
            np.asarray(Image.open(tmp_path / m.name / name), float) for m in (half, model_folder)
        )
        assert np.abs(a - b).max() <= 2
        assert a.std() > 1


def test_the_hash_is_of_values_not_of_how_they_are_stored(
    half: Path, model_folder: Path, tmp_path: Path
):
    assert model_hash(half) != model_hash(model_folder)
    loaded = load_generator(half / "generator", device=CPU)
    stats = EmbeddingStats.load(half / "generator" / "stats.safetensors")
    again = tmp_path / "again"
    save_generator(again / "generator", loaded.network.generator, stats, training={})
    shutil.copytree(half / "prior", again / "prior")
    assert weights(again, "generator")["constant"].dtype == torch.float32
    assert model_hash(again) == model_hash(half)
    succeed("pack", "--gan", half, "--prior", half, "--out", tmp_path / "twice", "--half")
    assert model_hash(tmp_path / "twice") == model_hash(half)  # without a discriminator


def test_numbers_that_float16_cannot_hold_are_refused(gan_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(gan_run, tmp_path / "run"))
    path = run / "generator" / "weights.safetensors"
    tensors, metadata = load_tensors(path)
    tensors["constant"] = tensors["constant"].flatten(1)[None] * 0 + 1e5
    save_tensors(path, tensors, metadata)
    refused = run_command("pack", "--gan", run, "--out", tmp_path / "out", "--half")
    assert_refused(refused, str(path), "'constant'", "Leave --half out")
    assert not (tmp_path / "out").exists()


# --- the discriminator


def test_the_discriminator_is_that_of_the_newest_checkpoint(half: Path, gan_run: Path):
    state, _ = load_tensors(checkpoint_paths(gan_run)[-1] / "state.safetensors")
    found = weights(half, "discriminator")
    assert set(found) == {name for name in state if name.startswith(("discriminator.", "heads."))}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.float(), state[name], rtol=2**-11, atol=2**-25)
    record = read_json(half / "discriminator" / "config.json")
    assert record["config"] == read_json(gan_run / "config.json")["config"]["discriminator"]


def test_a_model_packed_with_it_starts_as_its_run_does(
    gan_run: Path, some_images: Path, tmp_path: Path
):
    """Bit for bit where weights are stored as they are; once more from a model packed anew."""
    model, again = tmp_path / "model", tmp_path / "again"
    succeed("pack", "--gan", gan_run, "--out", model, "--with-discriminator")
    succeed("pack", "--gan", model, "--out", again, "--with-discriminator")
    states = []
    for number, init in enumerate((gan_run, model, again)):
        out = tmp_path / f"run{number}"
        shutil.copytree(gan_run / "embeddings", out / "embeddings")
        outcome = succeed("train-gan", some_images, "--out", out, *TINY_GAN, "--init", init)
        assert f"discriminator from {init}: " in outcome.err
        states.append(load_tensors(checkpoint_paths(out)[-1] / "state.safetensors")[0])
    for state in states[1:]:
        assert [name for name in state if not state[name].equal(states[0][name])] == []


def test_no_discriminator_to_pack_is_said(model_folder: Path, tmp_path: Path):
    command = ("pack", "--gan", model_folder, "--out", tmp_path / "out", "--with-discriminator")
    assert_refused(run_command(*command), str(model_folder), "no discriminator", "run folder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 99}, "has format 99"),
        ({"kind": "prior"}, "holds 'prior', not 'discriminator'"),
        ({"config": None}, "holds no discriminator. Pack the model again"),
        ({"config": {"resolution": "wide"}}, "discriminator.resolution"),
    ],
)
def test_a_damaged_discriminator_is_refused(
    change: dict, expected: str, half: Path, some_images: Path, tmp_path: Path
):
    path = half / "discriminator" / "config.json"
    path.write_text(json.dumps(read_json(path) | change), encoding="utf-8")
    command = ("train-gan", some_images, "--out", tmp_path / "run", "--init", half)
    assert_refused(run_command(*command), expected)
    assert not (tmp_path / "run").exists()


# --- where the CLIP lies


def test_a_clip_that_has_moved_is_recorded_in_every_part(
    gan_run: Path, prior_run: Path, small_clip_folder: Path, tmp_path: Path
):
    moved = Path(shutil.copytree(starter_clip(), tmp_path / "moved"))
    command = ("pack", "--gan", gan_run, "--prior", prior_run, "--clip")
    succeed(*command, moved, "--out", tmp_path / "model")
    for part in ("generator", "prior"):
        record = read_json(tmp_path / "model" / part / "config.json")
        assert record["encoder"][0]["model"] == str(moved)
        stats = EmbeddingStats.load(tmp_path / "model" / part / "stats.safetensors")
        assert stats.encoder_id is not None
        assert stats.encoder_id.model == str(moved)
    assert str(moved) in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    succeed("generate", "a cat", "--model", tmp_path / "model", "--out", tmp_path / "out")
    refused = run_command(*command, small_clip_folder, "--out", tmp_path / "other")
    assert_refused(refused, "cannot be mixed", "Give the CLIP that the generator was trained with")
    assert not (tmp_path / "other").exists()
