"""The images that ship: which drawings they are, and their palette."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json_lines, write_json, write_json_lines
from tests.commands import half_written
from training.data import sample
from training.data.datasets import build_dataset
from training.data.images import ImageSource
from training.data.sample import build_sample
from training.data.split import is_held_out, split_key


@pytest.mark.usefixtures("npm")
def test_sample_has_no_held_out_image_and_no_skin_tone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sample, "SAMPLE_SIZE", 5)
    build_sample(tmp_path / "sample")
    parts = [
        read_json_lines(tmp_path / "sample" / part / "metadata.jsonl")
        for part in ("images", "reference", "style")
    ]
    assert [len(part) for part in parts] == [5, 5, 5]
    names = [row["file_name"] for part in parts for row in part]
    assert len(set(names)) == 15
    for row in itertools.chain(*parts):
        assert "skin tone" not in row["text"]
        assert not is_held_out(row["text"])
    assert ImageSource(tmp_path / "sample" / "images").names == sorted(names[:5])
    assert ImageSource(tmp_path / "sample" / "style").names == sorted(names[10:])
    assert {row["style"] for row in parts[2]} == {"twemoji"}
    assert half_written(tmp_path) == []


@pytest.mark.usefixtures("npm")
def test_a_palette_hardly_changes_the_third_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of images with far more colours than a palette has."""
    monkeypatch.setattr(sample, "SAMPLE_SIZE", 2)
    build_sample(tmp_path / "sample")
    build_dataset("twemoji", tmp_path / "twemoji", size=64)
    files = list((tmp_path / "sample" / "style").glob("*.png"))
    assert len(files) == 2
    for file in files:
        with Image.open(file) as image, Image.open(tmp_path / "twemoji" / file.name) as original:
            assert image.mode == "P"
            found, expected = (np.asarray(i.convert("RGB"), float) for i in (image, original))
        assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 1000
        assert np.abs(found - expected).mean() < 8


def test_a_name_that_either_set_holds_out_is_in_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, held_out in (("emoji", ["a.png"]), ("twemoji", ["b.png"])):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"file_name": f, "text": f[0], "style": name} for f in ("a.png", "b.png", "c.png")]
        for row in rows:
            Image.new("RGB", (8, 8)).save(folder / row["file_name"])
        write_json_lines(folder / "metadata.jsonl", rows)
        write_json(folder / "split.json", {"held_out": held_out})
    monkeypatch.setattr(sample, "_build", lambda name, _: tmp_path / name)
    build_sample(tmp_path / "sample")
    found = sorted(p.relative_to(tmp_path / "sample") for p in (tmp_path / "sample").rglob("*.png"))
    assert found == [Path("images/c.png"), Path("style/c.png")]


def test_shipped_style_is_512_training_names_under_a_megabyte(shipped_images: Path):
    folder = shipped_images.parent / "style"
    source = ImageSource(folder)
    assert len(source) == 512
    assert source.caption_problems == []
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1e6
    for row in source.metadata.values():
        assert row["style"] == "twemoji"
        assert not is_held_out(split_key(row["file_name"], caption=row["text"], content_sha256=""))
        assert "skin tone" not in row["text"]
        assert "keycap" not in row["text"]
    licence = shipped_images.parent / "LICENSES" / "CC-BY-4.0-Twemoji.txt"
    assert "(c) Twitter, Inc and other contributors" in licence.read_text(encoding="utf-8")


def test_shipped_images_are_512_with_captions(shipped_images: Path):
    source = ImageSource(shipped_images)
    assert len(source) == len(source.captions) == 512
    assert source.caption_problems == []
    assert sum(file.stat().st_size for file in shipped_images.iterdir()) < 4e6
    assert {row["style"] for row in source.metadata.values()} == {"flat", "3d"}


@pytest.mark.usefixtures("npm")
def test_used_folder_is_refused_for_the_sample_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sample, "SAMPLE_SIZE", 5)
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty"):
        build_sample(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
