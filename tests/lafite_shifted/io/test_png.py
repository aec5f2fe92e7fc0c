"""PNGs that say how they were made, and their names."""

from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.io.png import save_png, slug

SENTENCES = [
    "a cat",
    "a cat!",
    "a, cat",
    "a-cat",
    "A cat",
    "a  cat",
    "猫",
    "🐈",
    "x" * 90,
    "x" * 91,
]


def test_every_sentence_has_a_file_name_of_its_own():
    names = [slug(text) for text in SENTENCES]
    assert len(set(names)) == len(SENTENCES)
    assert names[0] == "a-cat"


@pytest.mark.parametrize("text", [*SENTENCES, "../../etc/passwd", "/", "."])
def test_file_name_stays_in_its_folder(text: str, tmp_path: Path):
    path = tmp_path / f"{slug(text)}.png"
    assert path.parent == tmp_path
    save_png(path, Image.new("RGB", (2, 2)), {"prompt": text})
    with Image.open(path) as image:
        image.load()
        assert image.info["prompt"] == text
