"""Folders of images: listed in order, with captions, and without too many that are broken."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.errors import InputError, TooManyBadImagesError
from lafite_shifted.io.files import read_json_lines
from tests.commands import run_command, succeed
from training.data.files.image_files import UnreadableImageError
from training.data.images import ImageSource, check_share_of_bad

# --- folders and captions


def folder_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def test_folder_is_listed_in_order_with_nested_ones(tmp_path: Path):
    folder = folder_with(tmp_path, "b.png", "a/z.JPG", "c.webp", ".hidden.png")
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    source = ImageSource(folder)
    assert source.names == ["a/z.JPG", "b.png", "c.webp"]
    assert len(source) == 3
    assert source.captions == {}


def test_link_to_nothing_is_listed(tmp_path: Path):
    """So that it is reported like any other image that cannot be read."""
    folder = folder_with(tmp_path, "a.png")
    (folder / "gone.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "nested.png").mkdir()
    source = ImageSource(folder)
    assert source.names == ["a.png", "gone.png"]
    with pytest.raises(UnreadableImageError, match="does not exist"):
        source.decode("gone.png")


def test_captions_from_metadata_and_text_files(tmp_path: Path):
    folder = folder_with(tmp_path, "one.png", "two.png", "sub/three.png", "four.png", "five.png")
    rows = [
        {"file_name": "one.png", "text": " a cat "},
        {"file_name": "two.png", "text": ["a dog", "", "an animal"]},
        {"file_name": "sub/three.png", "text": "a bird", "tags": ["wing"]},
        {"file_name": "five.png"},
        {"file_name": "gone.png", "text": "nothing"},
    ]
    text = "\n\n".join(json.dumps(row) for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    (folder / "four.txt").write_text("a fish\n\n a cod \n", encoding="utf-8")
    (folder / "one.txt").write_text("not this", encoding="utf-8")
    source = ImageSource(folder)
    assert source.captions == {
        "one.png": ["a cat"],
        "two.png": ["a dog", "an animal"],
        "sub/three.png": ["a bird"],
        "four.png": ["a fish", "a cod"],
    }
    assert source.metadata["sub/three.png"]["tags"] == ["wing"]
    problem = "'gone.png' is no file here"
    assert source.caption_problems == [("metadata.jsonl, line 9", problem)]


@pytest.mark.parametrize(
    "line",
    ['{"text": "x"}', "[1]", '{"file_name": 3}', "not json", '{"file_name": "a.png", "text": 5}'],
)
def test_bad_line_of_metadata_is_named(tmp_path: Path, line: str):
    folder = folder_with(tmp_path, "a.png")
    good = '{"file_name": "a.png", "text": "x"}'
    (folder / "metadata.jsonl").write_text(f"{good}\n\n{line}\n", encoding="utf-8")
    source = ImageSource(folder)
    assert [place for place, _ in source.caption_problems] == ["metadata.jsonl, line 3"]
    assert source.captions == {"a.png": ["x"]}


def test_missing_empty_and_foreign_folders_say_what_to_give(tmp_path: Path):
    with pytest.raises(InputError, match=r"does not exist\. Give a folder of images"):
        ImageSource(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no images: nothing"):
        ImageSource(tmp_path)
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "b.pdf").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"only 2 other files \(\.pdf, \.txt\)"):
        ImageSource(tmp_path)
    with pytest.raises(InputError, match=r"a\.txt is neither a folder nor a \.zip or \.tar"):
        ImageSource(tmp_path / "a.txt")


def test_names_that_are_not_utf_8_are_bad_images(tmp_path: Path):
    """In a folder and in a tar; what is no image is passed over as ever."""
    folder = folder_with(tmp_path / "folder", "a.png", "b.png")
    (folder / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    Path(os.fsdecode(os.fsencode(folder) + b"/n\xe9.txt")).write_text("a caption", encoding="utf-8")
    row = json.dumps({"file_name": "\ud800.png", "text": "nothing"})
    (folder / "metadata.jsonl").write_text(row, encoding="utf-8")
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        archive.add(folder, arcname=".")
    for where in (folder, tmp_path / "p.tar"):
        source = ImageSource(where)
        assert source.names == ["b.png"]
        assert dict(source.unusable()) == {
            "caf\\udce9.png": "its name is not UTF-8: rename it",
        }
        out = tmp_path / f"{where.name}-out"
        outcome = succeed("embed", where, "--out", out, "--max-bad", "0.7")
        assert "caf\\udce9.png: its name is not UTF-8: rename it" in outcome.err
        assert len(read_json_lines(out / "report.jsonl")) == 2
    (folder / "b.png").unlink()
    outcome = run_command("embed", folder, "--out", tmp_path / "none")
    assert outcome.code == 3
    assert "its name is not UTF-8" in outcome.err


# --- the share of bad images


def test_share_of_bad_images():
    bad = [(f"{number}.png", "broken") for number in range(5)]
    check_share_of_bad(bad, 100, max_share=0.05)
    check_share_of_bad([], 1, max_share=0.0)
    with pytest.raises(TooManyBadImagesError, match=r"5 of 99 images.*--max-bad") as caught:
        check_share_of_bad(bad, 99, max_share=0.05)
    assert all(f"{number}.png: broken" in str(caught.value) for number in range(5))
    assert caught.value.exit_code == 3


def test_no_readable_image_is_always_too_few():
    with pytest.raises(TooManyBadImagesError, match="1 of 1"):
        check_share_of_bad([("a.png", "broken")], 1, max_share=1.0)


def test_long_lists_of_bad_images_are_cut():
    bad = [(f"{number:03}.png", "broken") for number in range(50)]
    with pytest.raises(TooManyBadImagesError, match=r"019\.png.*\n  and 30 more") as caught:
        check_share_of_bad(bad, 60, max_share=0.1)
    assert "020.png" not in str(caught.value)
