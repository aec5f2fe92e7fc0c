"""The held-out split: variants of one thing share a side, and a sixth of all things is held out."""

import hashlib
import json
from pathlib import Path

import pytest

from training.data.split import (
    SplitItem,
    is_held_out,
    normalised_name,
    split_key,
    split_keys,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("turkey_on_platter_01", "turkey on platter"),
        ("turkey on platter", "turkey on platter"),
        ("man: dark skin tone, beard", "man beard"),
        ("man: medium-light skin tone, beard", "man beard"),
        ("Red Apple", "red apple"),
        ("flat-1f469-1f3fc", ""),
        ("3d-1f36c", ""),
        ("IMG_0412", ""),
        ("DSC00017", ""),
        ("Screenshot 2024-01-02", ""),
        ("3d candy", "candy"),
        ("x", ""),
        ("", ""),
        ("übung_2", "übung"),
        ("猫 頭", "猫 頭"),
    ],
)
def test_normalised_name(text: str, expected: str):
    assert normalised_name(text) == expected


def test_key_is_name_then_caption_then_content():
    options = {"caption": "A Cat", "content_sha256": "abc"}
    assert split_key("animals/dog_07.png", **options) == "dog"
    assert split_key("IMG_0412.jpg", **options) == "a cat"
    assert split_key("IMG_0412.jpg", caption="", content_sha256="abc") == "abc"


def test_a_sixth_of_all_keys_is_held_out():
    keys = [f"thing {word}" for word in range(6000)]
    held_out = [key for key in keys if is_held_out(key)]
    assert len(held_out) == pytest.approx(1000, abs=90)  # three standard deviations
    for key in keys[:50]:
        first = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
        assert is_held_out(key) == (first < 1 / 6)


def test_variants_share_a_side():
    stems = (
        "turkey_on_platter_01",
        "turkey_on_platter_02",
        "turkey on platter",
        "Turkey-On-Platter",
    )
    keys = {split_key(f"{stem}.png", caption="", content_sha256=stem) for stem in stems}
    assert len(keys) == 1


def test_no_shipped_image_is_held_out(shipped_images: Path):
    rows = (shipped_images / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 512
    for row in map(json.loads, rows):
        key = split_key(row["file_name"], caption=row["text"], content_sha256="")
        assert key, row
        assert not is_held_out(key), row


# --- of a whole set


def keys_of(*names: str, captions: dict[str, str] | None = None, content: str = "") -> list[str]:
    caption = captions or {}
    return split_keys([SplitItem(name, caption.get(name, ""), content or name) for name in names])


def test_a_set_of_single_names_has_the_keys_of_each():
    names = ["animals/dog_07.png", "animals/IMG_1.jpg", "cat.png"]
    assert keys_of(*names) == ["dog", "animals/IMG_1.jpg", "cat"]


def test_copies_are_on_one_side_whatever_they_are_called():
    """And so is a copy that says nothing by its name."""
    assert len(set(keys_of("cat.jpg", "katze copy.jpg", "x/IMG_1.jpg", content="same"))) == 1


@pytest.mark.parametrize("name", ["wedding", "holiday in rome", "cat", "garden", "render"])
def test_a_name_that_many_bear_tells_no_two_apart(name: str):
    """A series of photographs is not all on one side: they go by caption, then by content."""
    series = [f"{name}-{number:04}.jpg" for number in range(100)]
    assert keys_of(*series) == series  # their content, here
    assert 8 < sum(map(is_held_out, keys_of(*series))) < 26
    captions = {photo: f"a photograph of {photo[-5]}" for photo in series}
    assert keys_of(*series, captions=captions) == series  # so do captions that say nothing
    words = [f"{first}{second}" for first in "abcdefghij" for second in "klmnopqrst"]
    captions = {photo: f"a {word}" for photo, word in zip(series, words, strict=True)}
    assert keys_of(*series, captions=captions) == [f"a {word}" for word in words]


def test_variants_of_one_thing_are_together_beside_a_series():
    series = [f"wedding-{number:04}.jpg" for number in range(100)]
    takes = [f"red apple {number}.jpg" for number in range(12)]
    assert keys_of(*series, *takes)[100:] == ["red apple"] * 12


def test_a_folder_for_each_thing():
    """All views of a thing are on one side, and the things on both."""
    things = [f"products/{number:04}" for number in range(40)]
    for views in (["cover"], ["front", "back", "left side"]):
        names = [f"{thing}/{view}.jpg" for thing in things for view in views]
        keys = keys_of(*names)
        by_thing = {name.rpartition("/")[0]: set() for name in names}
        for name, key in zip(names, keys, strict=True):
            by_thing[name.rpartition("/")[0]].add(key)
        assert all(len(found) == 1 for found in by_thing.values())
        assert 0 < sum(map(is_held_out, keys)) < len(keys) / 2
    named = keys_of(*(f"{thing}/image.main.jpg" for thing in ("red apple", "pear", "plum", "fig")))
    assert named == ["red apple", "pear", "plum", "fig"]


def test_a_folder_for_each_style_is_none_for_each_thing():
    """Variants of one thing share a side, in however many folders of styles."""
    things = ["apple", "pear", "plum", "fig", "cherry"]
    names = [
        f"{style}/{thing}.png" for style in ("flat", "ink", "oil", "chalk") for thing in things
    ]
    assert keys_of(*names) == things * 4
