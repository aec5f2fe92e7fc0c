"""Embeddings on disk: what CLIP said, made once, renewed where an image or a caption changed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError, TooManyBadImagesError
from lafite_shifted.io.files import load_tensors, read_json_lines, save_tensors, write_json_lines
from tests.commands import half_written
from training.data.decoding.crop import SquareConfig
from training.data.decoding.read_image import DEFAULT_READ_OPTIONS, Progress, ReadOptions, silent
from training.data.embeddings import shard_writer
from training.data.embeddings.embed import EmbedReport, embed_folder
from training.data.embeddings.embedding_set import EmbeddingSet, load_shard, read_index
from training.data.images import ImageSource
from training.data.split import is_held_out

CAPTIONS = {
    "a.png": ["one"],
    "b.png": ["a long caption of a thing", "another"],
    "d.png": ["four"],
}


@pytest.fixture
def images(tmp_path: Path, shipped_images: Path) -> Path:
    """Five images; three with captions, one of them with two."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, file in zip("abcde", sorted(shipped_images.glob("*.png"))[::40], strict=False):
        shutil.copy(file, folder / f"{name}.png")
    write_captions(folder, CAPTIONS)
    return folder


def write_captions(folder: Path, captions: dict[str, list[str]]) -> None:
    rows = [json.dumps({"file_name": name, "text": text}) for name, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")


def embed(
    images: Path,
    clip: ClipEncoder,
    *,
    max_bad: float = DEFAULT_READ_OPTIONS.max_bad,
    progress: Progress = silent,
    **options,
) -> EmbedReport:
    cache = ReadOptions(max_bad=max_bad, progress=progress)
    out = images.parent / "out"
    return embed_folder(ImageSource(images), out, clip, options=cache, **options)


def open_set(images: Path) -> EmbeddingSet:
    return EmbeddingSet(images.parent / "out")


def expected_image(path: Path, clip: ClipEncoder) -> torch.Tensor:
    """[1, D]."""
    with Image.open(path) as image:
        levels = np.asarray(image.convert("RGB")).copy()
    return clip.embed_images(torch.from_numpy(levels).permute(2, 0, 1)[None])


def test_embeddings_are_those_of_clip(images: Path, clip: ClipEncoder):
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused, report.bad) == (5, 0, [])
    data = open_set(images)
    assert list(data.names) == [f"{name}.png" for name in "abcde"]
    assert data.encoder_id == clip.id
    assert data.context_length == clip.context_length
    for row, name in enumerate(data.names):
        expected = expected_image(images / name, clip)
        torch.testing.assert_close(data.image[row : row + 1], expected, atol=1e-3, rtol=0)


def test_loaded_embeddings_are_unit_float32(images: Path, clip: ClipEncoder):
    embed(images, clip)
    tensors, _ = load_shard(images.parent / "out" / "shard-00000.safetensors")
    assert tensors["image"].dtype == tensors["text"].dtype == torch.float16
    data = open_set(images)
    for loaded in (data.image[:], data.text[:]):
        assert loaded.dtype == torch.float32
        torch.testing.assert_close(loaded.norm(dim=1), torch.ones(len(loaded)), atol=1e-6, rtol=0)


def test_captions_keep_their_own_tokens(images: Path, clip: ClipEncoder):
    embed(images, clip)
    data = open_set(images)
    assert list(data.captions) == ["one", "a long caption of a thing", "another", "four"]
    assert data.caption_image.tolist() == [0, 1, 1, 3]
    expected = clip.embed_texts(data.captions)
    found = data.text_features(torch.arange(4))
    assert found.lengths.tolist() == expected.lengths.tolist() == [3, 8, 3, 3]
    assert found.tokens.shape[1] == 8
    torch.testing.assert_close(found.tokens, expected.tokens[:, :8], atol=4e-3, rtol=1e-3)
    torch.testing.assert_close(found.embedding, expected.embedding, atol=1e-3, rtol=0)
    stored = load_shard(images.parent / "out" / "shard-00000.safetensors")[0]
    assert len(stored["text_tokens"]) == int(expected.lengths.sum())  # ragged: no padding on disk


def test_index_names_file_size_hash_and_side(images: Path, clip: ClipEncoder):
    embed(images, clip)
    rows = read_json_lines(images.parent / "out" / "index.jsonl")
    assert [row["captions"] for row in rows] == [CAPTIONS.get(f"{n}.png", []) for n in "abcde"]
    assert [row["size"] for row in rows] == [
        (images / row["file_name"]).stat().st_size for row in rows
    ]
    assert len({row["sha256"] for row in rows}) == 5
    assert [row["split_key"] for row in rows[:2]] == ["one", "a long caption of a thing"]
    assert rows[2]["split_key"] == rows[2]["sha256"]


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


