"""The report on priors: what it compares, its references, and the verb that writes it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.io.files import load_tensors, save_tensors, write_json_lines
from lafite_shifted.model_folder import find_part, load_generator
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.samplers import SamplerConfig
from tests.commands import TINY_PRIOR, run_command, succeed
from tests.training.prior.test_metrics import DIM, rows_of
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.split import is_held_out
from training.metrics.distances import kernel_distance, mean_cosine
from training.prior.eval_set import UNRELATED, EvalSet, references, same_name
from training.prior.evaluate import (
    PERFECT,
    load_priors,
    report,
    sample_all,
    sampler_configs_of,
    through,
)
from training.prior.presets import PRIOR_PRESETS

ENCODER = EncoderId((EncoderBlock("made up", "abc", "{}", DIM),))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of 400 images under 200 names, whose images lie near their texts."""
    folder = tmp_path_factory.mktemp("captioned")
    names = [f"thing {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200)] * 2
    text = rows_of(200).repeat(2, 1)
    image = F.normalize(text + 0.5 * rows_of(400, seed=1), dim=1)
    tokens = rows_of(400, seed=2)[:, :8].repeat_interleave(2, 0)
    tensors = {
        "image": image.half(),
        "text": text.half(),
        "caption_image": torch.arange(400),
        "text_tokens": tokens.half(),
        "text_offsets": torch.arange(401) * 2,
    }
    metadata = {"kind": "embeddings", "format": 1, "encoder": ENCODER.to_json()}
    save_tensors(folder / "shard-00000.safetensors", tensors, metadata | {"context_length": 4})
    rows = [
        {
            "file_name": f"{i:03d}.png",
            "size": 1,
            "mtime_ns": 1,
            "sha256": f"{i:03d}",
            "captions": [name],
            "split_key": name,
            "shard": "shard-00000.safetensors",
            "row": i,
        }
        for i, name in enumerate(names)
    ]
    write_json_lines(folder / "index.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, captioned: Path) -> list[Path]:
    """Two seeds of one process, one of another."""
    folder = tmp_path_factory.mktemp("runs")
    given = [("shifted", 0), ("shifted", 1), ("baseline", 0)]
    for process, seed in given:
        options = ("--process", process, "--seed", str(seed), *TINY_PRIOR)
        succeed("train-prior", captioned, "--out", folder / f"{process}-{seed}", *options)
    return [folder / f"{process}-{seed}" for process, seed in given]


def test_held_out_names_are_evaluated_once_and_compared_with_others(captioned: Path):
    data = EmbeddingSet(captioned)
    eval_set = EvalSet.of(data)
    names = [data.captions[i] for i in eval_set.captions.tolist()]
    assert len(set(names)) == len(names) >= 20
    assert all(is_held_out(name) for name in names)
    assert not any(is_held_out(data.captions[i]) for i in eval_set.training.tolist())
    found = dict(references(eval_set))
    assert found["text itself (no prior)"].equal(data.text[eval_set.captions])
    assert set(map(len, found.values())) == {len(names)}
    for row in found[UNRELATED]:
        assert not (row == eval_set.true).all(dim=1).any()
    made, true = same_name(eval_set)
    assert len(made) == len(names)  # every name has two images
    assert (made != true).any(dim=1).all()
    assert float((made * true).sum(dim=1).mean()) > 0.5


def test_an_image_that_is_trained_on_too_is_left_out(captioned: Path, tmp_path: Path):
    """Two names may have the same image, one on either side of the split."""
    before = EvalSet.of(EmbeddingSet(captioned))
    assert before.copies == 0
    copied, other = before.captions[1], before.training[0]
    folder = shutil.copytree(captioned, tmp_path / "e")
    (shard,) = folder.glob("shard-*.safetensors")
    tensors, metadata = load_tensors(shard)
    image, row = tensors["image"], tensors["caption_image"]  # as many captions as images, in order
    image[row[copied]] = image[row[other]]
    save_tensors(shard, tensors, metadata)
    data = EmbeddingSet(folder)
    after = EvalSet.of(data)
    assert after.copies == 1
    assert after.captions.tolist() == [c for c in before.captions.tolist() if c != int(copied)]
    assert EvalSet.of(data, limit=21).captions.tolist() == after.captions[:21].tolist()


def test_a_perfect_prior_is_at_no_kernel_distance(tmp_path: Path):
    """Images of the same names are no closer than chance has it, though the pairs are."""
    succeed("dataset", "cone", "--out", tmp_path / "cone", "--names", "1500")
    made, true = same_name(EvalSet.of(EmbeddingSet(tmp_path / "cone")))
    paired = kernel_distance(made, true, paired=True)
    assert abs(paired) < 0.008 < -kernel_distance(made, true)


def test_ways_are_steps_then_guidance_at_few():
    sampler_configs = sampler_configs_of([1, 4, 64], [1.0, 2.0], "ddim")
    assert [(way.steps, way.guidance) for way in sampler_configs] == [
        (1, 1),
        (4, 1),
        (64, 1),
        (4, 2),
    ]
    assert {way.sampler for way in sampler_configs} == {"ddim"}


def test_the_verb_writes_table_record_and_figure(runs: list[Path], captioned: Path, tmp_path: Path):
    out = tmp_path / "report"
    options = ("--embeddings", captioned, "--out", out, "--steps", "1,3", "--guidance", "2")
    printed = succeed("evaluate", "prior", *runs, *options).out
    assert printed == (out / "report.md").read_text(encoding="utf-8")
    record = json.loads((out / "report.json").read_text(encoding="utf-8"))
    rows = {(row["name"], row["steps"]): row for row in record["rows"]}
    kinds = ("shifted full, linear", "baseline, linear")
    expected = [(kind, steps) for kind in kinds for steps in (1, 3)]
    expected += [(f"{kind}, guidance 2", 3) for kind in kinds]
    assert set(expected) <= set(rows)
    assert len(rows) == len(expected) + 4  # references
    shifted = rows["shifted full, linear", 3]
    assert shifted["seeds"] == 2
    assert shifted["spread"]["fd_clip"] > 0
    assert rows["baseline, linear", 3]["spread"] == {}
    for (name, steps), row in rows.items():
        assert f"| {name} | {steps or ''} |" in printed
        assert -1 <= row["metrics"]["clip_i_sim"] <= 1
    by_steps = [row for row in printed.splitlines() if row.startswith("| shifted full, linear |")]
    assert len(by_steps) == 4 + 2  # Frechet distance, energy, one text's draws, recall; all figures
    assert by_steps[0].count(" (") == 2  # of two trainings
    unrelated = rows[UNRELATED, None]
    (perfect,) = [row for (name, _), row in rows.items() if name.startswith(PERFECT)]
    assert perfect["metrics"]["fd_clip"] < rows["baseline, linear", 3]["metrics"]["fd_clip"]
    assert unrelated["metrics"]["retrieval_10"] < 0.6
    assert (out / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_priors_are_judged_through_a_generator(
    prior_run: Path, gan_run: Path, some_embeddings: Path, tmp_path: Path
):
    """By the embeddings of the images that it makes; the true embedding is a reference then."""
    data = EmbeddingSet(some_embeddings)
    generator = load_generator(find_part(gan_run, "generator"), device=torch.device("cpu"))
    clip = ClipEncoder.load("starter")
    seen = through(generator, clip)(data.image[:3])
    images = TextToImage(clip, generator, None).decode(data.image[:3], seeds=range(3))
    torch.testing.assert_close(seen, clip.embed_images(images.permute(0, 3, 1, 2)))
    eval_set = EvalSet(
        data, torch.arange(20), data.image[data.caption_image[:20]], torch.arange(20, 48), 0
    )
    prior = load_priors([prior_run], data, torch.device("cpu"))
    decode = through(generator, clip)
    (row,) = report(prior, eval_set, [SamplerConfig(2)], decode=decode, bootstrap=2)
    made, _, _ = sample_all(next(iter(prior.values()))[0], eval_set, SamplerConfig(2))
    assert row.metrics.clip_i_sim == pytest.approx(
        mean_cosine(decode(made), eval_set.true), abs=1e-5
    )
    outcome = run_command(
        *("evaluate", "prior", prior_run, "--embeddings", some_embeddings),
        *("--out", tmp_path / "o", "--gan", tmp_path),
    )
    assert outcome.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "1,x"), "give numbers with commas"),
        (("--steps", "0"), "give numbers from 1"),
        (("--steps", "inf"), "give numbers from 1"),
        (("--guidance", "nan"), "give numbers from 0"),
        (("--steps", ""), "give numbers from 1"),
        (("--steps", "2000"), "this prior allows 1000"),
        (("--limit", "10"), "too few to evaluate on"),
    ],
)
def test_bad_input_is_named(
    runs: list[Path], captioned: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
):
    options = ("--embeddings", captioned, "--out", tmp_path / "out", *arguments)
    outcome = run_command("evaluate", "prior", runs[0], *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_priors_of_another_clip_are_refused(captioned: Path, prior_run: Path, tmp_path: Path):
    options = ("--embeddings", captioned, "--out", tmp_path / "out")
    outcome = run_command("evaluate", "prior", prior_run, *options)
    assert outcome.code == 2
    assert "Evaluate it on embeddings of its own CLIP" in outcome.err


@pytest.mark.parametrize("kind", ["captioned", "cone"])
def test_a_short_study_trains_every_process_and_reports(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The comparison of docs/prior.md, in seconds, of small priors; once more it trains nothing."""
    tiny = PRIOR_PRESETS["tiny"]
    small = replace(tiny, prior=replace(tiny.prior, width=32, depth=1, heads=2))
    monkeypatch.setitem(PRIOR_PRESETS, "tiny", small)
    if kind == "cone":
        captioned = tmp_path / "cone"
        succeed("dataset", "cone", "--out", captioned, "--names", "200")
    else:
        captioned = request.getfixturevalue("captioned")
    options = ("--out", tmp_path / "study", "--kimg", "0.064", "--seeds", "1", "--steps", "1,2")
    succeed("evaluate", "study", captioned, *options, "--limit", "25")
    record = json.loads((tmp_path / "study" / "report.json").read_text(encoding="utf-8"))
    names = {row["name"] for row in record["rows"] if row["steps"] == 2}
    kinds = ("shifted full", "shifted diagonal", "64 diagonal clusters", "baseline")
    assert {f"{kind}, {schedule}" for kind in kinds for schedule in ("linear", "cosine")} <= names
    assert {"baseline, linear, guidance 4, thresholded", "shifted full, linear, dpm++"} <= names
    assert "shifted full, linear, energy" in names
    others = {
        "shifted full": "z_0",
        "shifted diagonal": "v",
        "baseline": "v",
    }
    for schedule in ("linear", "cosine"):
        assert {f"{kind}, {schedule}, {other}" for kind, other in others.items()} <= names
    once = {row["name"] for row in record["rows"] if row["steps"] == 1} - names
    few = "step budget 1"
    assert once == {f"shifted full, linear, {few}", f"shifted full, linear, energy, {few}"}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
    assert len(before) > 8
    succeed("evaluate", "study", captioned, *options, "--limit", "25")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
    if kind == "cone":  # the same cone, other names
        larger = tmp_path / "larger"
        succeed("dataset", "cone", "--out", larger, "--names", "400", "--seed", "1")
        succeed("evaluate", "study", captioned, *options, "--eval-embeddings", larger)
        again = json.loads((tmp_path / "study" / "report.json").read_text(encoding="utf-8"))
        assert again["held_out_captions"] > 2 * record["held_out_captions"]
