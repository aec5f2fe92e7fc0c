"""Captions in every layout and encoding in use are read; what cannot be is named, and fails
nothing.
"""

import io
import json
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.commands import (
    TINY_GAN,
    TINY_PRIOR,
    assert_refused,
    image_folder,
    run_command,
    succeed,
)
from training.data.captions.text_encoding import UndecodableTextError, decode_text
from training.data.images import ImageSource

SENTENCE = "the painter\N{RIGHT SINGLE QUOTATION MARK}s café"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_encodings(encoding: str):
    assert decode_text(SENTENCE.encode(encoding)) == SENTENCE


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("красная кошка", "cp1251"),
        ("красная кошка", "koi8-r"),
        ("赤い猫と青い犬", "shift-jis"),
        ("红色的猫", "gbk"),
        ("κόκκινη γάτα", "iso8859-7"),
    ],
)
def test_other_alphabets_are_refused_not_guessed(text: str, encoding: str):
    with pytest.raises(UndecodableTextError, match="save it as UTF-8"):
        decode_text(text.encode(encoding))


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff\xe0\0\x10JFIF", bytes(range(256)), b"\xe9\x01b"]
)
def test_what_is_no_text_is_refused(content: bytes):
    with pytest.raises(UndecodableTextError):
        decode_text(content)


def test_spoilt_captions_are_named_and_not_used(tmp_path: Path):
    folder = image_folder(tmp_path, "a.png", "b.png", "c.png")
    (folder / "a.txt").write_bytes("красная кошка".encode("cp1251"))
    (folder / "b.txt").write_text("caf\ufffd", encoding="utf-8")
    (folder / "c.txt").write_bytes(SENTENCE.encode("utf-16"))
    source = ImageSource(folder)
    assert source.captions == {"c.png": [SENTENCE]}
    reasons = dict(source.caption_problems)
    assert reasons.keys() == {"a.txt", "b.txt"}
    assert "UTF-8" in reasons["a.txt"]
    assert "restore it" in reasons["b.txt"]


# --- tables


