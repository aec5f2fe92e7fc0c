"""The demo from random weights, shortened to seconds: the whole chain, its images, its table."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import Outcome, half_written, succeed
from tests.real_images import some_of
from training.tools import demo, demo_from_scratch

SHORT = demo_from_scratch.ScratchConfig(gan_kimg=0.064, prior_kimg=0.128, num_captions=48)
IMAGES = 128


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Some of the images, and a few steps."""
    assets = tmp_path_factory.mktemp("assets")
    (assets / "images").mkdir()
    some_of(demo.ASSETS / "images", assets / "images", count=IMAGES)
    (assets / "reference").symlink_to(demo.ASSETS / "reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_from_scratch, "ASSETS", assets)
        patch.setattr(demo_from_scratch, "ScratchConfig", lambda seed: SHORT)
        yield


@pytest.fixture(scope="module")
def outcome(shortened: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """What `demo` printed, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return succeed("demo", "--from-scratch", "--out", out), out


def test_512_images_are_shipped():
    assert len(list((demo.ASSETS / "images").glob("*.png"))) == 512


def test_table_compares_both_priors_with_none(outcome: tuple[Outcome, Path]):
    printed, out = outcome
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics) == ["shifted", "baseline", "no prior", "real against real"]
    for name in ("shifted", "baseline", "no prior"):
        assert metrics[name]["fd_clip"] > metrics["real against real"]["fd_clip"] > 0
        line = next(line for line in printed.out.splitlines() if line.startswith(name))
        assert f"{metrics[name]['fd_clip']:.4f}" in line
    # the CLIP that conditions is no judge of whether an image follows its sentence
    table = printed.out[printed.out.index("Frechet distance: between") :]
    assert "recall" not in table + json.dumps(metrics)
    floor = metrics["real against real"]["fd_clip"]
    assert f"{floor:.4f}" in printed.out


def test_grid_holds_every_sentence_with_and_without_prior(outcome: tuple[Outcome, Path]):
    printed, out = outcome
    assert len(demo.SENTENCES) == 8
    assert demo_from_scratch.SEEDS_PER_SENTENCE == 16
    with Image.open(out / "grid.png") as grid:
        assert grid.width >= 16 * 64
        assert grid.height >= 16 * 64
        assert len(grid.text["model"]) == 16
    assert str(out / "grid.png") in printed.out


def test_models_are_packed_and_made_again(outcome: tuple[Outcome, Path], tmp_path: Path):
    _, out = outcome
    for process in ("shifted", "baseline"):
        model = out / f"model-{process}"
        config = json.loads((model / "prior" / "config.json").read_text(encoding="utf-8"))
        assert config["config"]["process"] == process
    arguments = ("--model", out / "model-shifted", "--out", tmp_path / "out", "--num-images", "1")
    succeed("generate", demo.SENTENCES[0], *arguments)
    assert half_written(out) == []


def test_what_to_do_next_is_told(outcome: tuple[Outcome, Path]):
    printed, _ = outcome
    for verb in ("train-gan", "pack", "generate"):
        assert f"    lafite-shifted {verb} " in printed.out
    assert "coloured shapes" in printed.out


def test_same_command_again_trains_no_more(outcome: tuple[Outcome, Path]):
    _, out = outcome
    logs = {p: p.read_bytes() for p in out.glob("*/log.jsonl")}
    metrics = (out / "metrics.json").read_bytes()
    assert len(logs) == 3
    again = succeed("demo", "--from-scratch", "--out", out)
    assert f"0 embedded, {IMAGES} reused" in again.out
    assert {p: p.read_bytes() for p in out.glob("*/log.jsonl")} == logs
    assert (out / "metrics.json").read_bytes() == metrics
