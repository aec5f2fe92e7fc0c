"""The weights that ship: their size, and that they draw."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted import TextToImage
from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.io.files import load_tensors, read_json
from lafite_shifted.io.starter import starter_folder
from tests.commands import TINY_GAN, succeed

MOST_BYTES = 60e6


def test_weights_are_small_and_finite():
    files = sorted(starter_folder().rglob("*.safetensors"))
    parts = {file.parent.name for file in files}
    assert parts == {"clip", "generator", "prior", "discriminator"}
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    for file in files:
        tensors, _ = load_tensors(file) if file.parent.name != "clip" else ({}, {})
        for name, tensor in tensors.items():
            assert tensor.isfinite().all(), name
            small = tensor.ndim < 2 or file.name == "stats.safetensors"
            assert small or tensor.dtype == torch.float16, (file, name)


def test_its_parts_are_of_the_clip_beside_them(clip):
    for part in ("generator", "prior"):
        record = read_json(starter_folder() / part / "config.json")
        (block,) = EncoderId.from_json(record["encoder"]).blocks
        assert (block.model, block.pinned) == ("starter", clip.id.blocks[0].pinned)


@pytest.mark.parametrize(("sentence", "channel"), [("a red heart", 0), ("a green leaf", 1)])
def test_sentences_have_their_colours(tmp_path: Path, sentence: str, channel: int):
    """Of what is drawn in the middle, with the command's own settings and seeds."""
    succeed("generate", sentence, "--out", tmp_path)
    files = [file for file in tmp_path.glob("*.png") if file.name != "grid.png"]
    assert len(files) == 4
    middles = []
    for file in files:
        with Image.open(file) as image:
            assert image.size == (64, 64)
            middles.append(np.asarray(image.convert("RGB"), float)[20:44, 20:44].mean(axis=(0, 1)))
    assert np.mean(middles, axis=0).argmax() == channel, middles


def test_drawings_are_clean_on_white():
    """Corners are paper, the middle is not, and seeds differ."""
    model = TextToImage.from_pretrained("starter")
    images = [np.asarray(image, float) for image in model("a dog", num_images=4)]
    for image in images:
        assert image[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 220
        assert image[16:48, 16:48].mean() < 230
    assert np.abs(images[0] - images[1]).mean() > 2


def test_a_training_begins_with_all_of_it(tmp_path: Path, some_images: Path):
    batch = TINY_GAN[TINY_GAN.index("--batch-size") : TINY_GAN.index("--batch-size") + 4]
    outcome = succeed(
        "train-gan", some_images, "--init", "starter", "--out", tmp_path / "run", *batch
    )
    kept = [line for line in (outcome.err + outcome.out).splitlines() if "from starter" in line]
    assert len(kept) == 3  # generator, discriminator, heads
    assert not any("new" in line for line in kept)