@pytest.mark.parametrize("spoilt", ["Mikol\xe1\x9a", "caf\ufffd", "a\x01"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_spoilt_caption_costs_no_other_row(suffix: str, spoilt: str, tmp_path: Path):
    folder = image_folder(tmp_path, "a.png", "b.png")
    rows = [("a.png", spoilt), ("b.png", "a house")]
    lines = {
        ".jsonl": [
            json.dumps({"file_name": name, "text": text}, ensure_ascii=False) for name, text in rows
        ],
        ".csv": ["file_name,text", *(f"{name},{text}" for name, text in rows)],
    }[suffix]
    (folder / f"metadata{suffix}").write_text("\n".join(lines), encoding="utf-8")
    source = ImageSource(folder)
    assert source.captions == {"b.png": ["a house"]}
    ((place, _),) = source.caption_problems
    assert place == f"metadata{suffix}, line {1 + (suffix == '.csv')}"


@pytest.mark.parametrize("caption", ["text", "caption", "prompt"])
@pytest.mark.parametrize("name", ["file_name", "image", "path"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_tables_under_any_of_their_names(suffix: str, name: str, caption: str, tmp_path: Path):
    """Several rows an image, in every split's own folder."""
    for split in ("train", "test"):
        folder = image_folder(tmp_path / split, "a.png", "b.png")
        rows = [("a.png", f"a cat, of {split}"), ("a.png", "a tabby"), ("b.png", 'a "dog"')]
        fields = [{name: file, "width": 3, caption: text} for file, text in rows]
        lines = [json.dumps(row) for row in fields]
        if suffix != ".jsonl":
            mark = "," if suffix == ".csv" else "\t"
            quoted = [(file, text.replace('"', '""')) for file, text in rows]
            lines = [f"{name}{mark}width{mark}{caption}"]
            lines += [f'{file}{mark}3{mark}"{text}"' for file, text in quoted]
        (folder / f"metadata{suffix}").write_text("\r\n".join(lines), encoding="utf-8-sig")
    source = ImageSource(tmp_path)
    assert source.captions == {
        **{f"{split}/a.png": [f"a cat, of {split}", "a tabby"] for split in ("train", "test")},
        **{f"{split}/b.png": ['a "dog"'] for split in ("train", "test")},
    }
    assert source.caption_problems == []
    assert source.not_used == []


def test_a_parquet_table_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    folder = image_folder(tmp_path / "images", *(f"{c}x.png" for c in "abcdefgh"))
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "metadata.parquet: needs pyarrow: pip install" in outcome.err
    outcome = run_command("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(outcome, "has no captions", "metadata.parquet: needs pyarrow")


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_parquet_table_is_read(tmp_path: Path, compression: str):
    """As Hugging Face's data sets write it, several captions an image and a column of no use."""
    images = [{"path": name, "bytes": None} for name in ("a.png", "a.png", "sub/b.png")]
    columns = {
        "image": pyarrow.array(images),
        "text": pyarrow.array(["a cat", "ein Kätzchen", None]),
        "embedding": pyarrow.array([[0.0], [1.0], [2.0]]),
    }
    folder = image_folder(tmp_path, "a.png")
    image_folder(tmp_path / "sub", "b.png")
    file = folder / "metadata.parquet"
    parquet.write_table(pyarrow.table(columns), file, compression=compression)
    source = ImageSource(folder)
    assert source.captions == {"a.png": ["a cat", "ein Kätzchen"]}
    file.write_bytes(file.read_bytes()[:-20])
    problems = ImageSource(folder).caption_problems
    assert "damaged, or no parquet" in problems[0][1]


def test_columns_mean_the_same_in_capitals(tmp_path: Path):
    folder = image_folder(tmp_path, "a.png")
    (folder / "metadata.csv").write_text("File_Name;Text\na.png;a house\n", encoding="utf-8")
    assert ImageSource(folder).captions == {"a.png": ["a house"]}


@pytest.mark.parametrize("listed", ["sub\\café.png", "./sub/café.png", "sub/CAFÉ.PNG"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_meet_however_they_are_spelt(form: str, listed: str, tmp_path: Path):
    name = unicodedata.normalize(form, "café.png")
    image_folder(tmp_path / "sub", name)
    row = json.dumps({"file_name": listed, "text": "a house"})
    (tmp_path / "metadata.jsonl").write_text(row, encoding="utf-8")
    source = ImageSource(tmp_path)
    assert source.captions == {f"sub/{name}": ["a house"]}
    assert source.caption_problems == []


def test_a_backslash_may_belong_to_a_name(tmp_path: Path):
    image_folder(tmp_path, "a\\b.png")
    image_folder(tmp_path / "a", "b.png", "c.png")
    rows = [{"file_name": name, "text": name} for name in ("a\\b.png", "a/b.png", "a\\c.png")]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    expected = {"a\\b.png": ["a\\b.png"], "a/b.png": ["a/b.png"], "a/c.png": ["a\\c.png"]}
    assert ImageSource(tmp_path).captions == expected


def test_names_that_differ_in_case_alone_are_not_mixed_up(tmp_path: Path):
    image_folder(tmp_path, "a.png", "A.png")
    rows = [{"file_name": name, "text": name} for name in ("a.png", "A.png", "a.PNG")]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    source = ImageSource(tmp_path)
    assert source.captions == {"a.png": ["a.png"], "A.png": ["A.png"]}
    assert source.caption_problems == [("metadata.jsonl, line 3", "'a.PNG' is no file here")]


def test_a_table_of_files_that_are_elsewhere_ends_nothing(tmp_path: Path):
    """Absolute names of another machine; images need no captions, a prior says what it found."""
    folder = image_folder(tmp_path / "images", *(f"{c}x.png" for c in "abcdefgh"))
    rows = [{"file_name": f"/data/{c}x.png", "text": "a house"} for c in "abcdefgh"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "8 images embedded" in outcome.err
    assert "metadata.jsonl, line 1: '/data/ax.png' is no file here" in outcome.err
    refused = run_command("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(refused, "has no captions", "'/data/ax.png' is no file here")


def test_a_table_without_captions_says_which_columns_it_has(tmp_path: Path):
    image_folder(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,3\n", encoding="utf-8")
    source = ImageSource(tmp_path)
    assert source.captions == {}
    ((place, reason),) = source.caption_problems
    assert place == "metadata.csv"
    assert "but file_name, label" in reason


def test_a_folder_that_was_zipped_whole(tmp_path: Path):
    image_folder(tmp_path / "photos", "a.png")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(tmp_path / "photos" / "a.png", "photos\\a.png")
        archive.writestr("photos/metadata.jsonl", '{"file_name": "a.png", "text": "a house"}')
    assert ImageSource(tmp_path / "p.zip").captions == {"photos/a.png": ["a house"]}


# --- beside an image


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a cat\n\nan animal\n"),
        ("a.TXT", "a cat\nan animal"),
        ("a.png.txt", "a cat\nan animal"),
        ("a.caption", "a cat\r\nan animal"),
        ("a.json", '{"prompt": ["a cat", "an animal"]}'),
    ],
)
def test_files_of_the_same_name(name: str, content: str, tmp_path: Path):
    image_folder(tmp_path, "a.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert ImageSource(tmp_path).captions == {"a.png": ["a cat", "an animal"]}


def tar_of(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_names_of_several_parts_in_a_tar(tmp_path: Path):
    """What has one name up to its first dot is one sample."""
    png = (image_folder(tmp_path, "x.png") / "x.png").read_bytes()
    entries = {
        **{"./s/0001.image.png": png, "./s/0001.tags.txt": b"red", "./s/0001.caption.txt": b"one"},
        **{"0002.JPG": png, "0002.TXT": b"two", "0002.seg.png": png},
        **{"0003.v1.png": png, "0003.meta.json": b'{"caption": "three"}'},
    }
    source = ImageSource(tar_of(tmp_path / "p.tar", entries))
    assert source.captions == {
        "s/0001.image.png": ["one"],
        "0002.JPG": ["two"],
        "0003.v1.png": ["three"],
    }


# --- what needs none


def test_nothing_that_needs_no_captions_fails_for_them(tmp_path: Path):
    folder = image_folder(tmp_path / "images", *(f"{c}x{d}.png" for c in "abcd" for d in "ab"))
    (folder / "metadata.jsonl").write_text('{"file_name": "axa.png"}\nno json', encoding="utf-8")
    (folder / "axb.json").write_text("{", encoding="utf-8")
    (folder / "bxa.txt").write_bytes(b"\xff\xfe\xff")
    out = tmp_path / "run"
    outcome = succeed("train-gan", folder, "--out", out, *TINY_GAN, "--set", "hold_out=false")
    for name in (
        "metadata.jsonl, line 2: not valid JSON",
        "axb.json: not valid",
        "bxa.txt: no UTF-16",
    ):
        assert name in outcome.err
    report = (out / "embeddings" / "report.jsonl").read_text(encoding="utf-8")
    assert "metadata.jsonl, line 2" in report
