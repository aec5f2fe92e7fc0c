"""Grids have a largest size, and labels that can be read in any script."""

import numpy as np
import pytest
from PIL import Image

from training.metrics import grids, labels
from training.metrics.grids import image_grid, labelled_grid
from training.metrics.labels import label_of


def images(count: int, side: int = 16) -> list[Image.Image]:
    return [Image.new("RGB", (side, side), (9 * n % 256, 99, 9)) for n in range(count)]


def drawn(text: str, *, width: int = 400) -> np.ndarray:
    canvas = Image.new("RGB", (width, 80), "white")
    label_of(text, width=width).draw(canvas, (0, 0))
    return np.asarray(canvas)


@pytest.mark.parametrize(
    "text", ["a cat", "красная кошка", "γάτα", "a̷̛ c̈at", "قطة حمراء", "a cat\nand a dog"]
)
def test_letters_that_a_font_has_are_rendered(text: str):
    label = label_of(text, width=400)
    assert label.complete
    assert "[" not in "".join(label.lines)
    assert drawn(text).min() < 128


def test_letters_that_no_font_has_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    """By their numbers: a box says nothing."""
    monkeypatch.setattr(labels, "_fonts", lambda: own_font())
    label = label_of("a 红 cat", width=400)
    assert label.lines == ("a [7EA2] cat",)
    assert not label.complete
    assert not np.array_equal(drawn("红色的猫"), drawn("蓝色之狗"))
    grid = labelled_grid([("红色的猫", images(2)), ("a cat", images(2))])
    assert grid.legend == ["1: 红色的猫"]


def test_the_own_font_is_matplotlibs():
    from matplotlib import font_manager

    assert labels._own_font() == font_manager.findfont("DejaVu Sans")


def own_font() -> tuple[str, ...]:
    return (labels._own_font(),)


def test_the_font_with_all_letters_is_chosen(monkeypatch: pytest.MonkeyPatch):
    own = own_font()[0]
    monkeypatch.setattr(labels, "_fonts", lambda: ("few", own))
    found = labels._letters
    monkeypatch.setattr(labels, "_letters", lambda path: found(own) if path == own else frozenset())
    assert label_of("a cat", width=400).complete


@pytest.mark.filterwarnings("error")
def test_without_raqm_no_script_is_set_backwards(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels.features, "check", lambda _name: False)
    assert not label_of("قطة", width=400).complete


def test_long_labels_are_wrapped_and_cut():
    short, long = label_of("a cat " * 20, width=400), label_of("x" * 10_000, width=400)
    assert short.complete
    assert 1 < len(short.lines) <= 3
    assert len(long.lines) == 3
    assert long.lines[-1].endswith("...")
    for line in (*short.lines, *long.lines):
        assert short.font.getlength(line) <= 420


def test_a_label_hides_no_image():
    grid = np.asarray(labelled_grid([("a cat " * 60, images(4)), ("b", images(4))]).image)
    red = (grid == np.array([0, 99, 9])).all(axis=2)
    assert red.sum() == 2 * 16 * 16


def test_a_grid_has_a_largest_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grids, "MAX_SIDE", 512)
    monkeypatch.setattr(grids, "MAX_PIXELS", 512 * 400)
    for count, columns, side, scale in ((4, 4, 512, 1), (400, 20, 64, 1), (900, 900, 16, 6)):
        grid = image_grid(images(count, side), columns=columns, scale=scale)
        assert max(grid.size) <= 512
        assert grid.width * grid.height <= 512 * 400
    labelled = labelled_grid([(f"row {n}", images(3, 64)) for n in range(100)])
    assert max(labelled.image.size) <= 512
    assert labelled.legend[-1].endswith("to 100: not shown, the grid has its largest size")
    assert max(labelled_grid([("many", images(300, 64))]).image.size) <= 512


def test_an_ordinary_grid_is_as_it_was():
    grid = image_grid(images(6), columns=3, scale=2)
    assert grid.size == (3 * 34 - 2, 2 * 34 - 2)
    assert grid.getpixel((0, 0)) == (0, 99, 9)
    assert grid.getpixel((99, 65)) == (45, 99, 9)
