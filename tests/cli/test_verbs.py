"""Every verb does what its help says, through the real command."""

import io
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lafite_shifted import __version__
from lafite_shifted.cli.main import VERBS
from lafite_shifted.cli.progress import progress_bar, show_progress
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import read_json, read_json_lines
from ops_cuda import targets
from tests.commands import TINY_GAN, TINY_PRIOR, run_command, succeed
from tests.training.data.packages import emoji_package
from training.data import datasets
from training.data.embeddings.embedding_set import EmbeddingSet
from training.loop import Progress

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


def test_embed_writes_shards_index_and_report(some_embeddings: Path, some_images: Path):
    names = sorted(p.name for p in some_embeddings.iterdir())
    assert names == ["index.jsonl", "report.jsonl", "shard-00000.safetensors"]
    data = EmbeddingSet(some_embeddings)
    assert list(data.names) == sorted(p.name for p in some_images.glob("*.png"))
    assert len(data.captions) == 48


def test_stats_describe_the_cone(some_embeddings: Path, tmp_path: Path):
    outcome = succeed("stats", some_embeddings, "--json", "--out", tmp_path / "s.safetensors")
    found = json.loads(outcome.out)
    image = EmbeddingSet(some_embeddings).image[:].double().numpy()
    cosines = image @ image.T
    spectrum = np.linalg.eigvalsh(np.cov(image.T)).clip(0)
    share = spectrum[spectrum > 0] / spectrum.sum()
    assert (found["count"], found["dim"]) == (48, 256)
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
    assert lines[0].split() == ["embeddings", "48", "of", "256", "dimensions,", "by", "starter"]
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
    options = (
        "--model",
        model,
        "--num-images",
        "1",
        "--steps",
        "3",
        "--guidance",
        "2",
        "--dynamic-threshold",
    )
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
    with progress_bar("embedding", "img") as progress:
        for done in range(1, 5):
            progress(done, 4)
    assert "embedding" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "img/s" in terminal.getvalue()


def test_training_shows_kimg_seconds_a_kimg_time_left_and_memory(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    logged = {"loss": 0.5, "seconds_per_kimg": 40.0, "peak_mem_gib": 1.25}
    steps = [Progress(1500, 2000, None), Progress(1750, 2000, logged), Progress(2000, 2000, None)]
    terminal, printed = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", printed)
    assert show_progress(iter(steps), "train-gan") == logged
    line = "     1.8 kimg  40.0 s/kimg  00:10 left  1.25 GiB  loss 0.5"
    assert printed.getvalue().splitlines() == [line]
    bar = terminal.getvalue().splitlines()[-1]
    assert all(text in bar for text in ("2.0/2.0 kimg", " left, ", "s/kimg", "1.25 GiB")), bar


# --- train-clip, dataset


TINY_CLIP = (
    *("--kimg", "0.128", "--batch-size", "32", "--set", "model.image_size=32"),
    *("--set", "model.resnet_layers=1,1,1,1", "--set", "model.resnet_width=8"),
    *(
        "--set",
        "model.text_width=32",
        "--set",
        "model.text_heads=2",
        "--set",
        "model.text_layers=1",
    ),
)


def test_trained_clip_can_be_used(shipped_images: Path, some_images: Path, tmp_path: Path):
    arguments = ("train-clip", shipped_images, "--out", tmp_path / "run", *TINY_CLIP)
    outcome = succeed(*arguments)
    assert f"Use it with --clip {tmp_path / 'run' / 'clip'}" in outcome.out
    rows = read_json_lines(tmp_path / "run" / "log.jsonl")
    assert rows[-1]["samples"] == 128
    assert np.isfinite(rows[-1]["loss"])
    named = ("--clip", tmp_path / "run" / "clip")
    succeed("embed", some_images, "--out", tmp_path / "embeddings", *named)
    data = EmbeddingSet(tmp_path / "embeddings")
    assert data.image.shape == (48, 128)
    assert len(data.captions) == 48
    assert read_json_lines(tmp_path / "run" / "log.jsonl") == rows
    succeed(*arguments)  # finished: nothing more is trained
    assert read_json_lines(tmp_path / "run" / "log.jsonl") == rows


def test_clip_training_names_the_images_it_cannot_read(shipped_images: Path, tmp_path: Path):
    images = Path(shutil.copytree(shipped_images, tmp_path / "images"))
    victim = sorted(images.glob("*.png"))[5]
    victim.write_bytes(b"broken")
    outcome = succeed("train-clip", images, "--out", tmp_path / "run", *TINY_CLIP)
    assert victim.name in outcome.err
    assert read_json_lines(tmp_path / "run" / "report.jsonl") == [
        {
            "file_name": str(victim),
            "reason": "not an image in a supported format (JPEG, PNG, WEBP, BMP, GIF)",
        }
    ]
    refused = run_command(
        "train-clip", images, "--out", tmp_path / "strict", "--max-bad", "0", *TINY_CLIP
    )
    assert (refused.code, victim.name in refused.err) == (3, True)


def test_dataset_verb_builds_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "_npm_package", emoji_package)
    outcome = succeed("dataset", "emoji", "--out", tmp_path / "emoji", "--size", "16")
    assert f"17 images in {tmp_path / 'emoji'}" in outcome.out
    assert "unreadable 1f400-1f3fb.webp" in outcome.err
    assert (tmp_path / "emoji" / "split.json").is_file()
    again = run_command("dataset", "emoji", "--out", tmp_path / "emoji", "--size", "16")
    assert (again.code, "is not empty" in again.err) == (2, True)


# --- native operators


def test_ops_are_shown_built_and_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = targets.cpu_target()
    flags = tuple("-O0" if flag == "-O3" else flag for flag in real.compile_flags)  # is quicker
    monkeypatch.setattr(targets, "cpu_target", lambda: replace(real, compile_flags=flags))
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
def test_the_run_says_which_operators_it_used(ops: str, some_images: Path, tmp_path: Path):
    outcome = succeed("train-gan", some_images, "--out", tmp_path / "run", "--ops", ops, *TINY_GAN)
    assert f"operators: {ops}" in outcome.err
    assert read_json(tmp_path / "run" / "config.json")["compute"]["ops"] == ops
