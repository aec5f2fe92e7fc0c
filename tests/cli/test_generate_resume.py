"""`generate --resume`: what a run that was stopped leaves, and what the next one makes of it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.decoder.inference import InferenceGenerator
from lafite_shifted.io.files import read_json_lines
from lafite_shifted.io.manifest import Manifest
from lafite_shifted.io.png import slug
from tests.cli.test_generate_many import images
from tests.commands import Outcome, assert_refused, half_written, run_command, succeed


class Made:
    """Images that the generator has made."""

    def __init__(self, patch: pytest.MonkeyPatch, stop_after: int | None = None):
        self.count = 0
        synthesise = InferenceGenerator.synthesise

        def counted(network, w, condition, **rest):
            if stop_after is not None and self.count >= stop_after:
                raise KeyboardInterrupt
            self.count += len(w)
            return synthesise(network, w, condition, **rest)

        patch.setattr(InferenceGenerator, "synthesise", counted)


def run_counted(*arguments: str | Path, stop_after: int | None = None) -> tuple[Outcome, int]:
    with pytest.MonkeyPatch.context() as patch:
        made = Made(patch, stop_after)
        return run_command(*arguments), made.count


def test_resume_makes_what_is_missing(flags: tuple, out: Path):
    command = ("generate", "a cat", "a dog", *flags, "--num-images", "3", "--as", "files")
    command += ("--as", "grid", "--as", "sheet")
    outcome, count = run_counted(*command)
    assert count == 6
    expected, grid = images(out), (out / "grid.png").read_bytes()
    (out / "a-dog-0001.png").unlink()
    (out / "a-cat-0002.png").unlink()
    outcome, count = run_counted(*command, "--resume")
    assert count == 2
    assert "(4 were there)" in outcome.out
    found = images(out)
    assert found.keys() == expected.keys()
    assert all(np.abs(found[name] - expected[name]).max() <= 1 for name in found)
    assert (out / "grid.png").read_bytes() == grid
    assert len(read_json_lines(out / "manifest.jsonl")) == 6
    assert run_counted(*command, "--resume")[1] == 0
    outcome, count = run_counted(*command, "--resume", "--steps", "2")
    assert count == 6
    assert "6 of the images that are there were made with other settings" in outcome.err
    assert run_counted(*command)[1] == 6
    assert len(read_json_lines(out / "manifest.jsonl")) == 6


def test_control_c_keeps_what_is_made(flags: tuple, out: Path):
    command = ("generate", "a cat", "a dog", *flags, "--num-images", "4", "--batch-size", "2")
    outcome, count = run_counted(*command, stop_after=4)
    assert_refused(outcome, "Interrupted. 4 images", "--resume", code=130)
    assert half_written(out) == []
    assert len(images(out)) == len(read_json_lines(out / "manifest.jsonl")) == count == 4
    outcome, count = run_counted(*command, "--resume")
    assert (outcome.code, count) == (0, 4)
    assert len(images(out)) == 8


@pytest.mark.parametrize("form", ["grid", "sheet"])
def test_control_c_says_that_nothing_is_kept_without_files(form: str, flags: tuple, out: Path):
    command = ("generate", "a cat", *flags, "--num-images", "4", "--batch-size", "2", "--as", form)
    outcome, _ = run_counted(*command, stop_after=2)
    assert_refused(outcome, "Interrupted. Nothing is kept", "--as files", code=130)
    assert not out.exists()


@pytest.mark.parametrize(
    ("suffix", "share", "is_ours"),
    [("png", 0.5, True), ("jpg", 0.95, True), ("webp", 0.5, False), ("png", 0.0, False)],
)
def test_an_image_that_was_cut_short_is_made_again(
    suffix: str, share: float, is_ours: bool, flags: tuple, out: Path
):
    command = ("generate", "a cat", *flags, "--num-images", "3", "--format", suffix)
    succeed(*command)
    expected, cut = images(out), out / f"a-cat-0001.{suffix}"
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    outcome, count = run_counted(*command, "--resume")
    if not is_ours:  # nothing of it says so any more
        assert_refused(outcome, f"a-cat-0001.{suffix} was not written by lafite-shifted")
        return
    assert (outcome.code, count) == (0, 1)
    found = images(out)
    assert all(np.abs(found[name] - expected[name]).max() <= 1 for name in expected)


def test_an_image_that_is_damaged_within_is_named(flags: tuple, out: Path):
    command = ("generate", "a cat", *flags, "--num-images", "3")
    succeed(*command)
    content = bytearray((out / "a-cat-0001.png").read_bytes())
    place = content.index(b"IDAT") + 4
    content[place : place + 40] = bytes(40)
    (out / "a-cat-0001.png").write_bytes(content)
    (out / "a-cat-0002.png").unlink()
    assert_refused(run_command(*command, "--resume"), "a-cat-0001.png is damaged", "Delete it")


def test_what_a_killed_process_left_half_written_goes(flags: tuple, out: Path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    out.mkdir()
    left = [out / f".a-cat-0000.png.{number}.tmp" for number in (gone.pid, os.getppid(), 0)]
    new, folder = out / f".new.png.{gone.pid}.tmp", out / f".x.{gone.pid}.tmp"
    folder.mkdir()
    for path in (*left, new, folder):
        path.touch()
    for path in (*left, folder):
        os.utime(path, (1, 1))
    for verb in (("generate", "a cat", "--num-images", "1"), ("variations", "a cat")):
        succeed(*verb, *flags)
    hidden = {path.name for path in out.iterdir() if path.name.startswith(".")}
    assert hidden == {left[1].name, left[2].name, new.name}


def test_a_run_beside_another_loses_none_of_its_rows(flags: tuple, out: Path):
    """The other one has added rows since this one read them."""
    succeed("generate", "a cat", *flags, "--num-images", "2")
    before = Manifest(out)
    succeed("generate", "a dog", *flags, "--num-images", "2")
    before.forget({"a-cat-0000.png"})
    kept = {row["file"] for row in read_json_lines(out / "manifest.jsonl")}
    assert kept == {"a-cat-0001.png", "a-dog-0000.png", "a-dog-0001.png"}


@pytest.mark.filterwarnings("ignore:.*is longer than the")
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("sentence", ["x" * 40000, "\U0001f600" * 4000])
def test_a_sentence_of_any_length_is_recorded(sentence: str, suffix: str, flags: tuple, out: Path):
    (out.parent / "p.txt").write_text(f"{sentence}\na cat\n", encoding="utf-8")
    prompts = ("--prompts", out.parent / "p.txt")
    succeed("generate", *prompts, *flags, "--num-images", "1", "--format", suffix)
    rows = read_json_lines(out / "manifest.jsonl")
    assert [row["prompt"] for row in rows] == [sentence, "a cat"]
    with Image.open(out / rows[0]["file"]) as image:
        assert image.size == (16, 16)
        if suffix == "jpg":
            description = json.loads(image.getexif()[0x010E])
            assert description["model"] == rows[0]["model"]
            assert "prompt" not in description


def test_sentences_that_begin_alike_have_names_of_their_own():
    names = {slug(f"a detailed drawing of a small thing, number {n}") for n in range(50_000)}
    assert len(names) == 50_000
