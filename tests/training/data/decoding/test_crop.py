"""How an image becomes a square."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from training.config import override
from training.data.decoding.crop import SquareConfig, to_square
from training.gan.config import GanTrainConfig


def test_square_is_the_centre(tmp_path: Path):
    image = Image.new("RGB", (300, 100), "red")
    image.paste((0, 0, 255), (100, 0, 200, 100))
    square = to_square(image, 50)
    assert square.shape == (50, 50, 3)
    assert square.dtype == np.uint8
    assert np.array_equal(square[:, 3:-3], np.full((50, 44, 3), (0, 0, 255)))


WIDE = Image.new("RGB", (300, 100), "red")
WIDE.paste((0, 0, 255), (100, 0, 200, 100))


def test_squares_of_a_wide_image():
    """Blue in the middle: all of the centre, a third of what is stretched or padded."""
    stretched = to_square(WIDE, 60, SquareConfig(crop="stretch", resize="box"))
    assert np.array_equal(stretched[30, :, 2], [0] * 20 + [255] * 20 + [0] * 20)
    padded = to_square(WIDE, 60, SquareConfig(crop="pad", background="lime", resize="box"))
    assert np.array_equal(padded[0], np.full((60, 3), (0, 255, 0)))
    assert np.array_equal(padded[30], stretched[30])
    assert np.array_equal(padded[:, 0, 1], [255] * 20 + [0] * 20 + [255] * 20)


def test_box_is_the_mean_over_an_area():
    """And the others are not: they look further, and overshoot."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    levels = np.asarray(image).astype(float).reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    found = {
        name: to_square(image, 8, override(SquareConfig(), [f"resize={name}"])).astype(float)
        for name in ("box", "bicubic", "lanczos")
    }
    assert np.abs(found["box"] - levels).max() <= 1
    assert np.abs(found["bicubic"] - levels).max() > 2
    assert np.abs(found["bicubic"] - found["lanczos"]).max() > 2


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("background=chartreux", "chartreux"),
        ("background=#ffffff00", "transparent itself"),
        ("resize=nearest", "'lanczos', 'bicubic' or 'box'"),
        ("crop=middle", "'centre', 'stretch' or 'pad'"),
    ],
)
def test_unknown_ways_to_a_square_are_refused(field: str, reason: str):
    with pytest.raises(InputError, match=reason):
        override(GanTrainConfig(), [f"images.{field}"])
