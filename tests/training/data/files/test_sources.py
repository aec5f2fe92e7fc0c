"""Images in archives are those of the folder that was packed."""

import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lafite_shifted.errors import InputError
from tests.commands import TINY_GAN, TINY_PRIOR, succeed
from tests.training.data.files.packed import PNG, folder_of, tar_of, zip_of
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.files.image_files import UnreadableImageError
from training.data.images import ImageSource

ENTRIES = {
    "b/2.png": PNG,
    "a.png": PNG + b"more",
    "a.txt": b"a cat\n",
    "b/2.json": json.dumps({"caption": "a dog", "width": 8}).encode(),
    "c.tiff": b"II*",
    "__MACOSX/._a.png": b"not an image",  # as Macs pack
    ".DS_Store": b"x",
}


@pytest.mark.parametrize("pack", ["folder", "zip", "packed zip", "tar"])
def test_every_kind_holds_the_same(pack: str, tmp_path: Path):
    makers: dict[str, Callable[[], Path]] = {
        "folder": lambda: folder_of(tmp_path / "folder", ENTRIES),
        "zip": lambda: zip_of(tmp_path / "p.zip", ENTRIES),
        "packed zip": lambda: zip_of(tmp_path / "p.zip", ENTRIES, compression=zipfile.ZIP_DEFLATED),
        "tar": lambda: tar_of(tmp_path / "p.tar", ENTRIES),
    }
    source = ImageSource(makers[pack]())
    assert source.names == ["a.png", "b/2.png"]
    assert source.captions == {"a.png": ["a cat"], "b/2.png": ["a dog"]}
    assert source.unusable() == [("c.tiff", "this format is not supported: convert it")]
    assert source.read("b/2.png") == PNG
    assert source.decode("a.png").image.size == (8, 8)
    assert source.stamp("a.png")[0] == len(PNG) + 4


def test_shards_are_one_set_under_their_own_names(tmp_path: Path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        tar_of(shards / f"{number:05d}.tar", {"0.png": PNG, "0.txt": f"cat {number}".encode()})
    source = ImageSource(shards)
    assert source.names == [f"{number:05d}.tar/0.png" for number in range(3)]
    assert source.captions["00002.tar/0.png"] == ["cat 2"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_tars(form: int, tmp_path: Path):
    name = "/".join(["folder" * 8] * 4) + "/ü.png" if form != tarfile.USTAR_FORMAT else "u.png"
    source = ImageSource(tar_of(tmp_path / "p.tar", {name: PNG}, format=form))
    assert source.names == [name]
    assert source.read(name) == PNG


def test_a_tar_damaged_in_the_middle_is_not_taken_for_a_short_one(tmp_path: Path):
    path = tar_of(tmp_path / "p.tar", {"a.png": PNG, "b.png": PNG})
    content = bytearray(path.read_bytes())
    content[content.index(b"b.png")] = ord("c")  # its header's sum is wrong now
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        ImageSource(path)


def test_stylegan_zip_with_many_entries(tmp_path: Path):
    """More than 65,535 entries need zip64; dataset.json is no caption."""
    labels = json.dumps({"labels": [["00000/img00000000.png", 3]]}).encode()
    entries = {f"{n // 1000:05d}/img{n:08d}.png": b"" for n in range(70_000)}
    path = zip_of(tmp_path / "p.zip", entries | {"dataset.json": labels})
    source = ImageSource(path)
    assert len(source) == 70_000
    assert source.captions == {}


def test_links_in_a_folder_are_followed_but_not_round(tmp_path: Path):
    other = folder_of(tmp_path / "other", {"deep/x.png": PNG})
    folder = folder_of(tmp_path / "folder", {"a.png": PNG})
    (folder / "linked").symlink_to(other)
    (other / "deep" / "up").symlink_to(other)
    (folder / "round").symlink_to(folder)
    (other / "back").symlink_to(folder)
    assert ImageSource(folder).names == ["a.png", "linked/deep/x.png"]


def test_names_may_begin_with_a_dot_and_a_slash(tmp_path: Path):
    """As `tar cf x.tar -C folder .` writes them."""
    rows = json.dumps({"file_name": "a.png", "text": "a cat"}).encode()
    entries = {"./a.png": PNG, "./metadata.jsonl": rows}
    alone = ImageSource(tar_of(tmp_path / "p.tar", entries))
    assert (alone.names, alone.captions) == (["a.png"], {"a.png": ["a cat"]})
    (tmp_path / "shards").mkdir()
    tar_of(tmp_path / "shards" / "0.tar", entries)
    assert ImageSource(tmp_path / "shards").names == ["0.tar/a.png"]


def test_a_tar_among_images_hides_none_of_them(tmp_path: Path):
    folder = folder_of(tmp_path / "mixed", {"x.png": PNG})
    tar_of(folder / "backup.tar", {"a.png": PNG})
    assert ImageSource(folder).names == ["x.png"]


def test_what_is_no_file_is_a_bad_image(tmp_path: Path):
    """A pipe would be waited for, and a device read without end."""
    folder = folder_of(tmp_path / "folder", {"a.png": PNG})
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    source = ImageSource(folder)
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UnreadableImageError, match="a pipe or a device"):
            source.read(name)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"n": ' + "9" * 5000 + "}", "{"])
def test_records_without_end_are_no_captions(content: str, tmp_path: Path):
    entries = {"a.png": PNG, "a.json": content.encode(), "metadata.jsonl": content.encode()}
    source = ImageSource(folder_of(tmp_path / "folder", entries))
    assert {place for place, _ in source.caption_problems} == {"a.json", "metadata.jsonl, line 1"}
    assert source.captions == {}


def test_captions_that_are_no_text_are_left_out(tmp_path: Path):
    record = json.dumps({"caption": ["a \ud800 cat", None, {"y": 1}, 3, " "]}).encode()
    folder = folder_of(tmp_path / "folder", {"a.png": PNG, "a.json": record})
    assert ImageSource(folder).captions == {"a.png": ["a ? cat"]}


# --- through the verbs


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_trainings_take_archives(suffix: str, some_images: Path, tmp_path: Path):
    """The same embeddings as from the folder, whatever holds the images; then prior and GAN."""
    entries = {
        path.relative_to(some_images).as_posix(): path.read_bytes()
        for path in some_images.rglob("*")
        if path.is_file()
    }
    make = zip_of if suffix == "zip" else tar_of
    archive = make(tmp_path / f"p.{suffix}", entries)
    succeed("embed", archive, "--out", tmp_path / "e")
    succeed("embed", some_images, "--out", tmp_path / "f")
    packed, plain = EmbeddingSet(tmp_path / "e"), EmbeddingSet(tmp_path / "f")
    assert list(packed.names) == list(plain.names)
    assert packed.image[:].equal(plain.image[:])
    assert packed.fingerprint == plain.fingerprint
    again = succeed("embed", archive, "--out", tmp_path / "e")
    assert f"0 images embedded, {len(plain.names)} reused" in again.err
    succeed("train-prior", archive, "--out", tmp_path / "prior", *TINY_PRIOR)
    succeed("train-gan", archive, "--out", tmp_path / "gan", *TINY_GAN)
