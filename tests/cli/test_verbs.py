"""Every verb does what its help says, through the real command."""

import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lafite_shifted import __version__
from lafite_shifted.cli import options
from lafite_shifted.cli.main import VERBS
from lafite_shifted.files import read_json, read_json_lines
from lafite_shifted.model_folder import load_generator, model_hash
from lafite_shifted.stats import EmbeddingStats
from tests.commands import TINY_GAN, TINY_PRIOR, half_written, run_command, succeed
from tests.training.test_datasets import emoji_package
from training import datasets, diagnosis
from training.decoding import decode, to_square
from training.diagnosis import Finding
from training.embeddings import EmbeddingSet
from training.gan_data import GanData, load_gan_data
from training.gan_evaluation import Asked
from training.images import ImageSource
from training.loop import Progress
from training.split import is_held_out

# --- help

LIST_HEAVY_IMPORTS = """
import sys
from click.testing import CliRunner
from lafite_shifted.cli.main import VERBS, group

for arguments in ([], *([verb] for verb in VERBS)):
    result = CliRunner().invoke(group, [*arguments, "--help"])
    assert result.exit_code == 0 and "Usage: " in result.output, (arguments, result.output)
heavy = {"torch", "open_clip", "torchvision", "numpy", "PIL", "pydantic", "safetensors", "tqdm"}
print(sorted(heavy & set(sys.modules)))
"""


