"""What a user gets of the training verbs: dry runs, warnings, the best model."""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import TINY_GAN, TINY_PRIOR, run_command, succeed


@pytest.mark.parametrize(
    "flags", [("prior.v_parameterisation=true",), ("prior.process=clusters",), ()]
)
@pytest.mark.parametrize("process", ["shifted", "baseline"])
def test_a_dry_run_of_a_prior_asks_for_nothing_that_is_there(
    some_embeddings: Path, tmp_path: Path, flags: tuple[str, ...], process: str
):
    """Its probe computes on made-up embeddings: what those lack is no business of the user's."""
    settings = [word for flag in flags for word in ("--set", flag)]
    command = ("train-prior", some_embeddings, "--out", tmp_path / "run", "--dry-run")
    outcome = succeed(*command, "--process", process, *TINY_PRIOR, *settings)
    assert "parameters" in outcome.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("captioned", [True, False])
def test_a_dry_run_of_a_gan_looks_for_captions_where_they_are(
    some_images: Path, tmp_path: Path, captioned: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("training.gan.run.measure_gan", _quick)
    folder = Path(shutil.copytree(some_images, tmp_path / "images"))
    if not captioned:
        (folder / "metadata.jsonl").unlink()
    command = ("train-gan", folder, "--out", tmp_path / "run", "--preset", "tiny", "--dry-run")
    outcome = run_command(*command, "--set", "caption_share=0.5", "--resolution", "16")
    if captioned:
        assert outcome.code == 0, outcome.err
    else:
        assert outcome.code == 2
        assert "no training image has a caption" in outcome.err


def _quick(*arguments, **options):
    from training.gan.cost import measure_gan

    return measure_gan(*arguments, **options, probe_seconds=0.01)


def test_few_images_are_said_to_be_too_few_for_a_frechet_distance(
    gan_run: Path, some_images: Path, some_embeddings: Path, tmp_path: Path
):
    """48 images in the starter's 256 dimensions; the best model is chosen by the kernel distance,
    which their number does not bias.
    """
    told = "48 embeddings in 256 dimensions, too few for a covariance"
    run = Path(shutil.copytree(gan_run, tmp_path / "run"))
    assert told in succeed("train-gan", some_images, "--out", run, *TINY_GAN).err
    command = ("evaluate", "gan", run, some_images, "--embeddings", some_embeddings)
    assert told in succeed(*command, "--out", tmp_path / "report").out
    record = json.loads((run / "best" / "generator" / "config.json").read_text())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = [row["training_kid_clip"] for row in rows if "training_kid_clip" in row]
    assert record["training"]["training_kid_clip"] == min(found)


def test_a_series_is_held_out_in_part(tmp_path: Path, shipped_images: Path):
    """Photographs as a camera or a photographer names them: one name, a number each."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, path in enumerate(sorted(shipped_images.glob("*.png"))[:72]):
        shutil.copy(path, photographs / f"wedding-{number:04}.png")
    said = succeed("embed", photographs, "--out", tmp_path / "embeddings").err
    assert "none of them is held out" not in said
    run = tmp_path / "run"
    run.mkdir()
    shutil.move(tmp_path / "embeddings", run / "embeddings")
    succeed("train-gan", photographs, "--out", run, *TINY_GAN)
    told = json.loads((run / "generator" / "config.json").read_text(encoding="utf-8"))["training"]
    assert told["hold_out"]
    assert 72 * 3 // 4 < told["num_images"] < 72
