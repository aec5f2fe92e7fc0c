"""The demo, shortened to seconds, with a tiny model in the place of the one that ships."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.io.files import load_tensors, read_json, read_json_lines
from lafite_shifted.model_folder import model_hash
from tests.commands import Outcome, half_written, run_command, succeed
from tests.real_images import some_of
from training.metrics import resnet
from training.tools import demo

SHORT = demo.DemoConfig(adapt_kimg=0.016, settings=("batch=8", "pixel_matching_weight=10"))
DRAWINGS = 128


@pytest.fixture(scope="module")
def shortened(starter_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`starter` is the tiny model, the adaptation two steps on some of the drawings, and no judge
    is installed.
    """
    assets = tmp_path_factory.mktemp("assets")
    (assets / "style").mkdir()
    some_of(demo.ASSETS / "style", assets / "style", count=DRAWINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "ASSETS", assets)
        patch.setattr("lafite_shifted.io.starter.starter_folder", lambda: starter_files)
        patch.setattr(demo, "DemoConfig", lambda seed: SHORT)
        patch.setattr(resnet, "PACKAGES", ("no_such_package",))
        yield


@pytest.fixture(scope="module")
def outcome(shortened: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """What `demo` printed, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return succeed("demo", "--out", out), out


def test_the_style_is_of_512_drawings():
    assert len(list((demo.ASSETS / "style").glob("*.png"))) == 512


def test_the_starter_is_adapted_with_all_that_it_has(
    outcome: tuple[Outcome, Path], starter_files: Path
):
    printed, out = outcome
    record = read_json(out / "adapted" / "config.json")
    assert record["init"]["path"] == "starter"
    assert record["data"] == record["data"] | {"num_training": DRAWINGS, "num_held_out": 0}
    assert record["config"]["caption_share"] == 0
    assert (
        "train-gan DRAWINGS --out runs/mine --init starter --set batch=8 --set pixel" in printed.out
    )
    assert (record["config"]["batch"], record["config"]["pixel_matching_weight"]) == (8, 10)
    assert "heads from starter: " in printed.out
    assert "new: " not in printed.out
    assert read_json_lines(out / "adapted" / "log.jsonl")[-1]["samples"] == 16
    model, prior = out / "model", starter_files / "prior"
    kept = load_tensors(model / "prior" / "weights.safetensors")[0]
    exact = load_tensors(prior / "weights.safetensors")[0]
    assert all(kept[name].equal(exact[name]) for name in exact)
    assert half_written(out) == []


def test_the_table_tells_before_after_and_the_floor(outcome: tuple[Outcome, Path]):
    printed, out = outcome
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics) == ["starter", "adapted", "real against real"]
    assert metrics["starter"]["kid_judge"] != metrics["adapted"]["kid_judge"]
    assert metrics["starter"]["kid_judge"] > 10 * abs(metrics["real against real"]["kid_judge"])
    for name, values in metrics.items():
        line = next(line for line in printed.out.splitlines() if line.startswith(f"{name}  "))
        assert line.split()[-1] == f"{values['kid_judge']:.4f}"
    assert "warning: The image judge needs no-such-package" in printed.out
    assert "by CLIP, of images" in printed.out


def test_grids_show_every_sentence_before_and_after(outcome: tuple[Outcome, Path]):
    printed, out = outcome
    assert len(demo.SENTENCES) == 8
    with Image.open(out / "grid.png") as grid, Image.open(out / "starter.png") as first:
        assert grid.width == 12 * 66 - 2 + 8  # 3 times 4 images of 64 pixels, gaps and margins
        assert grid.height >= 8 * 66
        assert grid.text["model"] == model_hash(out / "model")
        assert grid.text["model"] != first.text["model"]
        assert first.height >= 8 * 66
    assert str(out / "grid.png") in printed.out


def test_what_to_do_next_is_told_and_works(outcome: tuple[Outcome, Path], tmp_path: Path):
    printed, out = outcome
    for verb in ("train-gan", "pack", "generate"):
        assert f"    lafite-shifted {verb} " in printed.out
    command = ("generate", "a smiling cat", "--model", out / "model", "--out", tmp_path / "out")
    assert "4 images" in succeed(*command).out


def test_the_same_command_again_trains_no_more(outcome: tuple[Outcome, Path]):
    _, out = outcome
    names = ("adapted/log.jsonl", "metrics.json", "grid.png")
    before = [(out / name).read_bytes() for name in names]
    again = succeed("demo", "--out", out)
    assert f"0 images embedded, {DRAWINGS} reused" in again.out
    assert [(out / name).read_bytes() for name in names] == before


def test_it_goes_on_without_a_frozen_network_that_is_not_installed(
    outcome: tuple[Outcome, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starter_files: Path,
):
    embeddings = tmp_path / "out" / "adapted" / "embeddings"
    shutil.copytree(outcome[1] / "adapted" / "embeddings", embeddings)
    model = Path(shutil.copytree(starter_files, tmp_path / "starter", symlinks=True))
    path = model / "discriminator" / "config.json"
    record = read_json(path)
    record["feature_config"] |= {"backbone": "resnet18", "resolution": None}
    path.write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr("lafite_shifted.io.starter.starter_folder", lambda: model)
    printed = succeed("demo", "--out", tmp_path / "out")
    assert "warning: features.backbone=resnet18 needs a file" in printed.out
    config = read_json(tmp_path / "out" / "adapted" / "config.json")["config"]
    assert config["features"]["backbone"] is None


def test_nothing_is_written_where_the_starter_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lafite_shifted.io.starter.starter_folder", lambda: tmp_path / "none")
    refused = run_command("demo", "--out", tmp_path / "out")
    assert (refused.code, refused.out) == (2, "")
    assert "demo --from-scratch" in refused.err
    assert not (tmp_path / "out").exists()
