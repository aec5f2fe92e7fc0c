"""`evaluate gan`: the figures of a generator, beside those of real images, and only of the same
ones.
"""

import itertools
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from lafite_shifted.decoder.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    conditional_logit,
)
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.io.files import read_json, read_json_lines
from lafite_shifted.model_folder import load_generator
from lafite_shifted.pipeline import TextToImage
from tests.commands import half_written, run_command, succeed
from training.data.decoding.read_image import ReadOptions
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.image_cache import ImageLoader
from training.data.images import ImageSource
from training.data.split import is_held_out
from training.gan.data import GanData, load_gan_data
from training.gan.evaluate import (
    EvalSet,
    discriminator_logits,
    embed_uint8,
    gan_metrics,
    nearest_training_similarity,
    others_of,
    real_metrics,
)
from training.gan.run import gan_data_for


@pytest.fixture(scope="module")
def data(some_images: Path, some_embeddings: Path) -> GanData:
    """The first 20 images held out, the other 28 to train on."""
    embeddings = EmbeddingSet(some_embeddings)
    whole = load_gan_data(ImageSource(some_images), embeddings, resolution=16, hold_out=False)
    pixels = whole.images.get_batch(range(len(whole.images))).pixels
    return replace(
        whole,
        images=ImageLoader.of(pixels[20:]),
        embeddings=whole.embeddings[20:],
        held_out_images=ImageLoader.of(pixels[:20]),
        held_out_embeddings=whole.embeddings[:20],
    )


