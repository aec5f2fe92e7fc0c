"""`embed_folder` once more: what is there is reused, what has changed is embedded again, and
embeddings of other settings are refused.
"""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json_lines
from tests.commands import half_written
from tests.training.data.embeddings.five_images import (
    CAPTIONS,
    embed,
    expected_image,
    open_set,
    write_captions,
)
from training.data.decoding.crop import SquareConfig
from training.data.embeddings import shard_writer
from training.data.embeddings.embedding_set import read_index


def test_what_is_done_is_skipped(images: Path, clip: ClipEncoder):
    embed(images, clip)
    before = {p.name: p.read_bytes() for p in (images.parent / "out").iterdir()}
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused) == (0, 5)
    assert {p.name: p.read_bytes() for p in (images.parent / "out").iterdir()} == before


def test_new_image_is_added(images: Path, clip: ClipEncoder, shipped_images: Path):
    embed(images, clip)
    shutil.copy(max(shipped_images.glob("*.png")), images / "aa.png")
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused) == (1, 5)
    data = open_set(images)
    assert list(data.names) == ["a.png", "aa.png", *(f"{name}.png" for name in "bcde")]
    assert data.caption_image.tolist() == [0, 2, 2, 4]
    expected = expected_image(images / "aa.png", clip)
    torch.testing.assert_close(data.image[1:2], expected, atol=1e-3, rtol=0)


def test_changed_image_is_embedded_again(images: Path, clip: ClipEncoder):
    embed(images, clip)
    with Image.open(images / "c.png") as image:
        image.convert("RGB").rotate(90).save(images / "c.png")
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused) == (1, 4)
    expected = expected_image(images / "c.png", clip)
    torch.testing.assert_close(open_set(images).image[2:3], expected, atol=1e-3, rtol=0)


def test_shards_that_nothing_uses_any_more_go(images: Path, clip: ClipEncoder):
    embed(images, clip)
    for path in images.glob("*.png"):
        with Image.open(path) as image:
            image.convert("RGB").rotate(90).save(path)
    assert embed(images, clip).num_embedded == 5
    shards = sorted(p.name for p in (images.parent / "out").glob("shard-*"))
    assert shards == ["shard-00001.safetensors"]
    assert list(open_set(images).names) == [f"{name}.png" for name in "abcde"]


def test_change_that_keeps_the_size_is_seen(tmp_path: Path, clip: ClipEncoder):
    images = tmp_path / "images"
    images.mkdir()
    for name, color in (("a", "red"), ("b", "lime")):
        Image.new("RGB", (64, 64), color).save(images / f"{name}.bmp")
    embed(images, clip)
    Image.new("RGB", (64, 64), "blue").save(images / "b.bmp")
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused) == (1, 1)


def test_touched_image_is_reused(images: Path, clip: ClipEncoder):
    embed(images, clip)
    os.utime(images / "a.png")
    assert embed(images, clip).num_reused == 5


def test_changed_caption_is_embedded_again(images: Path, clip: ClipEncoder):
    embed(images, clip)
    write_captions(images, CAPTIONS | {"a.png": ["uno"], "c.png": ["three"]})
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused) == (2, 3)
    data = open_set(images)
    captions = ["uno", "a long caption of a thing", "another", "three", "four"]
    assert list(data.captions) == captions
    torch.testing.assert_close(
        data.text[:], clip.embed_texts(captions).embedding, atol=1e-3, rtol=0
    )


def test_removed_image_is_dropped(images: Path, clip: ClipEncoder):
    embed(images, clip)
    (images / "b.png").unlink()
    write_captions(images, {name: text for name, text in CAPTIONS.items() if name != "b.png"})
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused) == (0, 4)
    data = open_set(images)
    assert list(data.names) == ["a.png", "c.png", "d.png", "e.png"]
    assert list(data.captions) == ["one", "four"]
    assert data.caption_image.tolist() == [0, 2]
    assert data.stats().count == 4


def test_mended_image_leaves_the_report(images: Path, clip: ClipEncoder):
    good = (images / "a.png").read_bytes()
    (images / "broken.png").write_bytes(good[:300])
    embed(images, clip, max_bad=0.5)
    (images / "broken.png").write_bytes(good)
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused, report.bad) == (1, 5, [])
    assert read_json_lines(images.parent / "out" / "report.jsonl") == []


def test_stopped_embedding_loses_one_shard_at_most(
    images: Path, clip: ClipEncoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shard_writer, "SHARD_SIZE", 2)

    def stop_at_the_fifth(done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(images, clip, batch=2, progress=stop_at_the_fifth)
    assert half_written(images.parent / "out") == []
    report = embed(images, clip, batch=2)
    assert report.num_reused >= 4
    assert report.num_embedded + report.num_reused == 5
    data = open_set(images)
    rows = read_index(images.parent / "out")
    assert {row["shard"] for row in rows} == {f"shard-{n:05}.safetensors" for n in range(3)}
    for row, name in enumerate(data.names):
        expected = expected_image(images / name, clip)
        torch.testing.assert_close(data.image[row : row + 1], expected, atol=1e-3, rtol=0)


def test_embeddings_of_another_clip_are_refused(
    images: Path, clip: ClipEncoder, small_clip_folder: Path
):
    embed(images, clip)
    before = {p.name: p.read_bytes() for p in (images.parent / "out").iterdir()}
    with pytest.raises(InputError, match=r"Embeddings of two CLIPs cannot be mixed\. Choose"):
        embed(images, ClipEncoder.load(str(small_clip_folder)))
    assert {p.name: p.read_bytes() for p in (images.parent / "out").iterdir()} == before


def test_background_is_that_of_the_clip_input(images: Path, clip: ClipEncoder):
    """Through transparency alone; embeddings on another background are refused."""
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (16, 16, 48, 48))
    clear.save(images / "f.png")
    embed(images, clip, squares=SquareConfig(background="#000080"))
    solid = Image.new("RGB", (64, 64), "#000080")
    solid.paste(clear, mask=clear)
    solid.save(images.parent / "solid.png")
    found = open_set(images).image
    expected = expected_image(images.parent / "solid.png", clip)
    torch.testing.assert_close(found[5:], expected, atol=1e-3, rtol=0)
    with pytest.raises(InputError, match=r"on #000080, not on white\. Choose another --out"):
        embed(images, clip)
    shutil.rmtree(images.parent / "out")
    embed(images, clip)
    assert open_set(images).image[:5].equal(found[:5])
