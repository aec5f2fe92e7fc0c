"""Which files of a folder are images is decided by content; whatever is not used is listed."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json_lines
from lafite_shifted.io.png import as_grid, save_png
from tests.commands import image_folder, succeed
from training.data.images import ImageSource


def content(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, format=kind)
    return file.getvalue()


def not_used(source: ImageSource) -> dict[str, str]:
    return {one.file_name: one.reason for one in source.not_used}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("name", ["a.jfif", "noextension", "a.jpg?w=640", "a.jpg_large", "a.bin"])
def test_an_image_is_found_by_content(name: str, kind: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content(kind))
    source = ImageSource(tmp_path)
    assert source.names == [name]
    assert source.decode(name).image.size == (8, 8)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "JPEG2000", "ICO"])
def test_an_image_of_another_format_is_named_whatever_it_is_called(kind: str, tmp_path: Path):
    image_folder(tmp_path, "a.png")
    if kind == "ICO":
        (tmp_path / "b").write_bytes(b"<?xml version='1.0'?>\n<svg xmlns='x'/>")
    else:
        (tmp_path / "b").write_bytes(content(kind))
    assert ImageSource(tmp_path).unusable() == [("b", "this format is not supported: convert it")]


def test_what_belongs_to_a_system_is_not_trained_on(tmp_path: Path):
    folder = image_folder(tmp_path, "a.jpg")
    folders = ("@eaDir/a.jpg", "#recycle", "$RECYCLE.BIN", ".thumbnails", "sub/@Recycle")
    for where in (*folders, "2024 Previews.lrdata", "CaptureOne/Cache"):
        image_folder(folder / where, "old.jpg", "older.jpg")
    (folder / "Thumbs.db").write_bytes(content("JPEG"))
    (folder / "._a.jpg").write_bytes(b"\0\5\x16\7")
    source = ImageSource(folder)
    assert source.names == ["a.jpg"]
    assert {one.file_name: one.count for one in source.not_used} == {
        **{"@eaDir/": 2, "#recycle/": 2, "$RECYCLE.BIN/": 2, ".thumbnails/": 2},
        **{"sub/@Recycle/": 2, "Thumbs.db": 1, "._a.jpg": 1},
        **{"2024 Previews.lrdata/": 2, "CaptureOne/": 2},
    }


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "a.seg.png"),
        ("a.jpg", "a_mask.png"),
        ("a.png", "a-masklabel.png"),
        ("images/a.jpg", "masks/a.png"),
        ("a.jpg", "masks/a_mask.png"),
        ("train/a.jpg", "train_labels/a.png"),
    ],
)
def test_masks_are_not_trained_on(image: str, mask: str, tmp_path: Path):
    for name in (image, mask):
        image_folder((tmp_path / name).parent, Path(name).name)
    source = ImageSource(tmp_path)
    assert source.names == [image]
    assert not_used(source) == {mask: "a mask or map of another image"}


def test_masks_by_themselves_and_classes_are_images(tmp_path: Path):
    """Nothing is a mask unless what it belongs to is there; "normal" may be a class."""
    for name in ("face_mask.png", "photo.v2.png", "photo.png", "normal/001.png", "broken/001.png"):
        image_folder((tmp_path / name).parent, Path(name).name)
    assert len(ImageSource(tmp_path)) == 5


def test_grids_and_runs_of_ours_are_not_trained_on(tmp_path: Path, gan_run: Path):
    folder = image_folder(tmp_path, "a.png", "my grid.png")
    shutil.copytree(gan_run, folder / "runs" / "one")
    shutil.copytree(gan_run / "grids", folder / "old grids")
    save_png(folder / "grid.png", as_grid(Image.new("RGB", (64, 64))), {"model": "x"})
    save_png(folder / "all.png", as_grid(Image.new("RGB", (64, 64))), {"model": "x"})
    save_png(folder / "a-cat-0000.png", Image.new("RGB", (64, 64)), {"prompt": "a cat"})
    source = ImageSource(folder)
    assert source.names == ["a-cat-0000.png", "a.png", "my grid.png"]
    assert not_used(source)["runs/one/"] == "a run of lafite-shifted"
    for name in ("grid.png", "all.png"):
        assert not_used(source)[name].startswith("a grid of lafite-shifted")
    assert sum(name.startswith("old grids/") for name in not_used(source)) > 0


def test_shards_beside_their_tables(tmp_path: Path):
    """As img2dataset writes them; the suffix in capitals."""
    for number in range(2):
        with tarfile.open(tmp_path / f"{number:05d}.TAR", "w") as archive:
            member = tarfile.TarInfo("0.jpg")
            member.size = len(content("JPEG"))
            archive.addfile(member, io.BytesIO(content("JPEG")))
        (tmp_path / f"{number:05d}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{number:05d}_stats.json").write_text("{}", encoding="utf-8")
    source = ImageSource(tmp_path)
    assert source.names == ["00000.TAR/0.jpg", "00001.TAR/0.jpg"]
    assert len(source.not_used) == 4


def test_a_folder_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch):
    folder = image_folder(tmp_path, "a.png")
    image_folder(folder / "private", "b.png")
    listed = Path.iterdir

    def refused(path: Path):
        if path.name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    source = ImageSource(folder)
    assert source.names == ["a.png"]
    assert not_used(source) == {"private/": "the folder cannot be read: Permission denied"}


def test_an_archive_among_others_says_what_to_do(tmp_path: Path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"\.gz\)\. Give a folder.* Unpack archives"):
        ImageSource(tmp_path)
    image_folder(tmp_path, "a.png")
    assert "unpack it" in not_used(ImageSource(tmp_path))["a.tar.gz"]


def test_all_that_is_not_used_is_told_and_reported(tmp_path: Path):
    folder = image_folder(tmp_path / "images", "a.png", "b.png", "b_mask.png")
    image_folder(folder / "@eaDir", "a.jpg", "b.jpg")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / "lonely.txt").write_text("a caption", encoding="utf-8")
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "2 images embedded" in outcome.err
    line = next(line for line in outcome.err.splitlines() if line.startswith("not used"))
    for part in ("2 of a system", "1 a mask", "1 no image, first notes.pdf", "1 no image of its"):
        assert part in line
    rows = read_json_lines(tmp_path / "out" / "report.jsonl")
    named = {row["file_name"]: row.get("count", 1) for row in rows}
    assert named == {"b_mask.png": 1, "@eaDir/": 2, "notes.pdf": 1, "lonely.txt": 1}
    again = succeed("embed", folder, "--out", tmp_path / "out")
    assert "2 reused" in again.err
    assert line in again.err
