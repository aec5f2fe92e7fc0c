"""The two image sets, built from small imitations of their packages."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json, read_json_lines
from tests.commands import half_written, run_command
from tests.training.data.packages import NAMES
from training.data import datasets
from training.data.datasets import Entry, build_dataset, few_skin_tones
from training.data.images import ImageSource
from training.data.split import is_held_out


@pytest.mark.usefixtures("npm")
def test_emoji_become_squares_on_white_with_names(tmp_path: Path):
    built = build_dataset("emoji", tmp_path / "emoji", size=32)
    rows = {row["file_name"]: row for row in read_json_lines(tmp_path / "emoji" / "metadata.jsonl")}
    assert built.num_images == len(rows) == 17
    sources = read_json(tmp_path / "emoji" / "sources.json")
    packages = [datasets.NPM_PACKAGES[part] for part in ("flat", "3d", "names")]
    assert sources["packages"] == sorted(packages)
    assert all("@" in package[1:] for package in sources["packages"])  # versions are pinned
    assert rows["flat-1f402.png"] == {
        "file_name": "flat-1f402.png",
        "text": "thing cat",
        "tags": ["animal"],
        "style": "flat",
    }
    assert rows["3d-1f402.png"]["text"] == "thing cat"  # in spite of its variation selector
    with Image.open(tmp_path / "emoji" / "3d-1f407.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
        assert image.getpixel((16, 2)) == (255, 255, 255)
        assert image.getpixel((16, 16)) == (0, 7, 0)
    assert set(ImageSource(tmp_path / "emoji").names) == set(rows)
    assert half_written(tmp_path) == []


def test_variants_of_skin_tone_can_be_few():
    """Chosen for each style, and each name without its tone; what has none is kept."""
    tones = ("light", "medium", "dark")
    names = ["cook", *(f"cook: {tone} skin tone" for tone in tones), "ant"]
    names += [f"man: {tone} skin tone, beard" for tone in tones]
    entries = [
        Entry(f"{style}-{number}", Path("x"), name, [], style)
        for style in ("flat", "3d")
        for number, name in enumerate(names)
    ]
    for count, expected in ((0, 4), (1, 8), (2, 12), (3, 16), (9, 16)):
        kept = few_skin_tones(entries, count)
        assert len(kept) == expected
        assert kept == [entry for entry in entries if entry in kept]
        assert {entry.text for entry in kept} >= {"cook", "ant"}
    assert Counter(entry.style for entry in few_skin_tones(entries, 1)) == {"flat": 4, "3d": 4}


@pytest.mark.usefixtures("npm")
def test_variants_of_skin_tone_are_left_out_by_the_verb(tmp_path: Path):
    out = tmp_path / "emoji"
    result = run_command("dataset", "emoji", "--out", out, "--skin-tones", "0")
    assert (result.code, "16 images in" in result.out) == (0, True)
    assert not any("skin tone" in r["text"] for r in read_json_lines(out / "metadata.jsonl"))
    assert read_json(out / "sources.json")["skin_tones"] == 0
    assert run_command("dataset", "clipart", "--out", "x", "--skin-tones", "0").code == 2


@pytest.mark.usefixtures("npm")
def test_all_styles_are_earlier_drawings_and_those_in_svg(tmp_path: Path):
    out = tmp_path / "emoji"
    result = run_command("dataset", "emoji", "--out", out, "--all-styles")
    assert (result.code, "51 images in" in result.out) == (0, True)
    rows = read_json_lines(out / "metadata.jsonl")
    fluent = {"3d": 8, "fluent2d": 8, "fluent25d": 8}
    assert Counter(row["style"] for row in rows) == {"flat": 9, "noto3": 9, "noto7": 9} | fluent
    assert result.err.count("not a readable SVG") == 2
    for style in ("fluent2d", "fluent25d"):
        with Image.open(out / f"{style}-1f407.png") as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")
            assert image.getpixel((4, 4)) == (255, 255, 255)
            assert image.getpixel((32, 32)) == (7, 99, 0)
    held_out = set(read_json(out / "split.json")["held_out"])
    sides = {(row["text"], row["file_name"] in held_out) for row in rows}
    assert len(sides) == 9  # a name is on one side in all styles
    assert len(read_json(out / "sources.json")["packages"]) == 7


@pytest.mark.usefixtures("npm")
def test_without_resvg_all_styles_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    out = tmp_path / "emoji"
    result = run_command("dataset", "emoji", "--out", out, "--all-styles")
    assert (result.code, result.out) == (2, "")
    assert "pip install 'lafite-shifted[starter]'" in result.err
    assert half_written(tmp_path) == []
    assert not out.exists()


@pytest.mark.usefixtures("npm")
def test_unreadable_drawing_is_reported(tmp_path: Path):
    built = build_dataset("emoji", tmp_path / "emoji", size=32)
    assert [name for name, _ in built.bad] == ["1f400-1f3fb.webp"]
    report = read_json_lines(tmp_path / "emoji" / "report.jsonl")
    assert [row["file_name"] for row in report] == ["1f400-1f3fb.webp"]


@pytest.mark.usefixtures("npm")
def test_split_beside_the_images_is_that_of_the_contract(tmp_path: Path):
    built = build_dataset("emoji", tmp_path / "emoji", size=32)
    held_out = read_json(tmp_path / "emoji" / "split.json")["held_out"]
    words = {name for name in NAMES if is_held_out(name)}
    assert 0 < len(words) < len(NAMES)
    rows = read_json_lines(tmp_path / "emoji" / "metadata.jsonl")
    expected = [row["file_name"] for row in rows if row["text"].split(":")[0] in words]
    assert held_out == sorted(expected)
    assert built.num_held_out == len(expected)


@pytest.mark.usefixtures("npm")
def test_a_third_style_is_divided_as_the_others_are(tmp_path: Path):
    build_dataset("emoji", tmp_path / "emoji", size=32)
    build_dataset("twemoji", tmp_path / "twemoji", size=32)
    sides = []
    for name in ("emoji", "twemoji"):
        held_out = set(read_json(tmp_path / name / "split.json")["held_out"])
        rows = read_json_lines(tmp_path / name / "metadata.jsonl")
        sides.append({row["text"]: row["file_name"] in held_out for row in rows})
    assert len(sides[1]) == 9
    assert sides[0] == sides[1]
    assert {row["style"] for row in rows} == {"twemoji"}


@pytest.mark.usefixtures("npm")
def test_raw_keeps_the_files_as_they_are(tmp_path: Path):
    build_dataset("emoji", tmp_path / "raw", size=32, raw=True)
    assert (tmp_path / "raw" / "3d-1f400-1f3fb.webp").read_bytes() == b"broken"
    with Image.open(tmp_path / "raw" / "3d-1f402.webp") as image:
        assert image.size == (160, 80)


SVG = """<svg><metadata><dc:title>Tom &amp;\x9a Jerry</dc:title>
<dc:subject><rdf:Bag><rdf:li>cat &amp; mouse\x82</rdf:li></rdf:Bag></dc:subject></metadata>"""


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `apt-get download` and `dpkg -x` give, with three drawings."""

    def run(command: str, *arguments: str, cwd: Path) -> None:
        if command == "apt-get":
            (cwd / "openclipart-png.deb").touch()
            return
        root = Path(arguments[-1]) / "usr/share/openclipart"
        for kind in ("png", "svg"):
            (root / kind / "animals").mkdir(parents=True)
        for stem in ("tom_01", "plain_drawing_07", "untitled_thing_03"):
            Image.new("RGB", (60, 30), "blue").save(root / f"png/animals/{stem}.png")
        (root / "svg/animals/tom_01.svg").write_text(SVG, encoding="utf-8")
        untitled = "<dc:title>Untitled</dc:title>"
        (root / "svg/animals/untitled_thing_03.svg").write_text(untitled, encoding="utf-8")

    monkeypatch.setattr(datasets, "run_tool", run)


