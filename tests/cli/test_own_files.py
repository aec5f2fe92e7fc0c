"""No file that another program wrote is written over or taken for ours; a name means what it means
in a shell, then and later.
"""

import json
import shutil
from pathlib import Path

import pytest

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.io.files import read_json, read_json_lines
from lafite_shifted.io.shell import absolute
from lafite_shifted.io.starter import starter_clip
from tests.commands import (
    TINY_GAN,
    TINY_PRIOR,
    assert_refused,
    image_folder,
    run_command,
    succeed,
)
from training.data.split import is_held_out

NAMES = [f"w{letter}x.png" for letter in "abcdefghijkl"]


def captioned(folder: Path) -> Path:
    for name in image_folder(folder, *NAMES).glob("*.png"):
        name.with_suffix(".txt").write_text(f"house {name.stem}", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["index.jsonl", "report.jsonl"])
@pytest.mark.parametrize(
    "content", ['{"id": 1, "url": "x"}\n', "[1, 2]\n", "no json at all", '"file_name"', "\0\1"]
)
def test_a_file_of_the_name_of_ours_survives(name: str, content: str, tmp_path: Path):
    folder = captioned(tmp_path / "images")
    (folder / name).write_text(content, encoding="utf-8")
    before = sorted(path.name for path in folder.iterdir())
    refused = run_command("embed", folder, "--out", folder)
    assert_refused(refused, f"{name} was not written by lafite-shifted", "Choose another --out")
    assert (folder / name).read_text(encoding="utf-8") == content
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_set_with_an_index_of_its_own_is_a_set_of_images(tmp_path: Path):
    folder = captioned(tmp_path / "images")
    (folder / "index.jsonl").write_text('{"id": 1}\n', encoding="utf-8")
    succeed("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(run_command("stats", folder, "--out", tmp_path / "s"), "index.jsonl")


def test_shards_of_another_program_are_not_removed(tmp_path: Path):
    folder = image_folder(tmp_path / "images", *NAMES)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("shard-00000.safetensors", "shard-mine.safetensors"):
        (out / name).write_bytes(b"mine")
    succeed("embed", folder, "--out", out)
    assert (out / "shard-00000.safetensors").read_bytes() == b"mine"
    assert read_json_lines(out / "index.jsonl")[0]["shard"] == "shard-00001.safetensors"


@pytest.mark.parametrize("name", ["grid.png", "a-cat-0000.png", "grid.txt"])
def test_generate_writes_over_nothing_but_its_own(name: str, model_folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    command = ("generate", "a cat", "--model", model_folder, "--out", out, "--num-images", "1")
    assert_refused(run_command(*command), f"{name} was not written by lafite-shifted")
    assert [path.name for path in out.iterdir()] == [name]
    (out / name).unlink()
    succeed(*command)
    succeed(*command)


@pytest.mark.parametrize("flag", ["--plot", "--out"])
def test_stats_writes_over_nothing_but_its_own(flag: str, some_embeddings: Path, tmp_path: Path):
    """A plot, or statistics, under a name of the user's choice."""
    file = tmp_path / "mine"
    file.write_bytes(b"mine")
    command = ("stats", some_embeddings, flag, file)
    assert_refused(run_command(*command), f"{file} was not written by lafite-shifted")
    assert file.read_bytes() == b"mine"
    file.unlink()
    succeed(*command)
    succeed(*command)


def test_statistics_are_not_written_over_embeddings(some_embeddings: Path, tmp_path: Path):
    folder = Path(shutil.copytree(some_embeddings, tmp_path / "embeddings"))
    shard = folder / "shard-00000.safetensors"
    before = shard.read_bytes()
    assert_refused(run_command("stats", folder, "--out", shard), "holds something else")
    assert shard.read_bytes() == before


def test_a_run_of_another_format_is_told_apart(gan_run: Path, some_images: Path, tmp_path: Path):
    shutil.copytree(gan_run, tmp_path / "run")
    record = read_json(tmp_path / "run" / "config.json")
    (tmp_path / "run" / "config.json").write_text(json.dumps(record | {"format": 99}))
    outcome = run_command("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
    assert_refused(outcome, "config.json has format 99", "install the version")


# --- names


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    image_folder(home / "photos", *NAMES)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    shutil.copytree(starter_clip(), home / "my-clip")
    succeed("embed", "~/photos", "--out=~/runs/a", "--clip=~/my-clip")
    assert (home / "runs" / "a" / "index.jsonl").is_file()
    succeed("train-gan", "~/photos", "--out=~/run", *TINY_GAN)
    succeed("pack", "--gan=~/run", "--out=~/model")
    succeed("generate", "a cat", "--model=~/model", "--out=~/made", "--num-images", "1")
    assert list(here.iterdir()) == []


def test_a_relative_clip_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    image_folder(here / "photos", *NAMES)
    shutil.copytree(starter_clip(), here / "my-clip")
    monkeypatch.chdir(here)
    train = ("train-gan", "photos", "--out", "run", *TINY_GAN)
    succeed(*train, "--clip", "my-clip")
    succeed(*train, "--clip", "./my-clip")  # the same run
    monkeypatch.chdir(elsewhere)
    record = read_json(here / "run" / "config.json")
    assert EncoderId.from_json(record["encoder"]).model == str(here / "my-clip")
    succeed("evaluate", "gan", "../here/run", "../here/photos", "--out", "report")


def test_a_relative_name_is_recorded_alike_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run of `--init ../here/run` resumes from wherever it is started."""
    (tmp_path / "here" / "run").mkdir(parents=True)
    (tmp_path / "there").symlink_to(tmp_path / "here" / "run")
    monkeypatch.chdir(tmp_path / "here")
    found = {absolute(name) for name in ("run", "./run", "../here/run", "../there/../run")}
    assert found == {str(tmp_path / "here" / "run")}
    assert absolute("../there") == str(tmp_path / "here" / "run")
    assert absolute(str(tmp_path / "there")) == str(tmp_path / "there")


@pytest.mark.parametrize("verb", ["embed", "train-gan"])
def test_names_that_the_file_system_refuses(verb: str, tmp_path: Path):
    folder = image_folder(tmp_path / "images", *NAMES)
    (tmp_path / "loop").symlink_to("loop")
    long = tmp_path / ("x" * 300)
    assert_refused(run_command(verb, folder, "--out", long), "the name is too long")
    assert_refused(run_command(verb, long, "--out", tmp_path / "out"), "the name is too long")
    looped = run_command(verb, folder, "--out", tmp_path / "loop" / "out")
    assert_refused(looped, "links lead round in a circle")


def test_an_image_that_goes_while_it_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from training.data.files.sources import FolderFiles

    folder, read = image_folder(tmp_path / "images", *NAMES), FolderFiles.read

    def vanishing(self: FolderFiles, name: str) -> bytes:
        content = read(self, name)
        if name == "wcx.png":
            (self.where / name).unlink()
        return content

    monkeypatch.setattr(FolderFiles, "read", vanishing)
    outcome = succeed("embed", folder, "--out", tmp_path / "out", "--max-bad", "10%")
    assert "11 images embedded" in outcome.err
    assert "wcx.png: the file does not exist" in outcome.err


def test_a_set_of_which_nothing_is_held_out_says_so(tmp_path: Path):
    thing = next(word for word in ("garden", "door", "sea", "hall") if not is_held_out(word))
    folder = image_folder(tmp_path / "images", *(f"{thing} {number}.png" for number in range(8)))
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "none of them is held out" in outcome.err


@pytest.mark.parametrize("name", ["report.json", "report.md", "grid.png"])
def test_evaluate_writes_over_nothing_but_its_own(
    name: str, gan_run: Path, some_images: Path, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"mine": 1}', encoding="utf-8")
    outcome = run_command("evaluate", "gan", gan_run, some_images, "--out", tmp_path / "out")
    assert_refused(outcome, f"{name} was not written by lafite-shifted")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
