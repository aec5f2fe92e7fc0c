"""`train-gan` and `train-prior` do what their help says, through the real command."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lafite_shifted.io.files import load_tensors, read_json, read_json_lines
from lafite_shifted.model_folder import load_generator
from tests.commands import TINY_GAN, TINY_PRIOR, half_written, succeed
from training.data.decoding.crop import to_square
from training.data.decoding.decode import decode
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.images import ImageSource
from training.data.split import is_held_out
from training.gan.data import GanData, load_gan_data
from training.gan.evaluate import EvalSet

# --- train-gan


def gan_data(gan_run: Path, some_images: Path) -> GanData:
    source, found = ImageSource(some_images), EmbeddingSet(gan_run / "embeddings")
    return load_gan_data(source, found, resolution=16, hold_out=True)


def test_run_folder_explains_itself(gan_run: Path, some_images: Path):
    record = read_json(gan_run / "config.json")
    assert record["kind"] == "gan"
    assert record["config"]["generator"]["resolution"] == 16
    assert record["config"]["pseudo_text_cosine"] == 0.95
    assert record["data"]["num_training"] == 48
    logged = read_json_lines(gan_run / "log.jsonl")
    assert [row["samples"] for row in logged] == [8, 16, 24, 32]
    assert all(np.isfinite(row["loss_d"]) for row in logged)
    rows = [row for row in logged if "training_kid_clip" in row]
    assert [row["samples"] for row in rows] == [16, 32]
    names = ("loss_d", "loss_g", "training_fd_clip", "training_kid_clip", "training_clip_i_sim")
    more = (
        "training_precision",
        "training_recall",
        "real_same_fd_clip",
        "seconds_per_kimg",
        "peak_mem_gib",
    )
    for name in (*names, *more):
        assert all(np.isfinite(row[name]) for row in rows), name
    eval_set = EvalSet.of(gan_data(gan_run, some_images))
    assert all(row["reference"] == eval_set.reference for row in rows)
    best = read_json(gan_run / "best" / "generator" / "config.json")["training"]
    assert best["reference"] == eval_set.reference
    assert best["training_kid_clip"] == min(row["training_kid_clip"] for row in rows)
    events = EventAccumulator(str(gan_run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [16, 32]
    for name in ("logit_real", "logit_fake", "w_norm", "condition_clip_i_sim"):
        found = events.Histograms(f"evaluation/{name}")[-1].histogram_value
        assert (found.num, found.min < found.max) == (48, True), name
    mean = found.sum / found.num
    assert mean == pytest.approx(rows[-1]["training_clip_i_sim"], rel=1e-3)
    kept = [p.name for p in sorted((gan_run / "checkpoints").iterdir())]
    assert kept == ["samples-0000000024", "samples-0000000032"]
    assert load_generator(gan_run / "generator", device=torch.device("cpu")).training == {
        "kimg": 0.032,
        "num_images": 48,
        "pseudo_text_cosine": 0.95,
        "hold_out": True,
        "background": "white",
        "resize": "lanczos",
        "crop": "centre",
    }
    assert half_written(gan_run) == []


def test_background_and_crop_are_those_of_the_settings(tmp_path: Path):
    """In what is trained on, in config.json, and in what is known of the generator."""
    folder, run = tmp_path / "images", tmp_path / "run"
    folder.mkdir()
    for number in range(6):
        clear = Image.new("RGBA", (32, 64), (0, 0, 0, 0))
        clear.paste((255, 40 * number, 0, 255), (8, 8, 24, 56))
        clear.save(folder / f"{number}.png")
    fields = ("images.background=black", "images.crop=pad", "hold_out=false")
    words = (word for field in fields for word in ("--set", field))
    succeed("train-gan", folder, "--out", run, *TINY_GAN, *words)
    expected = {"background": "black", "resize": "lanczos", "crop": "pad"}
    assert read_json(run / "config.json")["config"]["images"] == expected
    training = read_json(run / "generator" / "config.json")["training"]
    assert expected.items() <= training.items()
    with Image.open(run / "grids" / "samples-0000000032.png") as grid:
        first = np.asarray(grid.convert("RGB"))[:64, :64]
    assert (first[0] == 0).all()
    assert (first[32, [1, -1]] == 0).all()
    assert first[32, 32, 0] == 255


def test_grids_show_the_conditioning_images_above(gan_run: Path, some_images: Path):
    """Then three rows of samples, and the training images nearest to the first of them."""
    with Image.open(next((gan_run / "grids").glob("*.png"))) as grid:
        assert grid.size == (8 * 64 + 7 * 2, 5 * 64 + 4 * 2)
        tiles = [
            [np.asarray(grid)[66 * j + 2 : 66 * j + 64 : 4, 66 * i + 2 : 66 * i + 64 : 4]]
            for j in (0, 4)
            for i in range(8)
        ]
    names = EmbeddingSet(gan_run / "embeddings").names
    known = [to_square(decode(some_images / name).image, 16) for name in names]
    found = [[i for i, k in enumerate(known) if np.array_equal(tile, k)] for (tile,) in tiles]
    assert all(found)
    assert len({tuple(places) for places in found[:8]}) == 8  # drawn, each once


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images as a camera names them, three of them broken in different ways."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (300, 12, 16, 3), dtype=np.uint8)
    for number, levels in enumerate(noise):
        Image.fromarray(levels).save(folder / f"IMG_{number:04}.png")
    content = (folder / "IMG_0007.png").read_bytes()
    (folder / "IMG_0007.png").write_bytes(content[: len(content) // 2])
    (folder / "IMG_0123.png").write_bytes(b"")
    (folder / "IMG_0299.png").write_text("<html>404</html>", encoding="utf-8")
    return folder


def test_own_folder_with_three_broken_images(own_folder: Path, tmp_path: Path):
    outcome = succeed("train-gan", own_folder, "--out", tmp_path / "run", *TINY_GAN)
    assert "297 images embedded" in outcome.err
    assert "3 images left out" in outcome.err
    for name in ("IMG_0007.png: broken", "IMG_0123.png: not an image", "IMG_0299.png: not a"):
        assert name in outcome.err
    record = read_json(tmp_path / "run" / "config.json")["data"]
    assert record["num_training"] + record["num_held_out"] == 297
    assert 30 <= record["num_held_out"] <= 70  # a sixth, by content
    last = read_json_lines(tmp_path / "run" / "log.jsonl")[-1]
    assert last["held_out_fd_clip"] > 0
    assert -1 <= last["held_out_clip_i_sim"] <= 1
    succeed("pack", "--gan", tmp_path / "run", "--out", tmp_path / "model")
    arguments = ("--model", tmp_path / "model", "--out", tmp_path / "out", "--num-images", "1")
    outcome = succeed("generate", "a red apple", *arguments)
    assert "has no prior: conditioning on the text embedding itself" in outcome.err
    assert "pack --prior" in outcome.err


def test_dry_run_prints_the_cost_and_writes_nothing(some_images: Path, tmp_path: Path):
    arguments = ("train-gan", some_images, "--out", tmp_path / "run", "--preset", "tiny")
    lines = succeed(*arguments, "--dry-run").out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "resolution",
        "parameters",
        "work",
        "images",
        "memory",
        "time",
        "R1",
        "learning",
        "batch",
        "EMA",
        "augmentation",
    ]
    assert "32 px, batch 16, 100 kimg" in lines[0]
    assert "GMAC" in lines[2]
    assert lines[3].split()[1] == "48,"
    assert float(lines[4].split("about ")[1].split()[0]) > 0.01
    assert float(lines[5].split()[1]) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("more", "expected"), [((), "clip"), (("--features", "none"), None)])
def test_a_plain_run_looks_at_features_unless_told(
    more: tuple[str, ...], expected: str | None, some_images: Path, tmp_path: Path
):
    run = tmp_path / "run"
    succeed("train-gan", some_images, "--out", run, "--kimg", "0.016", *more)
    assert read_json(run / "config.json")["config"]["features"]["backbone"] == expected
    last = read_json_lines(run / "log.jsonl")[-1]
    assert ("loss_matching" in last) == (expected is not None)


def test_a_run_learns_the_first_map_of_each_condition_and_matches_small_images(
    some_images: Path, tmp_path: Path
):
    run, changes = tmp_path / "run", ("generator.conditional_start=true", "pixel_matching_weight=1")
    flags = [word for change in changes for word in ("--set", change)]
    succeed("train-gan", some_images, "--out", run, *TINY_GAN, *flags)
    assert read_json_lines(run / "log.jsonl")[-1]["loss_pixel_matching"] > 0
    weights, _ = load_tensors(run / "generator" / "weights.safetensors")
    assert float(weights["start.weight"].abs().max()) > 0  # where it began


# --- train-prior


def test_prior_run_holds_a_prior(prior_run: Path):
    record = read_json(prior_run / "config.json")
    assert (record["kind"], record["config"]["prior"]["process"]) == ("prior", "shifted")
    rows = read_json_lines(prior_run / "log.jsonl")
    assert rows[-1]["samples"] == 32
    assert np.isfinite(rows[-1]["loss"])
    assert sorted(p.name for p in (prior_run / "prior").iterdir()) == [
        "config.json",
        "stats.safetensors",
        "weights.safetensors",
    ]


def test_prior_logs_held_out_metrics(tmp_path: Path, some_images: Path):
    """On captions of the held-out side, of which there are eight here."""
    images = Path(shutil.copytree(some_images, tmp_path / "images"))
    (images / "metadata.jsonl").unlink()
    words = ["".join(letters) for letters in itertools.product("abcdef", repeat=3)]
    held_out = [word for word in words if is_held_out(word)][:8]
    captions = held_out + [word for word in words if not is_held_out(word)][:40]
    for file, caption in zip(sorted(images.glob("*.png")), captions, strict=True):
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")
    outcome = succeed(
        *("train-prior", images, "--out", tmp_path / "run", *TINY_PRIOR, "--process", "baseline")
    )
    last = read_json_lines(tmp_path / "run" / "log.jsonl")[-1]
    names = (
        "held_out_clip_i_sim",
        "held_out_fd_clip",
        "text_itself_clip_i_sim",
        "text_itself_fd_clip",
    )
    assert all(np.isfinite(last[name]) for name in names)
    assert "held_out_clip_i_sim" in outcome.out
    assert read_json_lines(tmp_path / "run" / "embeddings" / "report.jsonl") == []
    assert read_json(tmp_path / "run" / "config.json")["config"]["prior"]["process"] == "baseline"


def test_prior_dry_run_prints_the_cost_and_writes_nothing(
    some_embeddings: Path, some_images: Path, tmp_path: Path
):
    printed = [
        succeed("train-prior", data, "--out", tmp_path / "run", "--dry-run", *TINY_PRIOR).out
        for data in (some_embeddings, some_images)
    ]
    before = [text.partition("time ")[0] for text in printed]
    assert before[0] == before[1]
    assert "s/kimg on cpu" in printed[0]
    assert "48, by starter (256 dimensions)" in printed[0]
    assert list(tmp_path.iterdir()) == []