@pytest.fixture(scope="module")
def evaluated(gan_run: Path, some_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on `gan_run`, embeddings made on the way."""
    out = tmp_path_factory.mktemp("report") / "out"
    outcome = succeed("evaluate", "gan", gan_run, some_images, "--out", out, "--judge", "none")
    assert "48 images embedded" in outcome.err
    assert outcome.out == (out / "report.md").read_text(encoding="utf-8")
    return out


def evaluate(model: Path, some_images: Path, out: Path, *arguments: str | Path) -> dict:
    flags = ("--json", "--judge", "none")
    printed = succeed("evaluate", "gan", model, some_images, "--out", out, *flags, *arguments)
    assert json.loads(printed.out) == read_json(out / "report.json")
    record = json.loads(printed.out)
    assert record["model"] == str(model)
    return record


def test_real_images_in_their_own_place_are_perfect(data: GanData):
    eval_set = EvalSet.of(data)
    assert (eval_set.where, len(eval_set.embeddings)) == ("held_out", 20)
    metrics = gan_metrics(eval_set, eval_set.embeddings)
    assert metrics["fd_clip"] == pytest.approx(0, abs=1e-6)
    for name in ("clip_i_sim", "retrieval_1", "retrieval_10", "precision", "recall"):
        assert metrics[name] == pytest.approx(1), name
    others = others_of(eval_set)
    assert others is not None
    nearer, unrelated = (gan_metrics(eval_set, data.embeddings[rows]) for rows in others.values())
    assert metrics["clip_i_sim"] > nearer["clip_i_sim"] > unrelated["clip_i_sim"]
    assert metrics["nearest_training_clip_i_sim"] == pytest.approx(nearer["clip_i_sim"])
    assert nearer["nearest_training_clip_i_sim"] == pytest.approx(1)
    assert len(others["unrelated"].unique()) == 20


def test_training_images_of_the_eval_set_are_not_compared_with_themselves(
    data: GanData, clip: ClipEncoder
):
    few = replace(
        data,
        held_out_images=ImageLoader.of(data.images.get_batch([0]).pixels[:0]),
        held_out_embeddings=data.embeddings[:0],
    )
    eval_set = EvalSet.of(few, count=12)
    assert eval_set.where == "training"
    assert data.embeddings[eval_set.own_rows].equal(eval_set.embeddings)
    others = others_of(eval_set)
    assert others is not None
    for rows in others.values():
        assert len(rows) == 12
        assert not torch.isin(rows, eval_set.own_rows).any()
    rest = torch.tensor(sorted({*range(28)} - {*eval_set.own_rows.tolist()}))
    expected = rest[(eval_set.embeddings @ data.embeddings[rest].T).argmax(dim=1)]
    assert others["nearest"].equal(expected)
    whole = EvalSet.of(few)  # all 28: none are left
    assert others_of(whole) is None
    found = real_metrics(whole, partial(embed_uint8, clip))
    assert [*found] == ["real_same_clip_i_sim", "real_same_fd_clip", "real_intra_set_cosine"]


def test_images_of_the_size_of_a_run_have_metrics_of_their_own(data: GanData, clip: ClipEncoder):
    """What a perfect generator reaches: CLIP sees less than in the files."""
    eval_set, embed = EvalSet.of(data), partial(embed_uint8, clip)
    found = real_metrics(eval_set, embed)
    same = gan_metrics(eval_set, embed(eval_set.pixels.permute(0, 2, 3, 1)))
    for name in ("clip_i_sim", "fd_clip", "nearest_training_clip_i_sim"):
        assert found[f"real_same_{name}"] == same[name]
    assert found["real_same_clip_i_sim"] < 0.98
    assert found["real_same_fd_clip"] > 0.1


def test_copies_are_found_among_squares(
    data: GanData, clip: ClipEncoder, monkeypatch: pytest.MonkeyPatch
):
    """Whose cosine is 1, while that to the files' embeddings is that of another image."""
    eval_set, embed = EvalSet.of(data), partial(embed_uint8, clip)
    squares = data.images.get_batch(range(28)).pixels.permute(0, 2, 3, 1)
    copies = embed(squares[:20])
    assert nearest_training_similarity(eval_set, copies, embed) == pytest.approx(1)
    assert gan_metrics(eval_set, copies)["nearest_training_clip_i_sim"] < 0.95
    real = embed(eval_set.squares)
    whole = float((real @ embed(squares).T).amax(dim=1).mean())
    assert nearest_training_similarity(eval_set, real, embed) == pytest.approx(whole, abs=1e-3)
    monkeypatch.setattr("training.gan.evaluate.NEIGHBOURS", 1)
    assert 0 < whole - nearest_training_similarity(eval_set, real, embed) < 0.1


def test_logits_are_of_whole_groups(data: GanData):
    """As in training: what is left of the last group has no spread to show."""
    torch.manual_seed(0)
    config = DiscriminatorConfig(resolution=16, channel_base=64, group=4)
    discriminator = Discriminator(config)
    condition = torch.randn(20, config.condition_dim)
    images = data.held_out_images.get_batch(range(20)).pixels
    with torch.no_grad():
        realness, feature = discriminator(images[:16].float() / 127.5 - 1)
    expected = conditional_logit(realness, feature, condition[:16])
    for count, whole in ((20, 20), (19, 16), (16, 16), (3, 3)):
        found = discriminator_logits(discriminator, images[:count], condition[:count])
        assert len(found) == whole
        if whole >= 16:
            torch.testing.assert_close(found[:16], expected)
    many = images.repeat(7, 1, 1, 1)[:130]  # more than a part
    found = discriminator_logits(discriminator, many, condition.repeat(7, 1)[:130])
    assert len(found) == 128
    torch.testing.assert_close(found[120:], expected[:8])


def test_the_reference_names_the_very_images(data: GanData):
    reference = EvalSet.of(data).reference
    assert reference == EvalSet.of(data).reference
    block = data.encoder_id.blocks[0]
    assert (reference["encoder"], reference["filter"]) == (block.weights, block.preprocess)
    assert EvalSet.of(data, count=8).reference["images"] == 8
    changed = data.held_out_embeddings.clone()
    changed[3, 0] += 1e-6
    other = EvalSet.of(replace(data, held_out_embeddings=changed)).reference
    assert other == {**reference, "hash": other["hash"]}
    assert other["hash"] != reference["hash"]


def test_metrics_are_those_of_the_training_log(evaluated: Path, gan_run: Path):
    """To the rounding of bfloat16, in which a training may compute."""
    report, logged = (
        read_json(evaluated / "report.json"),
        read_json_lines(gan_run / "log.jsonl")[-1],
    )
    assert (report["eval_set"], report["training"]["kimg"]) == ("training", 0.032)
    lines = report["rows"]
    assert [*lines] == ["generator", "the same images"]  # no others are left
    for name, value in lines["generator"].items():
        assert value == pytest.approx(logged[f"training_{name}"], rel=0.05, abs=0.05), name
    assert lines["the same images"]["fd_clip"] == logged["real_same_fd_clip"]
    assert "48 training images" in (evaluated / "report.md").read_text(encoding="utf-8")
    with Image.open(evaluated / "grid.png") as grid:
        assert grid.size == (8 * 64 + 7 * 2, 5 * 64 + 4 * 2)
    assert half_written(evaluated) == []


def test_fewer_images_have_others_beside_them(gan_run: Path, some_images: Path, tmp_path: Path):
    ready = ("--embeddings", gan_run / "embeddings", "--count", "20")
    lines = evaluate(gan_run, some_images, tmp_path, *ready)["rows"]
    near, others = lines["nearest training images"], lines["other training images"]
    assert 1 > near["clip_i_sim"] > others["clip_i_sim"]
    assert others["fd_clip"] > 0.01


def test_run_model_and_generator_folders_are_the_same(
    evaluated: Path, gan_run: Path, model_folder: Path, some_images: Path, tmp_path: Path
):
    ready = ("--embeddings", gan_run / "embeddings")
    expected = read_json(evaluated / "report.json")["rows"]
    for number, model in enumerate((model_folder, gan_run / "generator")):
        out = tmp_path / str(number)
        assert evaluate(model, some_images, out, *ready)["rows"] == expected
        assert not (out / "embeddings").exists()


def test_the_best_generator_of_a_run(gan_run: Path, some_images: Path, tmp_path: Path):
    ready = ("--embeddings", gan_run / "embeddings", "--best")
    report = evaluate(gan_run, some_images, tmp_path, *ready)
    rows = read_json_lines(gan_run / "log.jsonl")
    evaluated = [row for row in rows if "training_kid_clip" in row]
    assert len(evaluated) > 1
    best = min(evaluated, key=lambda row: row["training_kid_clip"])
    assert report["training"]["kimg"] == best["samples"] / 1000
    assert report["training"]["training_kid_clip"] == best["training_kid_clip"]


def test_metrics_of_the_same_images_stand_beside_each_other(
    evaluated: Path, gan_run: Path, some_images: Path, tmp_path: Path
):
    old = evaluated / "report.json"
    ready = ("--embeddings", gan_run / "embeddings", "--judge", "none")
    arguments = (*ready, "--compare", old)
    outcome = succeed("evaluate", "gan", gan_run, some_images, "--out", tmp_path, *arguments)
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in outcome.out.splitlines()}
    assert rows[f"| {old}"] == rows["| generator"]


