"""generate.py of an export as its user runs it: names of files, and what cannot be done."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.export import runner
from lafite_shifted.io import png
from tests.commands import half_written


@pytest.fixture
def program(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an export, in a folder where it is run."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(exported, tmp_path / "onnx")) / "generate.py"


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: Path):
    """Runs the program: its exit code, and what it has said."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", [str(program), *words])
        code = 0
        try:
            runpy.run_path(str(program), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_each_sentence_has_a_file_of_its_own(generate, tmp_path: Path):
    long = "a very long sentence about a cat that sits on a mat and "
    texts = ["cat \U0001f431", "cat \U0001f436", long + "sleeps", long + "eats", "a cat", "A cat"]
    code, said = generate(*texts, "--out", "made")
    assert (code, said) == (0, "6 images in made\n")
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {f"{runner.slug(text)}-0000.png" for text in texts}
    assert len(names) == len(texts)


@pytest.mark.parametrize("text", ["a cat", "A cat", "cat \U0001f431", "\u732b", "x" * 90, "../a"])
def test_names_begin_as_those_of_generate(text: str):
    found, own = runner.slug(text), png.slug(text)
    assert found.startswith(own)
    assert found == own or len(found.rpartition("-")[2]) == 12


def test_one_image_is_one(generate, tmp_path: Path):
    assert generate("a cat", "a cat") == (0, "1 image in images\n")
    assert half_written(tmp_path / "images") == []


def test_images_say_how_they_were_made(generate, program: Path, tmp_path: Path):
    words = ("a \U0001f431", "--negative", "a dog", "--seed", "7", "--truncation", ".5")
    assert generate(*words)[0] == 0
    (file,) = (tmp_path / "images").iterdir()
    png.check_own_png(file)
    with Image.open(file) as image:
        found = dict(image.info)
    manifest = json.loads((program.parent / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads(found.pop("settings")) == {
        "guidance": 2.0,
        "negative": "a dog",
        "truncation": 0.5,
    }
    assert found == {
        "Software": "lafite-shifted",
        "prompt": "a \U0001f431",
        "seed": "7",
        "model": manifest["model"],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a cat", "--out", "file"], "--out file cannot be written: File exists"),
        (["a cat", "--out", "file/x"], "--out file/x cannot be written"),
        (["a cat", "--out", "x" * 300], "cannot be written: File name too long"),
        (["a cat", "--guidance", "nan"], "nan is no finite number"),
        (["a cat", "--guidance", "1e300"], "1e300 is no finite number"),
        (["a cat", "--truncation=-inf"], "-inf is no finite number"),
        (["a cat", " "], "a sentence is empty"),
        (["a cat", "--num-images", "0"], "--num-images is 0"),
        (["a cat", "--seed", "x"], "--seed"),
        (["a cat", "--negative", "a dog", "--guidance", "1"], "--negative acts through --guidance"),
        ([], "required"),
    ],
)
def test_refusals(generate, tmp_path: Path, words: list[str], message: str):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    code, said = generate(*words)
    assert code == 2
    assert message in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "onnx"]


@pytest.mark.parametrize(
    "name", ["manifest.json", "tokenizer.json", "text.onnx", "prior.onnx", "generator.onnx"]
)
def test_files_that_are_gone_or_damaged(generate, program: Path, tmp_path: Path, name: str):
    file = program.parent / name
    file.write_bytes(file.read_bytes()[:100])
    remedy = "Copy the folder again, or export it again.\n"
    assert generate("a cat") == (2, f"generate.py: {name} is damaged. {remedy}")
    file.unlink()
    reason = f"{name} cannot be read: No such file or directory"
    assert generate("a cat") == (2, f"generate.py: {reason}. {remedy}")
    assert not (tmp_path / "images").exists()


def test_a_write_that_fails_leaves_no_half_of_a_file(tmp_path: Path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OSError, match=r"x\.png"):
        runner.write(tmp_path / "x.png", b"content")
    assert half_written(tmp_path) == []


def test_help_describes_each_argument(generate):
    code, said = generate("--help")
    assert code == 0
    flags = ("--seed", "--num-images", "--guidance", "--negative", "--truncation", "--out")
    assert all(flag in said for flag in flags)
    assert said.count("(default: ") == len(flags)
