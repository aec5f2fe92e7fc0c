"""What a user gets of the model that ships, by its name: a tiny model stands in for it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted import TextToImage
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.io.files import load_tensors, read_json
from lafite_shifted.io.starter import starter_clip
from lafite_shifted.model_folder import model_hash
from tests.commands import TINY_GAN, TINY_PRIOR, Outcome, assert_refused, run_command, succeed
from training.checkpoint import checkpoint_paths

BRIEF = ("--kimg", "0.016", "--batch-size", "8")


def generated(out: Path, *flags: str | Path) -> dict[str, np.ndarray]:
    """The images that `generate` writes for a sentence, by name."""
    succeed("generate", "a cat", "--out", out, "--num-images", "2", *flags)
    return {p.name: np.asarray(Image.open(p)) for p in out.glob("*.png") if p.name != "grid.png"}


# --- in the place of a model


def test_generate_takes_it_where_no_model_is_named(starter: Path, tmp_path: Path):
    expected = generated(tmp_path / "a", "--model", starter)
    for number, flags in enumerate(((), ("--model", "starter"))):
        found = generated(tmp_path / f"b{number}", *flags)
        assert len(found) == 2
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with Image.open(tmp_path / "b0" / "grid.png") as grid:
        assert grid.text["model"] == model_hash(starter)


def test_python_takes_it_by_name(starter: Path):
    by_name = TextToImage.from_pretrained("starter")
    assert by_name.hash == TextToImage.from_pretrained(starter).hash == model_hash(starter)
    assert by_name.prior is not None
    assert [image.size for image in by_name("a cat", num_images=2)] == [(16, 16)] * 2


@pytest.mark.usefixtures("starter")
def test_a_folder_of_that_name_is_given_with_its_place(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(model_folder, tmp_path / "starter")
    monkeypatch.chdir(tmp_path)
    assert TextToImage.from_pretrained("./starter").hash == model_hash(model_folder)
    shipped, own = generated(tmp_path / "a"), generated(tmp_path / "b", "--model", "./starter")
    assert not all(np.array_equal(shipped[name], own[name]) for name in own)
    succeed("pack", "--gan", "./starter", "--out", "again")
    generator = load_tensors(tmp_path / "again" / "generator" / "weights.safetensors")[0]
    assert {tensor.dtype for tensor in generator.values()} == {torch.float32}


@pytest.mark.usefixtures("starter")
def test_it_is_evaluated_and_timed(
    some_images: Path, some_embeddings: Path, small_clip_folder: Path, tmp_path: Path
):
    judge = ("--judge", "none", "--judge-clip", small_clip_folder)
    ready = ("--embeddings", some_embeddings, *judge, "--json")
    report = succeed("evaluate", "gan", "starter", some_images, "--out", tmp_path / "g", *ready)
    assert json.loads(report.out)["model"] == "starter"
    chain = ("evaluate", "model", "starter", some_images, "--out", tmp_path / "m", *ready)
    rows = json.loads(succeed(*chain, "--steps", "1", "--per-prompt", "2").out)
    assert rows["model"] == "starter"
    for verb in ("generate", "prior"):
        timed = succeed("bench", verb, "--model", "starter", "--rounds", "1", "--json")
        assert json.loads(timed.out)["results"]


# --- as the start of a training


@pytest.fixture
def adapted(starter: Path, some_images: Path, tmp_path: Path) -> tuple[Outcome, Path]:
    """What `train-gan --init starter` said, and its run."""
    out = tmp_path / "adapted"
    return succeed("train-gan", some_images, "--out", out, "--init", "starter", *BRIEF), out


def test_a_training_keeps_all_of_it(adapted: tuple[Outcome, Path], starter: Path):
    """Sizes, CLIP and heads on features without a flag that says so."""
    outcome, run = adapted
    for part in ("generator", "discriminator", "heads"):
        (line,) = [x for x in outcome.err.splitlines() if x.startswith(f"{part} from starter: ")]
        kept, _, count, *rest = line.removeprefix(f"{part} from starter: ").split()
        assert (kept, rest) == (count, ["tensors"]), line
    record, model = read_json(run / "config.json"), read_json(starter / "generator/config.json")
    assert record["init"]["path"] == "starter"
    assert record["config"]["generator"] == model["config"]
    assert record["config"]["generator"]["mapping_layers"] == 3
    assert record["config"]["features"]["backbone"] == "clip"
    assert record["encoder"] == ClipEncoder.load("starter").id.to_json()
    assert record["config"]["batch"] == 8


def test_its_first_step_begins_with_its_weights(
    starter: Path, starter_run: Path, some_images: Path, clip: ClipEncoder, tmp_path: Path
):
    """Those of the run's newest checkpoint, to the precision of float16."""
    from training.gan.presets import GAN_PRESETS
    from training.gan.run import gan_config, open_gan_run
    from training.gan.transfer import with_networks_of

    out = tmp_path / "run"
    base = with_networks_of(starter, out, GAN_PRESETS["small"])
    config = gan_config(base, kimg=0.016, batch=8)
    trainer, run, _ = open_gan_run(
        config, some_images, out, clip, device=torch.device("cpu"), init=starter
    )
    run.close()
    assert trainer.features is not None
    state, _ = load_tensors(checkpoint_paths(starter_run)[-1] / "state.safetensors")
    networks = {
        "ema": trainer.generator,
        "discriminator": trainer.discriminator,
        "heads": trainer.features.heads,
    }
    for name, network in networks.items():
        found = network.state_dict()
        assert {f"{name}.{key}" for key in found} == {k for k in state if k.startswith(f"{name}.")}
        for key, tensor in found.items():
            expected = state[f"{name}.{key}"]
            torch.testing.assert_close(tensor, expected, rtol=2**-10, atol=1e-7)
    assert not all(
        torch.equal(tensor, state[f"ema.{key}"])
        for key, tensor in trainer.generator.state_dict().items()
    )


