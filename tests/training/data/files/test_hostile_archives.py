"""Archives made to harm are refused whole; a damaged entry is one bad image."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from tests.commands import run_command
from tests.training.data.files.packed import PNG, tar_of, zip_of
from training.data.files import archives
from training.data.files.image_files import UnreadableImageError
from training.data.files.sources import open_files
from training.data.images import ImageSource


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
    "zip: drive": (lambda p: zip_of(p / "x.zip", {"C:\\a.png": PNG}), "absolute path"),
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