@pytest.mark.usefixtures("debian")
def test_clipart_takes_titles_unescaped_or_file_names(tmp_path: Path):
    build_dataset("clipart", tmp_path / "clipart", size=64)
    rows = read_json_lines(tmp_path / "clipart" / "metadata.jsonl")
    assert [row["text"] for row in rows] == ["plain drawing", "Tom & Jerry", "untitled thing"]
    assert rows[1]["tags"] == ["cat & mouse", "animals"]
    assert rows[1]["file_name"] == "00001-tom_01.png"
    captions = ImageSource(tmp_path / "clipart").captions
    assert captions["00001-tom_01.png"] == ["Tom & Jerry"]  # control characters are left out
    assert len(captions) == 3
    with Image.open(tmp_path / "clipart" / "00001-tom_01.png") as image:
        assert image.size == (64, 64)


@pytest.mark.usefixtures("npm")
def test_used_folder_is_refused(tmp_path: Path):
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match="is not empty"):
        build_dataset("emoji", tmp_path / "emoji", size=32)
    assert [p.name for p in (tmp_path / "emoji").iterdir()] == ["mine.txt"]


def test_missing_npm_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"`npm` is not installed\. Install Node\.js"):
        build_dataset("emoji", tmp_path / "emoji", size=32)
    assert list(tmp_path.iterdir()) == []


def test_failing_download_shows_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'npm error: no network' >&2\nexit 1\n", encoding="utf-8")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/bin:/usr/bin")
    with pytest.raises(
        InputError, match=r"`npm pack emojibase-data@[0-9.]+` failed: npm error.*network"
    ):
        build_dataset("emoji", tmp_path / "emoji", size=32)
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]
