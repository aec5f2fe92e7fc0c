"""The verbs of edits, through the real command: what they write, say and refuse."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.editing import projection_file
from lafite_shifted.editing.projection import Projection
from lafite_shifted.io.files import read_json_lines
from lafite_shifted.model_folder import model_hash
from tests.commands import assert_refused, half_written, run_command, succeed


@pytest.fixture(scope="module")
def image(shipped_images: Path) -> Path:
    return sorted(shipped_images.glob("*.png"))[0]


def level(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def edits(image: Path) -> dict[str, tuple[tuple[str | Path, ...], set[str]]]:
    """A command of each verb, and the images that it writes."""
    return {
        "variations": (
            (image, "--num-images", "2", "--spread", ".2"),
            {"variation-0000.png", "variation-0001.png"},
        ),
        "interpolate": (
            (image, "a cat", "--num-images", "3", "--animation", "gif"),
            {"step-000.png", "step-001.png", "step-002.png"},
        ),
        "edit": (
            (image, "--from", "an apple", "--to", "a cat", "--strength", "0,.5"),
            {"edit-0.000.png", "edit-0.500.png"},
        ),
        "project": ((image, "--steps", "3", "--candidates", "2"), {"projection.png"}),
        "style-mix": (
            ("a cat", image, "--layers", "0-1", "--layers", "4"),
            {"mix-0-1.png", "mix-4.png"},
        ),
        "guide": (
            ("a cat", "--num-images", "1", "--candidates", "2", "--gradient-steps", "2"),
            {"guided-0000.png"},
        ),
        "walk": (("a cat", image, "--frames", "3"), set()),
    }


@pytest.mark.parametrize(
    "verb", ["variations", "interpolate", "edit", "project", "style-mix", "guide", "walk"]
)
def test_a_verb_writes_images_a_strip_and_a_manifest(
    verb: str, image: Path, flags: tuple, out: Path, model_folder: Path
):
    arguments, names = edits(image)[verb]
    for _ in range(2):  # over its own
        assert str(out) in succeed(verb, *arguments, *flags).out
    also = {
        "interpolate": {"interpolation.gif"},
        "project": {"latents.safetensors", "state.safetensors"},
        "walk": {"walk.webp"},
    }.get(verb, set())
    strip = set() if verb == "walk" else {"strip.png"}
    assert {path.name for path in out.iterdir()} == names | also | strip | {"manifest.jsonl"}
    rows = read_json_lines(out / "manifest.jsonl")
    assert {row["file"] for row in rows} == (names or also)
    assert len(rows) == len(names or also)
    assert {row["model"] for row in rows} == {model_hash(model_folder)}
    assert {(row["dtype"], row["truncation"]) for row in rows} == {("float32", 1)}
    assert all(row["negative_prompt"] is None and "sampling" in row for row in rows)
    assert {level(out / name).shape for name in names} <= {(16, 16, 3)}
    assert half_written(out) == []


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("variations", "variation-0001.png"),
        ("interpolate", "interpolation.gif"),
        ("edit", "strip.png"),
        ("project", "latents.safetensors"),
        ("project", "state.safetensors"),
        ("style-mix", "mix-4.png"),
        ("guide", "manifest.jsonl"),
        ("walk", "walk.webp"),
    ],
)
def test_no_file_of_another_program_is_lost(
    verb: str, name: str, image: Path, flags: tuple, out: Path
):
    out.mkdir()
    (out / name).write_bytes(b"mine")
    refused = run_command(verb, *edits(image)[verb][0], *flags)
    assert_refused(refused, name)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_bytes() == b"mine"


def test_ends_of_an_interpolation_are_what_generate_makes(
    image: Path, flags: tuple, out: Path, model_folder: Path, tmp_path: Path
):
    succeed("interpolate", "a cat", image, "--num-images", "3", "--seed", "5", *flags)
    rest = ("--model", model_folder, "--dtype", "float32", "--seed", "5", "--num-images", "1")
    succeed("generate", "a cat", "--out", tmp_path / "a", *rest)
    succeed("generate", "--image", image, "--out", tmp_path / "b", *rest)
    assert np.abs(level(out / "step-000.png") - level(tmp_path / "a" / "a-cat-0005.png")).max() <= 1
    (made,) = (tmp_path / "b").glob("*-0005.png")
    assert np.abs(level(out / "step-002.png") - level(made)).max() <= 1


def test_a_projection_is_resumed_and_used(
    image: Path, flags: tuple, out: Path, model_folder: Path, tmp_path: Path
):
    few = ("--candidates", "2")
    succeed("project", image, "--steps", "3", *few, *flags)
    outcome = succeed("project", image, "--steps", "6", *few, *flags)
    assert "resumed at step 3; 6 steps: PSNR" in outcome.out
    (row,) = read_json_lines(out / "manifest.jsonl")
    assert row["steps"] == 6
    assert {"psnr", "cosine"} <= row.keys()
    refused = run_command("project", image, "--steps", "6", "--candidates", "3", *flags)
    assert_refused(refused, "another candidates", "Choose another --out")
    rest = ("--model", model_folder, "--dtype", "float32", "--out", tmp_path / "edited")
    latents = out / "latents.safetensors"
    succeed("edit", latents, "--from", "a dog", "--to", "a cat", "--strength", "0", *rest)
    made = level(tmp_path / "edited" / "edit-0.000.png")
    assert np.abs(made - level(out / "projection.png")).max() <= 1


def test_control_c_keeps_a_projection(
    image: Path, flags: tuple, out: Path, monkeypatch: pytest.MonkeyPatch
):
    advance = Projection.advance

    def interrupted(projection: Projection) -> float:
        if projection.step == 4:
            raise KeyboardInterrupt
        return advance(projection)

    arguments = ("project", image, "--steps", "6", "--candidates", "2", *flags)
    with monkeypatch.context() as patch:
        patch.setattr(Projection, "advance", interrupted)
        assert_refused(run_command(*arguments), "Interrupted", code=130)
    assert (out / projection_file.STATE).is_file()
    assert "resumed at step 4" in succeed(*arguments).out


def test_another_clip_judges_guidance(flags: tuple, small_clip_folder: Path):
    arguments = ("guide", "a cat", "--num-images", "1", "--candidates", "2", *flags)
    arguments += ("--gradient-steps", "1")
    assert "which took no part" in succeed(*arguments, "--judge-clip", small_clip_folder).out
    refused = run_command(*arguments, "--judge-clip", "starter")
    assert_refused(refused, "cannot judge it")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("variations", "nowhere.png"), "nowhere.png is no file"),
        (("variations", "IMAGE", "--spread", "-1"), "--spread"),
        (("interpolate", "a cat", "nowhere.jpg"), "nowhere.jpg is no file"),
        (("interpolate", "a cat", "a dog", "--num-images", "1"), "--num-images"),
        (("interpolate", "a cat", " "), "A sentence is empty"),
        (("edit", "IMAGE", "--from", "a cat", "--to", "a cat"), "mean the same"),
        (("edit", "IMAGE", "--from", "a", "--to", "b", "--strength", "2"), "--strength"),
        (("edit", "IMAGE", "--from", "", "--to", "b"), "A sentence is empty"),
        (("project", "nowhere.png"), "the file does not exist"),
        (("style-mix", "a cat", "a dog", "--layers", "99"), "There is no layer 99"),
        (("style-mix", "a cat", "a dog", "--layers", "x"), "--layers"),
        (("guide", ""), "A sentence is empty"),
        (("guide", "IMAGE"), "is a file. `guide` leads towards a sentence"),
        (("guide", "a cat:0.5"), "nothing to mix it with"),
        (("interpolate", "a", "."), ". is a folder"),
        (("variations", "IMAGE", "--seed", "1,2", "--num-images", "1"), "Leave --num-images out"),
        (
            ("edit", "IMAGE", "--from", "a", "--to", "b", "--strength", ".3001,.3002"),
            "Two images would be edit-0.300.png",
        ),
        (("style-mix", "a", "b", "--layers", "1", "--layers", "1"), "Two images would be mix-1"),
        (("style-mix", "a", "b", "--layers", "x"), "no list of layers"),
        (("style-mix", "a", "b", "--layers", "none", "--layers", ""), "would be mix-none"),
        (("guide", "a cat", "--radius", "0"), "--radius"),
        (("walk", "a cat"), "two stops at least"),
        (("walk", "a cat", "a dog", "--fps", "99"), "--fps"),
        (("variations", "README"), "holds no kind"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: tuple, expected: str, image: Path, flags: tuple, out: Path, tmp_path: Path
):
    (tmp_path / "wrong.safetensors").write_bytes(b"no")
    words = [image if word == "IMAGE" else word for word in arguments]
    if "README" in words:
        words[1], expected = tmp_path / "wrong.safetensors", "truncated or not"
    assert_refused(run_command(*words, *flags), expected)
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:.*is longer than the")
@pytest.mark.parametrize("words", ["a long sentence about a small cat " * 8, "赤いハート" * 40])
def test_a_sentence_may_be_longer_than_a_name(words: str, flags: tuple, out: Path):
    succeed("interpolate", words, "a dog", *flags, "--num-images", "2")
    assert len(list(out.glob("step-*.png"))) == 2


def test_an_interrupted_projection_says_how_it_goes_on(
    image: Path, flags: tuple, out: Path, monkeypatch: pytest.MonkeyPatch
):
    command = ("project", image, "--steps", "6", "--candidates", "2", *flags)
    advance = Projection.advance

    def interrupted(self: Projection) -> float:
        if self.step == 3:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Projection, "advance", interrupted)
    refused = run_command(*command)
    assert_refused(refused, "Interrupted at step 3; the same command resumes it", code=130)
    monkeypatch.undo()
    assert "resumed at step 3; 6 steps" in succeed(*command).out


def test_a_mixture_is_guided_to(flags: tuple, out: Path):
    few = ("--num-images", "1", "--candidates", "1", "--gradient-steps", "1")
    succeed("guide", '"a cat:0.5" "a dog:0.5"', *few, *flags)
    (row,) = read_json_lines(out / "manifest.jsonl")
    assert row["prompt"] == '"a cat:0.5" "a dog:0.5"'
    assert (row["best_of"], row["steps"], row["space"]) == (1, 1, "w")
