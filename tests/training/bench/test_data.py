"""The benchmark of reading images: it looks at every stage of every image, on one core."""

import json
from pathlib import Path

import pytest
import torch

from lafite_shifted.encoders.clip import ClipEncoder
from tests.commands import run_command, succeed
from training.bench.data import STAGES, MeasuredData, bench_data
from training.data.images import ImageSource


def test_every_stage_is_timed(shipped_images: Path, clip: ClipEncoder):
    threads = torch.get_num_threads()
    found = bench_data(ImageSource(shipped_images), clip, resolution=32, images=40)
    assert found.images == 32  # whole batches
    assert set(found.milliseconds) == {stage for stages in STAGES.values() for stage in stages}
    assert all(value > 0 for value in found.milliseconds.values())
    assert found.megapixels == pytest.approx(64 * 64 / 1e6)
    files = sorted(shipped_images.glob("*.png"))[:32]
    assert found.kilobytes == pytest.approx(sum(f.stat().st_size for f in files) / 32e3)
    assert found.clip_gmac > 0.01
    assert torch.get_num_threads() == threads


def test_rates_are_those_of_the_stages_in_turn():
    spent = {"read": 1.0, "decode": 2.0, "prepare": 3.0, "embed": 4.0, "square": 5.0}
    found = MeasuredData(32, 1.0, 1.0, spent, 1.0)
    assert found.images_a_second("embedding") == pytest.approx(100)
    assert found.images_a_second("training") == pytest.approx(125)


def test_it_prints_and_refuses(shipped_images: Path, some_images: Path, tmp_path: Path):
    command = ("bench", "data", shipped_images, "--count", "32")
    assert "images a second and core (read + decode + square)" in succeed(*command).out
    assert json.loads(succeed(*command, "--json").out)["results"]["images"] == 32
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(some_images.glob("*.png"))[:3]:
        (few / path.name).write_bytes(path.read_bytes())
    outcome = run_command("bench", "data", few)
    assert outcome.code == 2
    assert "3 images, and 32 are needed" in outcome.err
