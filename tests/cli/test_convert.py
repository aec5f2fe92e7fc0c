"""`dataset convert`: sets travel between folder, zip and shards."""

import json
import os
import posixpath
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.io.files import read_json
from tests.commands import TINY_GAN, assert_refused, half_written, run_command, succeed
from training.data import convert as converting
from training.data.embeddings.embedding_set import EmbeddingSet, read_index
from training.data.images import ImageSource


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Eleven images of any shape, one broken, with captions of several kinds."""
    folder = tmp_path / "photographs"
    (folder / "a.b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(10):
        size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        name = f"a.b/photo.{number}.png" if number % 2 else f"photo {number}.jpg"
        Image.new("RGB", size, colour).save(folder / name)
        if number < 6:
            rows.append({"file_name": name, "text": f"caption {number}", "tags": ["x", "é"]})
        if number == 0:
            rows.append({"file_name": name, "text": "another caption"})
    (folder / "photo 8.txt").write_text("one line\nand another\n", encoding="utf-8")
    (folder / "photo 0.png").write_bytes((folder / "photo 0.jpg").read_bytes())
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return folder


def pixels(source: ImageSource) -> list[np.ndarray]:
    return [np.asarray(source.decode(name).image) for name in source.names]


def texts(source: ImageSource) -> list[list[str]]:
    return [sorted(source.captions.get(name, [])) for name in source.names]


def test_round_the_layouts(tmp_path: Path, photographs: Path):
    """Folder to shards to zip to folder: images and captions stay what they are."""
    shards = tmp_path / "shards"
    succeed("dataset", "convert", photographs, shards, "--layout", "shards", "--images-per-shard=4")
    assert sorted(file.name for file in shards.iterdir()) == [
        f"shard-{number:05d}.tar" for number in range(3)
    ]
    outcome = succeed("dataset", "convert", shards, tmp_path / "set.zip")
    assert "11 images, 7 of them with captions" in outcome.out
    succeed("dataset", "convert", tmp_path / "set.zip", tmp_path / "folder")
    sources = [ImageSource(p) for p in (photographs, shards, tmp_path / "set.zip")]
    sources.append(ImageSource(tmp_path / "folder"))
    first = {tuple(t) for t in texts(sources[0])}
    assert first == {
        *{(f"caption {n}",) for n in range(1, 6)},
        ("another caption", "caption 0"),
        ("and another", "one line"),
        (),
    }
    images = sorted(image.tobytes() for image in pixels(sources[0]))
    for source in sources[1:]:
        assert sorted(image.tobytes() for image in pixels(source)) == images
        assert {tuple(t) for t in texts(source)} == first
        by_text = {source.captions[n][0]: source.metadata[n].get("tags") for n in source.captions}
        assert by_text["caption 3"] == ["x", "é"]
        assert source.unusable() == source.caption_problems == []
    # dots are what a tar's names do not keep; nothing else is another name
    assert sources[3].names == sorted(
        posixpath.splitext(n)[0].replace(".", "_") + posixpath.splitext(n)[1]
        for n in sources[2].names
    )
    assert not any("shard-" in name for name in sources[3].names)
    assert half_written(tmp_path) == []


def test_a_target_within_the_source_is_refused(tmp_path: Path, photographs: Path):
    for target in (photographs / "out", photographs / "a.b" / "set.zip"):
        outcome = run_command("dataset", "convert", photographs, target)
        assert_refused(outcome, "would be a part of")
    assert not (photographs / "out").exists()
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_squares_of_a_resolution(tmp_path: Path, photographs: Path, image_format: str):
    target = tmp_path / "set.zip"
    options = ("--resolution", "16", "--image-format", image_format)
    outcome = succeed("dataset", "convert", photographs, target, *options, "--json")
    assert json.loads(outcome.out) == {
        "images": 11,
        "captioned": 7,
        "bytes": target.stat().st_size,
        "unreadable": 0,
        "renamed": 6,
    }
    source = ImageSource(target)
    assert {array.shape for array in pixels(source)} == {(16, 16, 3)}
    before = {
        t[0]: ImageSource(photographs).decode(n).image
        for n, t in ImageSource(photographs).captions.items()
    }
    for name, (text, *_) in source.captions.items():
        colour = np.asarray(before[text]).mean(axis=(0, 1))
        assert np.abs(np.asarray(source.decode(name).image) - colour).max() < 4
    with zipfile.ZipFile(target) as archive:
        assert {name.rpartition(".")[2] for name in archive.namelist()} == {
            {"jpeg": "jpg"}.get(image_format, image_format),
            "jsonl",
        }


def test_goes_on_where_it_was_interrupted(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "set.zip"
    command = ("dataset", "convert", photographs, target, "--images-per-shard", "3")
    whole = tmp_path / "whole.zip"
    succeed("dataset", "convert", photographs, whole, "--images-per-shard", "3")
    written = converting._write_part
    parts = list[int]()

    def stop(target, number, *rest):
        if number == 2 and parts.count(2) == 0:
            parts.append(number)
            raise KeyboardInterrupt
        parts.append(number)
        written(target, number, *rest)

    monkeypatch.setattr(converting, "_write_part", stop)
    assert run_command(*command).code == 130
    assert not target.exists()
    other = run_command(*command, "--resolution", "8")
    assert other.code == 2
    assert "parts of another conversion" in other.err
    succeed(*command)
    assert parts == [0, 1, 2, 2, 3]
    assert target.read_bytes() == whole.read_bytes()
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("name", ["folder", "set.zip", "[a] *"])
def test_copies_of_killed_runs_go(tmp_path: Path, photographs: Path, name: str):
    """Those of processes that are gone, and of this target alone."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".{name}.{gone.pid}.tmp").mkdir()
    (tmp_path / f".{name}.{gone.pid}.tmp" / "1.png").write_bytes(b"half")
    stay = [f".{name}.{os.getppid()}.tmp", f".other.{gone.pid}.tmp", f".{name}.0.tmp"]
    for other in stay:
        (tmp_path / other).write_bytes(b"")
    succeed("dataset", "convert", photographs, tmp_path / name)
    assert {path.name for path in half_written(tmp_path)} == set(stay)
    assert (tmp_path / name).exists()