def test_metrics_of_other_images_are_refused(
    evaluated: Path, gan_run: Path, some_images: Path, tmp_path: Path
):
    old, out = evaluated / "report.json", tmp_path / "out"
    command = ("evaluate", "gan", gan_run, some_images, "--out", out, "--judge", "none")
    ready = ("--embeddings", gan_run / "embeddings")
    outcome = run_command(*command, *ready, "--count", "16", "--compare", old)
    assert outcome.code == 2
    assert "clip.images: 48 -> 16" in outcome.err
    assert "clip.hash: " in outcome.err
    for field in ("encoder", "filter"):
        record = read_json(old)
        record["references"]["clip"][field] = "another"
        other = tmp_path / "other.json"
        other.write_text(json.dumps(record), encoding="utf-8")
        outcome = run_command(*command, *ready, "--compare", other)
        assert outcome.code == 2
        assert f"clip.{field}: another -> " in outcome.err
    older = read_json(old)
    del older["rows"]["generator"]["recall"]
    for record in ({}, older):
        other.write_text(json.dumps(record), encoding="utf-8")
        outcome = run_command(*command, *ready, "--compare", other)
        assert (outcome.code, "is no report.json of `evaluate gan`" in outcome.err) == (2, True)
    assert not out.exists()


def test_embeddings_of_another_clip_are_refused(
    gan_run: Path, some_images: Path, small_clip_folder: Path, tmp_path: Path
):
    other, command = tmp_path / "embeddings", ("evaluate", "gan", gan_run, some_images)
    succeed("embed", some_images, "--out", other, "--clip", small_clip_folder)
    outcome = run_command(*command, "--out", tmp_path / "out", "--embeddings", other)
    assert (outcome.code, "Leave --embeddings out" in outcome.err) == (2, True)
    outcome = run_command(*command, "--out", tmp_path / "out", "--clip", small_clip_folder)
    assert (outcome.code, "Give the CLIP it was trained with" in outcome.err) == (2, True)


def test_images_that_were_trained_on_are_not_called_held_out(
    gan_run: Path, some_images: Path, tmp_path: Path, clip: ClipEncoder
):
    """A model tells whether its training kept the held-out ones away."""
    words = ["".join(letters) for letters in itertools.product("abcdef", repeat=3)]
    (tmp_path / "images").mkdir()
    for name, file in zip(filter(is_held_out, words), some_images.glob("*.png"), strict=False):
        shutil.copy(file, tmp_path / "images" / f"{name}.png")
    for file in list(some_images.glob("*.png"))[:4]:
        shutil.copy(file, tmp_path / "images")
    generator = load_generator(gan_run / "generator", device=torch.device("cpu"))
    for hold_out, where in ((True, "held_out"), (False, "training")):
        told = replace(generator, training={"hold_out": hold_out})
        model = TextToImage(clip, told, None)
        limits = {"options": ReadOptions(max_bad=0.0, max_megapixels=1.0)}
        found, _ = gan_data_for(model, tmp_path / "images", tmp_path / "out", None, **limits)
        assert EvalSet.of(found).where == where


def test_a_model_that_is_not_there(gan_run: Path, some_images: Path, tmp_path: Path):
    command = ("evaluate", "gan", tmp_path / "none", some_images, "--out", tmp_path / "out")
    for flags in ((), ("--best",)):
        outcome = run_command(*command, *flags)
        assert (outcome.code, "none" in outcome.err, "does not exist" in outcome.err) == (2, 1, 1)
