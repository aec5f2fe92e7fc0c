"""Frames as WebP, GIF and MP4."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from lafite_shifted.io.animation import check_own_animation, save_animation
from tests.commands import half_written

COLOURS = ["red", "lime", "blue", "white", "black", "yellow"]


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), colour) for colour in COLOURS]


def shown(path: Path) -> list[np.ndarray]:
    """The middle of each frame."""
    if path.suffix == ".mp4":
        av = pytest.importorskip("av")
        with av.open(path) as container:
            return [f.to_ndarray(format="rgb24")[128, 128] for f in container.decode(video=0)]
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(np.asarray(image.convert("RGB"))[128, 128])
        return found


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_every_frame_is_shown_in_order(kind: str, tmp_path: Path):
    if kind == "mp4":
        pytest.importorskip("av")
    path = tmp_path / f"a.{kind}"
    for _ in range(2):  # over its own
        assert save_animation(path, iter(frames()), {"stops": "猫"}, fps=10) == len(COLOURS)
    expected = [np.asarray(frame)[8, 8].astype(int) for frame in frames()]
    found = shown(path)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a.astype(int) - b).max() < 12
    if kind != "mp4":
        with Image.open(path) as image:
            assert image.size == (256, 256)
            assert image.info["loop"] == 0
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_an_animation_of_another_program_stays(kind: str, tmp_path: Path):
    if kind == "mp4":
        pytest.importorskip("av")
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"mine")
    for check in (check_own_animation, lambda p: save_animation(p, frames(), {}, fps=10)):
        with pytest.raises(InputError, match="was not written by lafite-shifted"):
            check(path)
    assert path.read_bytes() == b"mine"


def test_mp4_names_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'lafite-shifted\[video\]'"):
        check_own_animation(tmp_path / "a.mp4")


def test_frames_that_fail_leave_nothing(tmp_path: Path):
    def failing():
        yield from frames()[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_animation(tmp_path / "a.webp", failing(), {}, fps=10)
    assert list(tmp_path.iterdir()) == []
