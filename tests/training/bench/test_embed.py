"""The benchmark of `embed`, and that its memory stays flat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.commands import run_command, succeed
from training.bench.embed import untrained_clip

FEW, MANY = 200, 1200


def test_both_are_timed_and_nothing_is_left(some_images: Path, tmp_path: Path):
    before = sorted(some_images.iterdir())
    command = ("bench", "embed", some_images, "--rounds", "1", "--batch-size", "20", "--json")
    found = json.loads(succeed(*command).out)["results"]
    assert (found["images"], found["batch"]) == (48, 20)
    share = found["images_a_second"] / found["tower_images_a_second"]
    assert found["share_of_tower"] == pytest.approx(share)
    assert min(found["tower_cpu_ms_an_image"], found["cpu_ms_an_image"]) > 0
    assert sorted(some_images.iterdir()) == before


def test_another_architecture_is_refused(some_images: Path):
    outcome = run_command("bench", "embed", some_images, "--architecture", "ViT-Z")
    assert outcome.code == 2
    assert "--architecture ViT-Z" in outcome.err


@pytest.mark.slow
def test_an_architecture_has_random_weights():
    clip = untrained_clip("ViT-B-32", device=torch.device("cpu"))
    assert (clip.id.dim, clip.input_size) == (512, (224, 224))


EMBED = """
import resource, sys
from pathlib import Path
from lafite_shifted.encoders.clip import ClipEncoder
from training.data.embeddings.embed import embed_folder
from training.data.images import ImageSource
folder, out, clip = map(Path, sys.argv[1:])
embed_folder(ImageSource(folder), out, ClipEncoder.load(str(clip)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_stays_flat(tmp_path: Path, small_clip_folder: Path):
    """Six times the images take what their rows of the index do, not more: 2 kB each."""
    peaks = []
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(
                folder / f"{number:06d}.png"
            )
        done = subprocess.run(
            [sys.executable, "-c", EMBED, folder, tmp_path / f"out{count}", small_clip_folder],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < (MANY - FEW) * 8192
