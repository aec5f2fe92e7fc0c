"""Images in three formats, each of which says how it was made, and the manifest beside them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from lafite_shifted.io.image_file import check_own_image, has_own_exif, save_image
from lafite_shifted.io.manifest import Manifest

METADATA = {"prompt": "Ünïcode 猫", "seed": "7", "model": "0" * 16}


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_exif_says_how_an_image_was_made(suffix: str, tmp_path: Path):
    path = tmp_path / f"a.{suffix}"
    save_image(path, Image.new("RGB", (16, 16), "red"), METADATA)
    assert has_own_exif(path)
    save_image(path, Image.new("RGB", (16, 16), "blue"), METADATA)  # over its own
    with Image.open(path) as image:
        assert json.loads(image.getexif()[0x010E]) == METADATA
        assert image.getpixel((8, 8))[2] > 240


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("content", [b"mine", b"", "image"])
def test_no_file_of_another_program_is_lost(suffix: str, content: bytes | str, tmp_path: Path):
    path = tmp_path / f"a.{suffix}"
    if content == "image":
        Image.new("RGB", (8, 8)).save(path)
    else:
        path.write_bytes(content)  # type: ignore[arg-type]
    before = path.read_bytes()

    def write() -> None:
        save_image(path, Image.new("RGB", (8, 8)), METADATA)

    for refused in (lambda: check_own_image(path), write):
        with pytest.raises(InputError, match="was not written by lafite-shifted"):
            refused()
    assert path.read_bytes() == before


def row(file: str, **fields) -> dict:
    return {"file": file, "prompt": "a cat", "seed": 0, "model": "m", **fields}


def test_a_manifest_is_read_again(tmp_path: Path):
    Manifest(tmp_path).append([row("a.png"), row("b.png", seed=1)])
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name, Image.new("RGB", (8, 8)), {})
    found = Manifest(tmp_path)
    assert found.holds(row("a.png"))
    assert not found.holds(row("a.png", seed=5))
    assert not found.holds(row("c.png"))
    (tmp_path / "b.png").unlink()
    assert not found.holds(row("b.png", seed=1))
    found.forget({"a.png"})
    assert list(Manifest(tmp_path).rows) == ["b.png"]


def test_half_a_row_of_a_killed_run_is_cut_off(tmp_path: Path):
    manifest = Manifest(tmp_path)
    manifest.append([row("a.png")])
    whole = manifest.path.read_bytes()
    manifest.path.write_bytes(whole + b'{"file": "b.p')
    assert list(Manifest(tmp_path).rows) == ["a.png"]
    assert manifest.path.read_bytes() == whole


@pytest.mark.parametrize("content", ['{"id": 1}\n', "[1]\n", "mine\n", "mine"])
def test_a_manifest_of_another_program_stays(content: str, tmp_path: Path):
    (tmp_path / "manifest.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest\.jsonl"):
        Manifest(tmp_path)
    assert (tmp_path / "manifest.jsonl").read_text(encoding="utf-8") == content