def test_what_cannot_be_read_is_listed(tmp_path: Path, photographs: Path):
    (photographs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    outcome = run_command("dataset", "convert", photographs, tmp_path / "set.zip")
    assert outcome.code == 3
    assert "broken.png" in outcome.err
    outcome = succeed("dataset", "convert", photographs, tmp_path / "set.zip", "--max-bad", "20%")
    assert "unreadable broken.png" in outcome.err
    assert len(ImageSource(tmp_path / "set.zip")) == 11


def test_names_that_fall_together(tmp_path: Path, photographs: Path):
    """photo 0.jpg and photo 0.png; and no dot before the suffix, which ends a key in a shard."""
    succeed(
        "dataset", "convert", photographs, tmp_path / "s", "--layout", "shards", "--resolution", "8"
    )
    with tarfile.open(tmp_path / "s" / "shard-00000.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith(".png")]
    assert len({name.casefold() for name in names}) == 11
    assert {"photo 0.png", "photo 0-2.png", "a_b/photo_1.png"} <= set(names)


def test_a_zip_without_its_suffix_is_refused_before_the_work(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    outcome = run_command("dataset", "convert", folder, tmp_path / "set", "--layout", "zip")
    assert_refused(outcome, "Write set.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_target_that_is_there_is_kept(tmp_path: Path, photographs: Path):
    target = tmp_path / "mine.zip"
    target.write_bytes(b"mine")
    outcome = run_command("dataset", "convert", photographs, target)
    assert (outcome.code, target.read_bytes()) == (2, b"mine")
    assert "exists already" in outcome.err


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_augmented_copies(tmp_path: Path, photographs: Path, layout: str):
    """Each image with two others, without its captions and on its side of the split."""
    (photographs / "photo 2-copy1.png").write_bytes((photographs / "photo 2.jpg").read_bytes())
    target, embedded = tmp_path / "set", tmp_path / "embedded"
    flags = ("--resolution", "16", "--augmented-copies", "2", "--layout", layout)
    outcome = succeed("dataset", "convert", photographs, target, *flags)
    assert "36 images, 7 of them with captions" in outcome.out
    source = ImageSource(target)
    copies = [name for name in source.names if "copy_of" in source.metadata.get(name, {})]
    assert len(copies) == 24
    assert not source.captions.keys() & copies
    assert source.caption_problems == []
    assert {source.decode(name).image.size for name in copies} == {(16, 16)}
    again = tmp_path / "again"
    succeed("dataset", "convert", photographs, again, *flags)
    assert [pixels(source)[n].tolist() for n in range(36)] == [
        array.tolist() for array in pixels(ImageSource(again))
    ]
    succeed("embed", target, "--out", embedded, "--clip", "starter")
    rows, differ = {row["file_name"]: row for row in read_index(embedded)}, 0
    for name in copies:
        original = str(Path(name).parent / rows[name]["copy_of"])
        assert rows[name]["split_key"] == rows[original]["split_key"]
        differ += not np.array_equal(source.decode(name).image, source.decode(original).image)
    assert differ > 18  # of a single colour: mirrored they are the same
    found = EmbeddingSet(embedded)
    assert [found.names[row] for row in found.is_copy.nonzero().flatten().tolist()] == copies


def test_copies_of_held_out_images_are_neither_trained_on_nor_measured(
    tmp_path: Path, photographs: Path
):
    target, run = tmp_path / "set", tmp_path / "run"
    flags = ("--resolution", "16", "--augmented-copies", "3")
    succeed("dataset", "convert", photographs, target, *flags)
    succeed("train-gan", target, "--out", run, *TINY_GAN, "--kimg", "0.008")
    found = EmbeddingSet(run / "embeddings")
    originals = int((found.held_out & ~found.is_copy).sum())
    assert 0 < originals < 11
    data = read_json(run / "config.json")["data"]
    assert (data["num_held_out"], data["num_training"]) == (originals, 4 * (11 - originals))


def test_copies_are_squares(tmp_path: Path, photographs: Path):
    command = ("dataset", "convert", photographs, tmp_path / "set", "--augmented-copies", "2")
    assert_refused(run_command(*command), "augmented_copies", "needs a resolution")