def test_no_help_imports_torch():
    command = [sys.executable, "-c", LIST_HEAVY_IMPORTS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n", result.stderr


def test_help_is_quick():
    """Under 0.3 s of processor time, which other processes do not lengthen."""
    command = [sys.executable, "-c", "from lafite_shifted.cli.main import main; main()", "--help"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def test_help_lists_every_verb_with_its_purpose():
    listed = succeed("--help").out.split("Commands:")[1]
    for verb in VERBS:
        line = next(line for line in listed.splitlines() if line.split()[:1] == [verb])
        assert len(line.split()) > 2, line
    assert succeed("-h").out == succeed("--help").out


def test_version():
    assert succeed("--version").out == f"lafite-shifted, version {__version__}\n"


# --- embed, stats


def test_embed_writes_shards_index_and_report(some_embeddings: Path, some_pictures: Path):
    names = sorted(p.name for p in some_embeddings.iterdir())
    assert names == ["index.jsonl", "report.jsonl", "shard-00000.safetensors"]
    data = EmbeddingSet(some_embeddings)
    assert data.names == sorted(p.name for p in some_pictures.glob("*.png"))
    assert len(data.captions) == 48


def test_stats_describe_the_cone(some_embeddings: Path, tmp_path: Path):
    outcome = succeed("stats", some_embeddings, "--json", "--out", tmp_path / "s.safetensors")
    found = json.loads(outcome.out)
    image = EmbeddingSet(some_embeddings).image.double().numpy()
    cosines = image @ image.T
    spectrum = np.linalg.eigvalsh(np.cov(image.T)).clip(0)
    share = spectrum[spectrum > 0] / spectrum.sum()
    assert (found["count"], found["dim"]) == (48, 128)
    assert found["norm_of_mean"] == pytest.approx(np.linalg.norm(image.mean(axis=0)), rel=1e-6)
    assert found["mean_cosine"] == pytest.approx(cosines[~np.eye(48, dtype=bool)].mean(), rel=1e-4)
    assert found["effective_rank"] == pytest.approx(
        np.exp(-(share * np.log(share)).sum()), rel=1e-4
    )
    assert found["encoder"][0]["model"] == "starter"
    saved = EmbeddingStats.load(tmp_path / "s.safetensors")
    np.testing.assert_allclose(saved.covariance.numpy(), np.cov(image.T), atol=1e-12)


def test_stats_in_words(some_embeddings: Path):
    lines = succeed("stats", some_embeddings).out.splitlines()
    assert lines[0].split() == ["embeddings", "48", "of", "128", "dimensions,", "by", "starter"]
    assert [line[:20].strip() for line in lines[1:]] == [
        "norm of the mean",
        "mean pairwise cosine",
        "effective rank",
        "shrinkage",
    ]


def test_a_prior_of_clusters_trains_packs_and_samples(
    some_embeddings: Path, gan_run: Path, tmp_path: Path
):
    run, model = tmp_path / "run", tmp_path / "model"
    settings = ("--process", "clusters", "--set", "prior.num_clusters=4", *TINY_PRIOR)
    succeed("train-prior", some_embeddings, "--out", run, *settings)
    logged = json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert 0 < logged["same_cluster_training"] <= 1
    succeed("pack", "--gan", gan_run, "--prior", run, "--out", model)
    options = ("--model", model, "--num", "1", "--steps", "3", "--guidance", "2", "--threshold")
    for sampler in ("ancestral", "ddim", "dpm++"):
        out = tmp_path / sampler
        succeed(
            "generate",
            "a red apple",
            *options,
            "--sampler",
            sampler,
            "--best-of",
            "2",
            "--out",
            out,
        )
        assert (out / "grid.png").is_file()


def test_progress_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with options.progress_bar("embedding", "img") as progress:
        for done in range(1, 5):
            progress(done, 4)
    assert "embedding" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "img/s" in terminal.getvalue()


def test_training_shows_kimg_seconds_a_kimg_time_left_and_memory(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    logged = {"loss": 0.5, "seconds_per_kimg": 40.0, "memory_gib": 1.25}
    steps = [Progress(1500, 2000, None), Progress(1750, 2000, logged), Progress(2000, 2000, None)]
    terminal, printed = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", printed)
    assert options.show_progress(iter(steps), "train-gan") == logged
    line = "     1.8 kimg  40.0 s/kimg  00:10 left  1.25 GiB  loss 0.5"
    assert printed.getvalue().splitlines() == [line]
    bar = terminal.getvalue().splitlines()[-1]
    assert all(text in bar for text in ("2.0/2.0 kimg", " left, ", "s/kimg", "1.25 GiB")), bar


# --- train-gan


def gan_data(gan_run: Path, some_pictures: Path) -> GanData:
    source, found = ImageSource(some_pictures), EmbeddingSet(gan_run / "embeddings")
    return load_gan_data(source, found, resolution=16, hold_out=True)


def test_run_folder_explains_itself(gan_run: Path, some_pictures: Path):
    record = read_json(gan_run / "config.json")
    assert record["kind"] == "gan"
    assert record["config"]["generator"]["resolution"] == 16
    assert record["config"]["pseudo_text_cosine"] == 0.95
    assert record["data"]["num_training"] == 48
    rows = read_json_lines(gan_run / "log.jsonl")
    assert [row["samples"] for row in rows] == [8, 16, 24, 32]
    names = ("loss_d", "loss_g", "training_frechet", "training_kernel", "training_cosine")
    more = (
        "training_precision",
        "training_manifold_recall",
        "real_same_frechet",
        "seconds_per_kimg",
        "memory_gib",
    )
    for name in (*names, *more):
        assert all(np.isfinite(row[name]) for row in rows), name
    asked = Asked.of(gan_data(gan_run, some_pictures))
    assert all(row["reference"] == asked.reference for row in rows)
    best = read_json(gan_run / "best" / "generator" / "config.json")["training"]
    assert best["reference"] == asked.reference
    assert best["training_frechet"] == min(row["training_frechet"] for row in rows)
    events = EventAccumulator(str(gan_run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [8, 16, 24, 32]
    for name in ("logit_real", "logit_fake", "w_norm", "condition_cosine"):
        found = events.Histograms(f"evaluation/{name}")[-1].histogram_value
        assert (found.num, found.min < found.max) == (48, True), name
    mean = found.sum / found.num
    assert mean == pytest.approx(rows[-1]["training_cosine"], rel=1e-3)
    kept = [p.name for p in sorted((gan_run / "checkpoints").iterdir())]
    assert kept == ["samples-0000000024", "samples-0000000032"]
    assert load_generator(gan_run / "generator", device=torch.device("cpu")).training == {
        "kimg": 0.032,
        "num_pictures": 48,
        "pseudo_text_cosine": 0.95,
        "hold_out": True,
        "background": "white",
        "resize": "lanczos",
        "crop": "centre",
    }
    assert half_written(gan_run) == []


def test_background_and_crop_are_those_asked_for(tmp_path: Path):
    """In what is trained on, in config.json, and in what is known of the generator."""
    folder, run = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()
    for number in range(6):
        clear = Image.new("RGBA", (32, 64), (0, 0, 0, 0))
        clear.paste((255, 40 * number, 0, 255), (8, 8, 24, 56))
        clear.save(folder / f"{number}.png")
    fields = ("pictures.background=black", "pictures.crop=pad", "hold_out=false")
    words = (word for field in fields for word in ("--set", field))
    succeed("train-gan", folder, "--out", run, *TINY_GAN, *words)
    expected = {"background": "black", "resize": "lanczos", "crop": "pad"}
    assert read_json(run / "config.json")["config"]["pictures"] == expected
    training = read_json(run / "generator" / "config.json")["training"]
    assert expected.items() <= training.items()
    with Image.open(run / "grids" / "samples-0000000032.png") as grid:
        first = np.asarray(grid.convert("RGB"))[:64, :64]
    assert (first[0] == 0).all()
    assert (first[32, [1, -1]] == 0).all()
    assert first[32, 32, 0] == 255


def test_grids_show_the_conditioning_pictures_above(gan_run: Path, some_pictures: Path):
    """Then three rows of samples, and the training pictures nearest to the first of them."""
    with Image.open(next((gan_run / "grids").glob("*.png"))) as grid:
        assert grid.size == (8 * 64 + 7 * 2, 5 * 64 + 4 * 2)
        tiles = [
            [np.asarray(grid)[66 * j + 2 : 66 * j + 64 : 4, 66 * i + 2 : 66 * i + 64 : 4]]
            for j in (0, 4)
            for i in range(8)
        ]
    names = EmbeddingSet(gan_run / "embeddings").names
    known = [to_square(decode(some_pictures / name).image, 16) for name in names]
    found = [[i for i, k in enumerate(known) if np.array_equal(tile, k)] for (tile,) in tiles]
    assert all(found)
    assert len({tuple(places) for places in found[:8]}) == 8  # drawn, each once


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pictures as a camera names them, three of them broken in different ways."""
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


def test_own_folder_with_three_broken_pictures(own_folder: Path, tmp_path: Path):
    outcome = succeed("train-gan", own_folder, "--out", tmp_path / "run", *TINY_GAN)
    assert "297 pictures embedded" in outcome.err
    assert "3 pictures left out" in outcome.err
    for name in ("IMG_0007.png: broken", "IMG_0123.png: not a picture", "IMG_0299.png: not a"):
        assert name in outcome.err
    record = read_json(tmp_path / "run" / "config.json")["data"]
    assert record["num_training"] + record["num_held_out"] == 297
    assert 30 <= record["num_held_out"] <= 70  # a sixth, by content
    last = read_json_lines(tmp_path / "run" / "log.jsonl")[-1]
    assert last["held_out_frechet"] > 0
    assert -1 <= last["held_out_cosine"] <= 1
    succeed("pack", "--gan", tmp_path / "run", "--out", tmp_path / "model")
    arguments = ("--model", tmp_path / "model", "--out", tmp_path / "out", "--num", "1")
    outcome = succeed("generate", "a red apple", *arguments)
    assert "has no prior: conditioning on the text embedding itself" in outcome.err
    assert "pack --prior" in outcome.err


def test_dry_run_prints_the_cost_and_writes_nothing(some_pictures: Path, tmp_path: Path):
    arguments = ("train-gan", some_pictures, "--out", tmp_path / "run", "--preset", "tiny")
    lines = succeed(*arguments, "--dry-run").out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "resolution",
        "parameters",
        "work",
        "pictures",
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


def test_prior_logs_held_out_metrics(tmp_path: Path, some_pictures: Path):
    """On captions of the held-out side, of which there are eight here."""
    pictures = Path(shutil.copytree(some_pictures, tmp_path / "pictures"))
    (pictures / "metadata.jsonl").unlink()
    words = ["".join(letters) for letters in itertools.product("abcdef", repeat=3)]
    held_out = [word for word in words if is_held_out(word)][:8]
    captions = held_out + [word for word in words if not is_held_out(word)][:40]
    for file, caption in zip(sorted(pictures.glob("*.png")), captions, strict=True):
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")
    outcome = succeed(
        *("train-prior", pictures, "--out", tmp_path / "run", *TINY_PRIOR, "--process", "baseline")
    )
    last = read_json_lines(tmp_path / "run" / "log.jsonl")[-1]
    names = ("held_out_cosine", "held_out_frechet", "text_itself_cosine", "text_itself_frechet")
    assert all(np.isfinite(last[name]) for name in names)
    assert "held_out_cosine" in outcome.out
    assert read_json_lines(tmp_path / "run" / "embeddings" / "report.jsonl") == []
    assert read_json(tmp_path / "run" / "config.json")["config"]["prior"]["process"] == "baseline"


def test_prior_dry_run_prints_the_cost_and_writes_nothing(
    some_embeddings: Path, some_pictures: Path, tmp_path: Path
):
    printed = [
        succeed("train-prior", data, "--out", tmp_path / "run", "--dry-run", *TINY_PRIOR).out
        for data in (some_embeddings, some_pictures)
    ]
    before = [text.partition("time ")[0] for text in printed]
    assert before[0] == before[1]
    assert "s/kimg on cpu" in printed[0]
    assert "48, by starter (128 dimensions)" in printed[0]
    assert list(tmp_path.iterdir()) == []


# --- pack, generate


def test_sentence_given_twice_is_made_once(model_folder: Path, tmp_path: Path):
    arguments = ("--model", model_folder, "--out", tmp_path / "out", "--num", "1")
    outcome = succeed("generate", "a cat", "a cat", *arguments)
    assert "1 pictures and grid.png" in outcome.out
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_pack_tells_the_next_command(model_folder: Path, gan_run: Path, tmp_path: Path):
    outcome = succeed("pack", "--gan", gan_run, "--out", tmp_path / "model")
    assert "generator without a prior" in outcome.out
    assert f'lafite-shifted generate "a red apple" --model {tmp_path / "model"}' in outcome.out
    assert sorted(p.name for p in model_folder.iterdir()) == ["README.md", "generator", "prior"]


def generate(model_folder: Path, out: Path, *arguments: str) -> dict[str, np.ndarray]:
    """The pictures that the command writes, by name, the grid left out."""
    outcome = succeed("generate", *arguments, "--model", model_folder, "--out", out)
    files = sorted(p for p in out.iterdir() if p.name != "grid.png")
    assert f"{len(files)} pictures and grid.png" in outcome.out
    assert half_written(out) == []
    found = {}
    for file in files:
        with Image.open(file) as picture:
            found[file.name] = np.asarray(picture).astype(int)
    return found


def test_generated_pictures_say_how_they_were_made(model_folder: Path, tmp_path: Path):
    texts = ("a red apple", "Ünïcode: cats & dogs/birds?")
    made = generate(model_folder, tmp_path / "out", *texts, "--num", "3", "--seed", "7")
    assert len(made) == 6
    assert {array.shape for array in made.values()} == {(16, 16, 3)}
    assert [name for name in made if name.startswith("a-red-apple-")] == [
        f"a-red-apple-{seed:04}.png" for seed in (7, 8, 9)
    ]
    seen = set()
    for name in made:
        with Image.open(tmp_path / "out" / name) as picture:
            seen.add((picture.text["prompt"], picture.text["seed"]))
            assert picture.text["model"] == model_hash(model_folder)
    assert seen == {(text, str(seed)) for text in texts for seed in (7, 8, 9)}
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width >= 3 * 96
        assert grid.text["model"] == model_hash(model_folder)


def test_seeds_are_counted_on_whatever_the_batch(model_folder: Path, tmp_path: Path):
    whole = generate(model_folder, tmp_path / "a", "a cat", "--num", "5", "--seed", "2")
    parts = generate(
        model_folder, tmp_path / "b", "a cat", "--num", "5", "--seed", "2", "--batch", "2"
    )
    alone = generate(model_folder, tmp_path / "c", "a cat", "--num", "1", "--seed", "5")
    assert whole.keys() == parts.keys()
    assert all(np.abs(whole[name] - parts[name]).max() <= 1 for name in whole)
    assert np.abs(whole["a-cat-0005.png"] - alone["a-cat-0005.png"]).max() <= 1


def test_no_prior_conditions_on_the_text(model_folder: Path, gan_run: Path, tmp_path: Path):
    succeed("pack", "--gan", gan_run, "--out", tmp_path / "bare")
    with_prior = generate(model_folder, tmp_path / "a", "a cat", "--num", "2")
    without = generate(model_folder, tmp_path / "b", "a cat", "--num", "2", "--no-prior")
    bare = generate(tmp_path / "bare", tmp_path / "c", "a cat", "--num", "2")
    for name in with_prior:
        assert np.array_equal(without[name], bare[name])
        assert not np.array_equal(without[name], with_prior[name])


@pytest.mark.parametrize(
    "flags", [("--steps", "2"), ("--guidance", "3"), ("--truncation", "0.2"), ("--seed", "9")]
)
def test_every_knob_of_generate_changes_something(
    flags: tuple[str, str], model_folder: Path, tmp_path: Path
):
    plain = generate(model_folder, tmp_path / "a", "a cat", "--num", "2")
    changed = generate(model_folder, tmp_path / "b", "a cat", "--num", "2", *flags)
    pairs = zip(plain.values(), changed.values(), strict=True)
    assert all(not np.array_equal(a, b) for a, b in pairs)


# --- train-clip, dataset

TINY_CLIP = (
    *("--kimg", "0.128", "--batch", "32", "--set", "model.image_size=32"),
    *("--set", "model.vision_layers=1,1,1,1", "--set", "model.vision_width=8"),
    *(
        "--set",
        "model.text_width=32",
        "--set",
        "model.text_heads=2",
        "--set",
        "model.text_layers=1",
    ),
)


def test_trained_clip_can_be_used(shipped_pictures: Path, some_pictures: Path, tmp_path: Path):
    arguments = ("train-clip", shipped_pictures, "--out", tmp_path / "run", *TINY_CLIP)
    outcome = succeed(*arguments)
    assert f"Use it with --clip {tmp_path / 'run' / 'clip'}" in outcome.out
    rows = read_json_lines(tmp_path / "run" / "log.jsonl")
    assert rows[-1]["samples"] == 128
    assert np.isfinite(rows[-1]["loss"])
    named = ("--clip", tmp_path / "run" / "clip")
    succeed("embed", some_pictures, "--out", tmp_path / "embeddings", *named)
    data = EmbeddingSet(tmp_path / "embeddings")
    assert data.image.shape == (48, 128)
    assert len(data.captions) == 48
    assert read_json_lines(tmp_path / "run" / "log.jsonl") == rows
    succeed(*arguments)  # finished: nothing more is trained
    assert read_json_lines(tmp_path / "run" / "log.jsonl") == rows


def test_clip_training_names_the_pictures_it_cannot_read(shipped_pictures: Path, tmp_path: Path):
    pictures = Path(shutil.copytree(shipped_pictures, tmp_path / "pictures"))
    victim = sorted(pictures.glob("*.png"))[5]
    victim.write_bytes(b"broken")
    outcome = succeed("train-clip", pictures, "--out", tmp_path / "run", *TINY_CLIP)
    assert victim.name in outcome.err
    assert read_json_lines(tmp_path / "run" / "report.jsonl") == [
        {
            "file_name": str(victim),
            "reason": "not a picture in a supported format (JPEG, PNG, WEBP, BMP, GIF)",
        }
    ]
    refused = run_command(
        "train-clip", pictures, "--out", tmp_path / "strict", "--max-bad", "0", *TINY_CLIP
    )
    assert (refused.code, victim.name in refused.err) == (3, True)


def test_dataset_verb_builds_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "_npm_package", emoji_package)
    outcome = succeed("dataset", "emoji", "--out", tmp_path / "emoji", "--size", "16")
    assert f"17 pictures in {tmp_path / 'emoji'}" in outcome.out
    assert "unreadable 1f400-1f3fb.webp" in outcome.err
    assert (tmp_path / "emoji" / "split.json").is_file()
    again = run_command("dataset", "emoji", "--out", tmp_path / "emoji", "--size", "16")
    assert (again.code, "is not empty" in again.err) == (2, True)


# --- native operators


def test_ops_are_shown_built_and_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAFITE_SHIFTED_CACHE", str(tmp_path / "cache"))
    shown = json.loads(succeed("ops", "status", "--device", "cpu", "--json").out)
    assert (shown["target"], shown["built"]) == ("cpu", False)
    built = json.loads(succeed("ops", "build", "--device", "cpu", "--json").out)
    assert built == shown | {"built": True}
    assert Path(built["library"]).is_file()
    assert "upfirdn2d.cpp" in Path(built["log"]).read_text(encoding="utf-8")
    assert "True" in succeed("ops", "status", "--device", "cpu").out
    assert json.loads(succeed("ops", "clean", "--json").out)["removed"] == 1
    assert not Path(built["library"]).exists()


@pytest.mark.parametrize("ops", ["compiled", "reference"])
def test_the_run_says_which_operators_it_used(ops: str, some_pictures: Path, tmp_path: Path):
    outcome = succeed(
        "train-gan", some_pictures, "--out", tmp_path / "run", "--ops", ops, *TINY_GAN
    )
    assert f"operators: {ops}" in outcome.err
    assert read_json(tmp_path / "run" / "config.json")["compute"]["ops"] == ops


# --- doctor


def test_doctor_has_a_line_for_each_thing():
    outcome = succeed("doctor")
    for name in (
        "Python",
        "torch",
        "CUDA",
        "GPU",
        "open_clip",
        "compiler",
        "nvcc",
        "operators",
        "shared memory",
        "disk",
    ):
        assert f" {name} " in outcome.out, name
    assert "operators" in outcome.out
    for line in outcome.out.splitlines():
        if line.startswith("missing"):
            assert "-> " in outcome.out[outcome.out.index(line) + len(line) :].splitlines()[1], line


def test_doctor_as_json():
    findings = json.loads(succeed("doctor", "--json").out)
    assert {finding["state"] for finding in findings} <= {"ok", "missing", "broken"}
    assert [finding["name"] for finding in findings][:2] == ["Python", "torch"]


def test_doctor_exits_1_when_nothing_can_run(monkeypatch: pytest.MonkeyPatch):
    broken = Finding("torch", "broken", "cannot be imported", "pip install torch")
    monkeypatch.setattr(diagnosis, "examine", lambda: [broken])
    outcome = run_command("doctor")
    assert outcome.code == 1
    assert "pip install torch" in outcome.out


def test_doctor_notices_a_folder_that_hides_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    outcome = run_command("doctor")
    assert outcome.code == 1
    assert f"{tmp_path / 'training'} hides lafite-shifted's training" in outcome.out


def test_doctor_works_without_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert "missing compiler" in succeed("doctor").out