def test_an_adapted_model_keeps_its_prior(
    adapted: tuple[Outcome, Path], starter: Path, tmp_path: Path
):
    _, run = adapted
    model = tmp_path / "model"
    succeed("pack", "--gan", run, "--prior", "starter", "--out", model)
    prior = load_tensors(starter / "prior" / "weights.safetensors")[0]
    kept = load_tensors(model / "prior" / "weights.safetensors")[0]
    assert all(kept[name].equal(prior[name]) for name in prior)
    assert len(generated(tmp_path / "out", "--model", model)) == 2
    assert model_hash(model) != model_hash(starter)


def test_the_same_command_resumes_and_another_size_is_refused(
    adapted: tuple[Outcome, Path], some_images: Path
):
    _, run = adapted
    log = (run / "log.jsonl").read_bytes()
    command = ("train-gan", some_images, "--out", run, "--init", "starter")
    succeed(*command, *BRIEF)
    assert (run / "log.jsonl").read_bytes() == log
    succeed(*command, "--kimg", "0.024", "--batch-size", "8")
    assert (run / "log.jsonl").read_bytes().startswith(log)
    refused = run_command(*command, *BRIEF, "--preset", "tiny")
    assert_refused(refused, "another configuration", "config.generator.mapping_layers: 3 -> 2")


@pytest.mark.usefixtures("starter")
def test_a_preset_that_is_named_counts(some_images: Path, tmp_path: Path):
    command = ("train-gan", some_images, "--out", tmp_path / "run", "--init", "starter")
    assert_refused(run_command(*command, "--preset", "tiny", *BRIEF), "makes images of 16 pixels")
    outcome = succeed(*command, *TINY_GAN, "--kimg", "0.008")
    assert "new: mapping.layers" not in outcome.err
    assert "heads" not in outcome.err
    record = read_json(tmp_path / "run" / "config.json")["config"]
    assert (record["generator"]["mapping_layers"], record["features"]["backbone"]) == (2, None)


def test_a_prior_begins_with_its_prior(starter: Path, some_embeddings: Path, tmp_path: Path):
    out = tmp_path / "run"
    succeed("train-prior", some_embeddings, "--out", out, "--init", "starter", *TINY_PRIOR)
    assert read_json(out / "config.json")["init"]["path"] == "starter"


# --- where the weights are missing


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "a cat", "--out", "out"),
        ("evaluate", "gan", "starter", "images", "--out", "out"),
        ("evaluate", "model", "starter", "images", "--out", "out"),
        ("bench", "generate", "--model", "starter"),
        ("train-gan", "images", "--init", "starter", "--out", "out"),
        ("pack", "--gan", "run", "--prior", "starter", "--out", "out"),
        ("demo", "--out", "out"),
    ],
)
def test_missing_weights_are_one_message(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "starter").mkdir()
    (tmp_path / "starter" / "clip").symlink_to(starter_clip())
    folder = tmp_path / "starter"
    monkeypatch.setattr("lafite_shifted.io.starter.starter_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    expected = ("The starter model is not in this installation", str(folder), "make starter")
    assert_refused(run_command(*command), *expected)
    assert not (tmp_path / "out").exists()


def test_its_clip_needs_no_model(
    some_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "starter").mkdir()
    (tmp_path / "starter" / "clip").symlink_to(starter_clip())
    folder = tmp_path / "starter"
    monkeypatch.setattr("lafite_shifted.io.starter.starter_folder", lambda: folder)
    assert "48 images embedded" in succeed("embed", some_images, "--out", tmp_path / "out").err
    assert "missing starter model" in succeed("doctor").out
