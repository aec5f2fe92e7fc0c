"""Images in archives are those of the folder that was packed; archives made to harm are refused;
a damaged entry is one bad image.
"""

import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from tests.commands import TINY_GAN, TINY_PRIOR, run_command, succeed
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.files import archives
from training.data.files.image_files import UnreadableImageError
from training.data.files.sources import open_files
from training.data.images import ImageSource

IMAGE = io.BytesIO()
Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(IMAGE, "PNG")
PNG = IMAGE.getvalue()


def zip_of(path: Path, entries: dict[str, bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def tar_of(path: Path, entries: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def folder_of(path: Path, entries: dict[str, bytes]) -> Path:
    for name, content in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


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


# --- archives made to harm


def link_in_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("a.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return path


def encrypted_zip(path: Path) -> Path:
    content = bytearray(zip_of(path, {"a.png": PNG}).read_bytes())
    central = content.index(b"PK\x01\x02")
    content[6] |= 1
    content[central + 8] |= 1
    path.write_bytes(content)
    return path


def overlapping_zip(path: Path) -> Path:
    """Two names for the same bytes (https://www.bamsoftware.com/hacks/zipbomb/)."""
    content = zip_of(path, {"a.png": PNG, "b.png": PNG}).read_bytes()
    start = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    changed = bytearray(content)
    changed[start + 42 : start + 46] = struct.pack("<I", 0)  # where the second one lies
    path.write_bytes(changed)
    return path


def twice_in_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", PNG)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", PNG)
    return path


def twice_in_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            member = tarfile.TarInfo("a.png")
            member.size = len(PNG)
            archive.addfile(member, io.BytesIO(PNG))
    return path


def link_in_tar(path: Path, kind: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    return path


def long_last_entry(path: Path) -> Path:
    """It claims to be packed larger than the archive is, and so to unpack to much."""
    content = bytearray(zip_of(path, {"a.png": PNG}, compression=zipfile.ZIP_DEFLATED).read_bytes())
    place = content.index(b"PK\x01\x02") + 20
    content[place : place + 4] = struct.pack("<I", 4_000_000)
    path.write_bytes(content)
    return path


def tar_header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def tar_of_headers(path: Path, *headers: bytes) -> Path:
    path.write_bytes(b"".join(headers) + bytes(1024))
    return path


HARM: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip: path out": (lambda p: zip_of(p / "x.zip", {"../a.png": PNG}), "path out of the archive"),
    "zip: backslashes": (lambda p: zip_of(p / "x.zip", {"b\\..\\..\\a.png": PNG}), "path out"),
    "zip: absolute": (lambda p: zip_of(p / "x.zip", {"/tmp/a.png": PNG}), "absolute path"),
    "zip: drive": (lambda p: zip_of(p / "x.zip", {"C:a.png": PNG}), "absolute path"),
    "zip: link": (lambda p: link_in_zip(p / "x.zip"), "a link"),
    "zip: twice": (lambda p: twice_in_zip(p / "x.zip"), "comes twice"),
    "zip: encrypted": (lambda p: encrypted_zip(p / "x.zip"), "encrypted"),
    "zip: overlap": (lambda p: overlapping_zip(p / "x.zip"), "verlap"),
    "zip: nested": (lambda p: zip_of(p / "x.zip", {"a.png": PNG, "b.zip": b""}), "archive in the"),
    "zip: last entry": (lambda p: long_last_entry(p / "x.zip"), "overlaps what follows"),
    "tar: round and round": (
        lambda p: tar_of_headers(
            p / "x.tar", tar_header("a.png", b"0", 0), tar_header("b.png", b"0", -512)
        ),
        "a size of -512",
    ),
    "tar: endless name": (
        lambda p: tar_of_headers(p / "x.tar", tar_header("a", tarfile.GNUTYPE_LONGNAME, 2**50)),
        "is damaged",
    ),
    "tar: names of names": (
        lambda p: tar_of_headers(
            p / "x.tar",
            *[tar_header("a", tarfile.GNUTYPE_LONGNAME, 1) + b"b" + bytes(511)] * 3000,
        ),
        "is damaged",
    ),
    "tar: longer than itself": (
        lambda p: tar_of_headers(p / "x.tar", tar_header("a.png", b"0", 2**40)),
        "is damaged",
    ),
    "tar: path out": (lambda p: tar_of(p / "x.tar", {"b/../../a.png": PNG}), "path out"),
    "tar: absolute": (lambda p: tar_of(p / "x.tar", {"/a.png": PNG}), "absolute path"),
    "tar: symlink": (lambda p: link_in_tar(p / "x.tar", tarfile.SYMTYPE), "is a link"),
    "tar: hard link": (lambda p: link_in_tar(p / "x.tar", tarfile.LNKTYPE), "is a link"),
    "tar: device": (lambda p: link_in_tar(p / "x.tar", tarfile.CHRTYPE), "no plain file"),
    "tar: twice": (lambda p: twice_in_tar(p / "x.tar"), "comes twice"),
    "tar: nested": (lambda p: tar_of(p / "x.tar", {"a.png": PNG, "b.tar": b""}), "archive in the"),
}


@pytest.mark.parametrize("name", HARM)
def test_harmful_archives_are_refused_whole(name: str, tmp_path: Path):
    make, message = HARM[name]
    archive = make(tmp_path)
    with pytest.raises(InputError, match=message):
        ImageSource(archive)
    outcome = run_command("embed", archive, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_no_damaged_archive_raises_anything_else(suffix: str, tmp_path: Path):
    """Cut, and with single bytes changed: read as before, refused, or one bad image."""
    make = zip_of if suffix == "zip" else tar_of
    whole = make(tmp_path / f"p.{suffix}", {"a.png": PNG, "b.png": PNG}).read_bytes()
    rng = np.random.default_rng(0)
    variants = [whole[:cut] for cut in range(0, len(whole), 101)]
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        variants.append(bytes(changed))
    outcomes = set()
    for content in variants:
        path = tmp_path / f"q.{suffix}"
        path.write_bytes(content)
        try:
            files = open_files(path)
            for name in files.names():
                files.read(name)
            outcomes.add("read")
        except (InputError, UnreadableImageError) as error:
            outcomes.add(type(error).__name__)
    assert {"read", "InputError"} <= outcomes


def test_entries_that_are_not_what_they_say_are_single_bad_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    packed = {"compression": zipfile.ZIP_DEFLATED}
    entries = {"good.png": PNG, "bomb.png": bytes(3 * 2**20), "lying.png": PNG + bytes(99)}
    path = zip_of(tmp_path / "p.zip", entries, **packed)
    content = bytearray(path.read_bytes())
    place = content.index(b"lying.png", content.index(b"PK\x01\x02")) - 46 + 24
    content[place : place + 4] = struct.pack("<I", len(PNG))  # the size that the directory tells
    path.write_bytes(content)
    files = open_files(path)
    assert files.read("good.png") == PNG
    with pytest.raises(UnreadableImageError, match="do not begin as an image"):
        files.read("bomb.png")
    with pytest.raises(UnreadableImageError, match=r"broken in the archive|its size is not"):
        files.read("lying.png")
    monkeypatch.setattr(archives, "MAX_BYTES", 10)
    with pytest.raises(UnreadableImageError, match="the limit of one file"):
        files.read("good.png")


def test_a_flat_bitmap_is_packed_small_and_read(tmp_path: Path):
    """A thousand times smaller, as deflate packs what is all the same."""
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000), "white").save(file, "BMP")
    packed = {"compression": zipfile.ZIP_DEFLATED}
    path = zip_of(tmp_path / "p.zip", {"flat.bmp": file.getvalue()}, **packed)
    assert path.stat().st_size * 500 < len(file.getvalue())
    assert ImageSource(path).decode("flat.bmp").image.getpixel((9, 9)) == (255, 255, 255)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_give_more_than_is_requested_are_not_read(kind: int, tmp_path: Path):
    files = open_files(zip_of(tmp_path / "p.zip", {"a.png": PNG}, compression=kind))
    with pytest.raises(UnreadableImageError, match="only deflate"):
        files.read("a.png")


def test_a_shard_that_became_shorter_is_a_bad_image(tmp_path: Path):
    path = tar_of(tmp_path / "p.tar", {"a.png": PNG})
    files = open_files(path)
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(UnreadableImageError, match="ends before"):
        files.read("a.png")


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
