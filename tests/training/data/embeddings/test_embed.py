"""Embeddings on disk: what CLIP said, made once, renewed where an image or a caption changed."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import TooManyBadImagesError
from lafite_shifted.io.files import read_json_lines
from tests.training.data.embeddings.five_images import (
    CAPTIONS,
    embed,
    expected_image,
    open_set,
    write_captions,
)
from training.data.embeddings.embedding_set import load_shard


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


def test_progress_counts_every_new_image(images: Path, clip: ClipEncoder):
    calls: list[tuple[int, int]] = []
    embed(images, clip, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(number, 5) for number in range(1, 6)]
