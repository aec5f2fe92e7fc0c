"""Where embeddings and squares are both made, each image is decoded once, with the same result."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from tests.commands import TINY_GAN, image_folder, succeed
from training.data.decoding import read_image as read_image_module
from training.data.decoding.decode import SquareConfig
from training.data.images import ImageSource
from training.data.ready_squares import ReadySquares, square_of
from training.gan.presets import GAN_PRESETS
from training.gan.run import gan_config, open_gan_run

WORDS = ("holiday", "garden", "door", "sea", "cats", "river", "stone", "cloud", "paper", "lamp")
WORDS += ("horse", "bread", "violin", "tiger", "clock", "apple", "train", "shoe", "bird", "chair")
NAMES = [f"{word}.png" for word in WORDS]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each image that is decoded."""
    found, plain = [], read_image_module.decode

    def counted(*arguments, **options):
        found.append(1)
        return plain(*arguments, **options)

    monkeypatch.setattr(read_image_module, "decode", counted)
    return found


def test_each_image_is_decoded_once(decoded: list[int], tmp_path: Path):
    folder = image_folder(tmp_path / "images", *NAMES)
    succeed("train-gan", folder, "--out", tmp_path / "run", *TINY_GAN)
    assert len(decoded) == len(NAMES)
    succeed("embed", folder, "--out", tmp_path / "b" / "embeddings")
    decoded.clear()
    succeed("train-gan", folder, "--out", tmp_path / "b", *TINY_GAN)
    assert 0 < len(decoded) <= len(NAMES)  # embedded already: for the squares alone


def test_squares_are_those_of_a_second_decoding(tmp_path: Path, clip: ClipEncoder):
    folder = image_folder(tmp_path / "images", *NAMES)
    config = gan_config(GAN_PRESETS["tiny"], resolution=16, assignments=["images.crop=pad"])
    trainer, run, _ = open_gan_run(
        config, folder, tmp_path / "run", clip, device=torch.device("cpu")
    )
    run.close()
    source, how = ImageSource(folder), SquareConfig(crop="pad")
    assert len(trainer.data.held_out_images) > 0
    for squares in (trainer.data.images, trainer.data.held_out_images):
        expected = [square_of(source.decode(name).image, 16, how) for name in squares.names]
        assert squares.get_batch(range(len(squares))).pixels.equal(torch.stack(expected))


def test_a_square_is_taken_once():
    ready = ReadySquares(4, SquareConfig())
    ready.add("a.png", Image.new("RGB", (8, 8)))
    assert ready.get_batch("b.png") is None
    assert ready.get_batch("a.png") is not None
    assert ready.get_batch("a.png") is None