def test_bad_images_are_reported_by_name_and_reason(images: Path, clip: ClipEncoder):
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:300])
    (images / "text.jpg").write_text("hello", encoding="utf-8")
    write_captions(images, CAPTIONS | {"gone.png": ["nothing"]})
    report = embed(images, clip, max_bad=0.5)
    rows = read_json_lines(images.parent / "out" / "report.jsonl")
    reasons = {row["file_name"]: row["reason"] for row in rows}
    absent = {"metadata.jsonl, line 4": "'gone.png' is no file here"}
    assert reasons == dict(report.bad) | absent
    assert dict(report.bad).keys() == {
        "broken.png",
        "text.jpg",
    }  # what names no file is no bad image
    assert reasons["broken.png"].startswith("broken: ")
    assert "not an image" in reasons["text.jpg"]
    assert len(open_set(images).names) == 5


def test_mended_image_leaves_the_report(images: Path, clip: ClipEncoder):
    good = (images / "a.png").read_bytes()
    (images / "broken.png").write_bytes(good[:300])
    embed(images, clip, max_bad=0.5)
    (images / "broken.png").write_bytes(good)
    report = embed(images, clip)
    assert (report.num_embedded, report.num_reused, report.bad) == (1, 5, [])
    assert read_json_lines(images.parent / "out" / "report.jsonl") == []


def test_too_many_bad_images_stop_after_the_report(images: Path, clip: ClipEncoder):
    for number in range(5):
        (images / f"bad{number}.png").write_bytes(b"bad")
    with pytest.raises(TooManyBadImagesError, match="5 of 10"):
        embed(images, clip, max_bad=0.4)
    assert len(read_json_lines(images.parent / "out" / "report.jsonl")) == 5
    assert embed(images, clip, max_bad=0.5).num_reused == 5


def test_conversions_are_counted(images: Path, clip: ClipEncoder):
    Image.new("L", (20, 20), 50).save(images / "f.png")
    Image.new("CMYK", (20, 20)).save(images / "g.jpg")
    Image.new("CMYK", (20, 20)).save(images / "h.jpg")
    counts = embed(images, clip).conversions
    assert (counts["grey"], counts["CMYK"]) == (1, 2)


def test_images_of_any_shape_share_a_batch(images: Path, clip: ClipEncoder):
    with Image.open(images / "a.png") as image:
        image.convert("RGB").resize((500, 120)).save(images / "wide.png")
    embed(images, clip, batch=3)
    data = open_set(images)
    expected = expected_image(images / "wide.png", clip)
    torch.testing.assert_close(data.image[-1:], expected, atol=1e-3, rtol=0)


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


def test_progress_counts_every_new_image(images: Path, clip: ClipEncoder):
    calls: list[tuple[int, int]] = []
    embed(images, clip, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 5) for number in range(1, 6)]


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


def test_shards_of_two_clips_are_refused(images: Path, clip: ClipEncoder, monkeypatch):
    monkeypatch.setattr(shard_writer, "SHARD_SIZE", 3)
    embed(images, clip, batch=1)
    path = images.parent / "out" / "shard-00001.safetensors"
    tensors, metadata = load_tensors(path)
    metadata["encoder"][0]["weights"] = "0" * 16
    save_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match="cannot be mixed"):
        open_set(images)


def test_damaged_embeddings_are_refused(images: Path, clip: ClipEncoder, tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no embeddings\. Make them with `lafite-shifted"):
        EmbeddingSet(tmp_path)
    embed(images, clip)
    shard = images.parent / "out" / "shard-00000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(InputError, match="truncated"):
        open_set(images)
    shard.write_bytes(content)
    tensors, metadata = load_tensors(shard)
    save_tensors(shard, tensors, metadata | {"format": 99})
    with pytest.raises(InputError, match="format 99"):
        open_set(images)


def test_held_out_rows_follow_the_split(some_embeddings: Path, tmp_path: Path):
    assert not bool(EmbeddingSet(some_embeddings).held_out.any())  # no shipped image is
    folder = shutil.copytree(some_embeddings, tmp_path / "e")
    rows = read_index(folder)
    rows[3]["split_key"] = next(filter(is_held_out, map(str, range(99))))
    write_json_lines(folder / "index.jsonl", rows)
    data = EmbeddingSet(folder)
    assert data.held_out.nonzero().flatten().tolist() == [3]
    assert data.stats(~data.held_out).count == len(data) - 1
