"""Embeddings and models of another CLIP, and files that are damaged. Each time: a message
that says what to do next, the exit code of the contract, no traceback, nothing half-written.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lafite_shifted.io.files import load_tensors, read_json, read_json_lines, save_tensors
from lafite_shifted.io.starter import starter_clip
from tests.commands import (
    TINY_GAN,
    TINY_PRIOR,
    assert_refused,
    image_folder,
    run_command,
    succeed,
)
from training.run_folder import RunLock

Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize("verb", ["embed", "train-gan", "train-prior"])
@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("nonsense", "Give `starter`, MODEL/PRETRAINED"),
        ("ViT-B-32/nonsense", "Its tags are: "),
        ("hf-hub:nobody/nothing", "the network"),
    ],
)
def test_wrong_clip(verb: str, clip: str, expected: str, some_images: Path, tmp_path: Path):
    outcome = run_command(verb, some_images, "--out", tmp_path / "out", "--clip", clip)
    assert_refused(outcome, f"--clip {clip}", expected)
    assert list(tmp_path.iterdir()) == []


def test_truncated_clip(small_clip_folder: Path, some_images: Path, tmp_path: Path):
    folder = Path(shutil.copytree(small_clip_folder, tmp_path / "clip"))
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    outcome = run_command("embed", some_images, "--out", tmp_path / "out", "--clip", folder)
    assert_refused(outcome, "truncated or damaged", "again")
    assert not (tmp_path / "out").exists()


def test_embeddings_of_another_clip(
    small_clip_folder: Path, some_images: Path, some_embeddings: Path, tmp_path: Path
):
    shutil.copytree(some_embeddings, tmp_path / "run" / "embeddings")
    named = ("--clip", small_clip_folder)
    for verb, out, sizes in (
        ("embed", tmp_path / "run" / "embeddings", ()),
        ("train-gan", tmp_path / "run", TINY_GAN),
        ("train-prior", tmp_path / "run", TINY_PRIOR),
    ):
        outcome = run_command(verb, some_images, "--out", out, *named, *sizes)
        assert_refused(outcome, "Embeddings of two CLIPs cannot be mixed", "Choose another --out")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["embeddings"]


def test_prior_on_embeddings_of_another_clip(
    some_embeddings: Path, small_clip_folder: Path, tmp_path: Path
):
    arguments = ("--out", tmp_path / "run", *TINY_PRIOR, "--clip", small_clip_folder)
    outcome = run_command("train-prior", some_embeddings, *arguments)
    assert_refused(outcome, "Embeddings of two CLIPs cannot be mixed", "Leave --clip out")
    assert list(tmp_path.iterdir()) == []


def test_prior_with_changed_captions(some_images: Path, tmp_path: Path):
    """As many captions as before, but others: the run cannot go on as if nothing had happened."""
    images = Path(shutil.copytree(some_images, tmp_path / "images"))
    command = ("train-prior", images, "--out", tmp_path / "run", *TINY_PRIOR)
    succeed(*command)
    metadata = images / "metadata.jsonl"
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(text.replace('"text": "', '"text": "new ', 1), encoding="utf-8")
    assert_refused(run_command(*command), "data.fingerprint", "choose another --out")


def test_model_whose_clip_has_moved(
    gan_run: Path, some_images: Path, small_clip_folder: Path, tmp_path: Path
):
    first, moved = tmp_path / "first", tmp_path / "moved"
    shutil.copytree(small_clip_folder, first)
    succeed("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN, "--clip", first)
    succeed("pack", "--gan", tmp_path / "run", "--out", tmp_path / "model")
    first.rename(moved)
    command = ("generate", "a cat", "--model", tmp_path / "model", "--out", tmp_path / "out")
    assert_refused(run_command(*command), "trained with", "say where with `--clip`")
    assert not (tmp_path / "out").exists()
    succeed(*command, "--num-images", "1", "--clip", moved)


def test_wrong_folder_leaves_the_embeddings_of_a_run_alone(
    gan_run: Path, prior_run: Path, tmp_path: Path
):
    other = image_folder(tmp_path / "other", *(f"other{i}.png" for i in range(8)))
    (other / "other0.txt").write_text("a caption", encoding="utf-8")
    for verb, flags, run in (
        ("train-gan", TINY_GAN, gan_run),
        ("train-prior", TINY_PRIOR, gan_run),
        ("embed", (), gan_run / "embeddings"),
    ):
        copy = Path(shutil.copytree(run, tmp_path / f"{verb}-run"))
        before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
        assert_refused(run_command(verb, other, "--out", copy, *flags), "Choose another --out")
        assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_image_changed_under_its_name(some_images: Path, tmp_path: Path):
    images = Path(shutil.copytree(some_images, tmp_path / "images"))
    command = ("train-gan", images, "--out", tmp_path / "run", *TINY_GAN)
    succeed(*command)
    Image.new("RGB", (64, 64), "red").save(sorted(images.glob("*.png"))[0])
    assert_refused(run_command(*command), "data.fingerprint", "choose another --out")


@pytest.mark.parametrize("verb", ["train-gan", "train-prior"])
def test_folder_in_use_is_not_embedded_into(verb: str, some_images: Path, tmp_path: Path):
    sizes = {"train-gan": TINY_GAN, "train-prior": TINY_PRIOR}[verb]
    command = (verb, some_images, "--out", tmp_path / "run", *sizes)
    lock = RunLock(tmp_path / "run")
    assert_refused(run_command(*command), "is in use: another process trains there")
    assert list((tmp_path / "run").iterdir()) == []
    lock.release()
    succeed(*command)


def test_unsupported_format_is_listed(some_images: Path, tmp_path: Path):
    images = Path(shutil.copytree(some_images, tmp_path / "images"))
    Image.new("RGB", (8, 8)).save(images / "scan.tiff")
    outcome = succeed("embed", images, "--out", tmp_path / "out")
    assert "scan.tiff: this format is not supported" in outcome.err
    assert read_json_lines(tmp_path / "out" / "report.jsonl")[0]["file_name"] == "scan.tiff"


def test_run_inside_the_folder_of_images_does_not_train_on_its_own_grids(
    some_images: Path, tmp_path: Path
):
    images = Path(shutil.copytree(some_images, tmp_path / "images"))
    command = ("train-gan", images, "--out", images / "run", *TINY_GAN)
    succeed(*command)
    assert "0 images embedded, 48 reused" in succeed(*command).err


def test_model_with_a_damaged_configuration(model_folder: Path, tmp_path: Path):
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    record = json.loads((model / "generator" / "config.json").read_text(encoding="utf-8"))
    for damaged in ([], record | {"config": {"unknown": 1}}, record | {"encoder": [{}]}):
        (model / "generator" / "config.json").write_text(json.dumps(damaged), encoding="utf-8")
        command = ("generate", "a cat", "--model", model, "--out", tmp_path / "out")
        assert_refused(run_command(*command), "gain")
        assert not (tmp_path / "out").exists()


def test_truncated_embeddings(some_embeddings: Path, tmp_path: Path):
    folder = Path(shutil.copytree(some_embeddings, tmp_path / "embeddings"))
    shard = folder / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert_refused(run_command("stats", folder), "shard-00000.safetensors is truncated", "again")
    outcome = run_command("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(outcome, "shard-00000.safetensors is truncated")
    assert not (tmp_path / "run").exists()


def test_stats_of_something_else(tmp_path: Path, some_images: Path):
    assert_refused(run_command("stats", tmp_path / "none"), "holds no embeddings", "embed")
    assert_refused(run_command("stats", some_images), "holds no embeddings", "embed")


def test_truncated_model(model_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = folder / "generator" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    outcome = run_command("generate", "a cat", "--model", folder, "--out", tmp_path / "out")
    assert_refused(outcome, "weights.safetensors is truncated", "again")
    assert not (tmp_path / "out").exists()


def test_truncated_checkpoint(gan_run: Path, some_images: Path, tmp_path: Path):
    folder = Path(shutil.copytree(gan_run, tmp_path / "run"))
    state = max((folder / "checkpoints").iterdir()) / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    outcome = run_command("train-gan", some_images, "--out", folder, *TINY_GAN)
    assert_refused(outcome, "state.safetensors is truncated")


def _extra(tensors: Tensors) -> Tensors:
    return tensors | {"more": torch.zeros(3)}


def _of_integers(tensors: Tensors) -> Tensors:
    return {name: tensor.to(torch.int32) for name, tensor in tensors.items()}


def _less_one(tensors: Tensors) -> Tensors:
    return dict(list(tensors.items())[1:])


def _not_finite(tensors: Tensors) -> Tensors:
    return {name: tensor * torch.nan for name, tensor in tensors.items()}


@pytest.mark.parametrize("part", ["generator", "prior"])
@pytest.mark.parametrize("change", [_extra, _of_integers, _less_one, _not_finite])
def test_weights_that_do_not_fit(
    change: Callable[[Tensors], Tensors], part: str, model_folder: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = folder / part / "weights.safetensors"
    save_file(change(load_file(weights)), weights)
    outcome = run_command("generate", "a cat", "--model", folder, "--out", tmp_path / "out")
    assert_refused(outcome, f"{weights}", "again")
    assert outcome.err.splitlines()[-1].startswith("lafite-shifted: ")  # one line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fields", [{"process": "other"}, {"covariance": 3}, {"schedule": {"name": "quadratic"}}]
)
def test_a_prior_of_a_kind_that_is_not_known(
    fields: dict[str, object], model_folder: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    record = read_json(folder / "prior" / "config.json")
    config = record["config"] | fields
    (folder / "prior" / "config.json").write_text(json.dumps(record | {"config": config}))
    outcome = run_command("generate", "a cat", "--model", folder, "--out", tmp_path / "out")
    assert_refused(outcome, "config.json does not describe", "must be one of")
    assert not (tmp_path / "out").exists()


def test_embeddings_that_are_not_finite(some_embeddings: Path, tmp_path: Path):
    folder = Path(shutil.copytree(some_embeddings, tmp_path / "embeddings"))
    file = folder / "shard-00000.safetensors"
    tensors, metadata = load_tensors(file)
    tensors["image"][3, 5] = torch.nan
    save_tensors(file, tensors, metadata)
    assert_refused(run_command("stats", folder), "not finite", "embed the images again")
    run = ("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(run_command(*run), "not finite", "embed the images again")


def test_a_clip_that_reads_some_texts_as_nan(some_images: Path, tmp_path: Path):
    folder = Path(shutil.copytree(starter_clip(), tmp_path / "clip"))
    file = folder / "open_clip_model.safetensors"
    tensors = load_file(file)
    tensors["token_embedding.weight"][-2:] = torch.nan  # which begin and end every text
    save_file(tensors, file)
    command = ("embed", some_images, "--out", tmp_path / "out", "--clip", folder)
    assert_refused(run_command(*command), "embeddings (text) that are not finite")
    assert not list(tmp_path.glob("out/*.safetensors"))
