"""`dataset convert`: what images are called in the copy."""

import json
import posixpath
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.io.files import read_json_lines
from tests.commands import succeed
from tests.training.data.files.packed import PNG, zip_of
from training.data.images import ImageSource

ODD_NAMES = {  # and what they become in a PNG's set, without suffix
    "C:x.png": "C_x",
    "Q: who?.jpg": "Q_ who_",
    "C:/Users/me.png": "C_/Users/me",
    'a "quoted" <name>|*.png': "a _quoted_ _name___",
    "back\\slash.png": "back_slash",
    "two\nlines.png": "two_lines",
    "con.png": "con_",
    "aux/lpt1.png": "aux_/lpt1_",
    "holiday /a.png": "holiday_/a",
    ":thumbs/a.png": "_thumbs_/a",  # _thumbs is another program's
    "holiday v1.2": "holiday v1_2",
    "packed.zip": "packed_zip",
    "no image.json": "no image_json",
    "cafe\u0301.png": "cafe\u0301",
    "caf\u00e9.png": "caf\u00e9-2",  # composed and decomposed are one name to macOS
    "-rf.png": "-rf",
    "Re.png": "Re",
    "Re:label.png": "Re_label-2",  # Re_label would be a map of Re
    "~#%&{} $x=1;.png": "~#%&{} $x=1;",
    "\u5199\u771f.webp": "\u5199\u771f",
    "x" * 250 + ".png": "x" * 226,
}


def test_names_that_shards_have_in_common_keep_the_shards_name(tmp_path: Path):
    shards, out = tmp_path / "shards", tmp_path / "out"
    shards.mkdir()
    for shard, key in (("a", "0"), ("b", "0"), ("b", "1")):
        with tarfile.open(shards / f"{shard}.tar", "a") as archive:
            file = tmp_path / f"{key}.png"
            Image.new("RGB", (20, 20), (0, int(key) * 200, ord(shard))).save(file)
            archive.add(file, file.name)
            file.unlink()
    outcome = succeed("dataset", "convert", shards, out, "--json")
    assert ImageSource(out).names == ["1.png", "a_tar/0.png", "b_tar/0.png"]
    assert json.loads(outcome.out)["renamed"] == 2


@pytest.mark.parametrize("layout", ["zip", "folder", "shards"])
def test_what_is_written_is_read_whatever_the_names(tmp_path: Path, layout: str):
    """`embed` takes what `convert` wrote; names that some system cannot unpack are changed."""
    folder, target = tmp_path / "images", tmp_path / ("set.zip" if layout == "zip" else "set")
    for number, name in enumerate(ODD_NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (10 * number, 9, 9)).save(folder / name, "PNG")
    outcome = succeed("dataset", "convert", folder, target, "--layout", layout)
    assert "have other names, first " in outcome.err
    source = ImageSource(target)
    by_colour = [source.decode(name).image.getpixel((0, 0))[0] // 10 for name in source.names]
    stems = [posixpath.splitext(name)[0].removeprefix("shard-00000.tar/") for name in source.names]
    assert dict(sorted(zip(by_colour, stems, strict=True))) == dict(enumerate(ODD_NAMES.values()))
    assert source.unusable() == []
    succeed("embed", target, "--out", tmp_path / "embeddings")
    assert len(read_json_lines(tmp_path / "embeddings" / "index.jsonl")) == len(ODD_NAMES)


def test_a_colon_in_a_foreign_archive_is_no_way_out(tmp_path: Path):
    """Archives are never unpacked: only a path that begins at a drive is refused."""
    archive = zip_of(tmp_path / "set.zip", {"C:x.png": PNG, "a: b/c.png": PNG})
    assert ImageSource(archive).names == ["C:x.png", "a: b/c.png"]
    succeed("dataset", "convert", archive, tmp_path / "set")
    assert ImageSource(tmp_path / "set").names == ["C_x.png", "a_ b/c.png"]
