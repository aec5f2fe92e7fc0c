"""`generate` for real use: many prompts, formats, grids and sheets, a manifest, resuming."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.decoder.inference import InferenceGenerator
from lafite_shifted.io.files import read_json_lines
from lafite_shifted.io.image_file import FORMATS
from lafite_shifted.model_folder import model_hash
from tests.commands import assert_refused, run_command, succeed


def images(folder: Path) -> dict[str, np.ndarray]:
    """All but grid and sheets, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix[1:] in FORMATS and not path.stem.startswith(("grid", "sheet")):
            found[path.name] = np.asarray(Image.open(path)).astype(int)
    return found


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_prompts_come_from_arguments_a_file_or_standard_input(
    flags: tuple, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "prompts.txt").write_text("a cat\n\na blue car\n", encoding="utf-8")
    few = ("--num-images", "1", "--as", "files")
    succeed("generate", "a cat", "a blue car", *flags, *few)
    expected = images(out)
    assert list(expected) == ["a-blue-car-0000.png", "a-cat-0000.png"]
    ways = [("--prompts", tmp_path / "prompts.txt"), ("--prompts", "-"), ()]
    for way in ways:
        for path in out.iterdir():
            path.unlink()
        typed(monkeypatch, "a cat\na blue car\n")
        succeed("generate", *way, *flags, *few)
        found = images(out)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("seed", "numbers"), [("7", [7, 8]), ("3,9", [3, 9]), ("2-3", [2, 3]), ("-2", [-2, -1])]
)
def test_seeds_are_one_a_list_or_a_range(seed: str, numbers: list[int], flags: tuple, out: Path):
    count = ("--num-images", "2") if seed in ("7", "-2") else ()
    succeed("generate", "a cat", *flags, f"--seed={seed}", *count)
    assert sorted(row["seed"] for row in read_json_lines(out / "manifest.jsonl")) == numbers
    assert set(images(out)) == {f"a-cat-{number:04d}.png" for number in numbers}


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "jpeg"])
def test_formats_show_one_image(suffix: str, flags: tuple, out: Path):
    succeed("generate", "a cat", *flags, "--num-images", "1")
    (expected,) = images(out).values()
    (out / "a-cat-0000.png").unlink()
    succeed("generate", "a cat", *flags, "--num-images", "1", "--format", suffix)
    (found,) = images(out).values()
    assert np.abs(found - expected).mean() < (1 if suffix == "png" else 16)
    with Image.open(out / f"a-cat-0000.{suffix}") as image:
        assert image.format == {"jpg": "JPEG"}.get(suffix, suffix.upper())


def test_the_manifest_says_what_an_image_is(flags: tuple, out: Path, model_folder: Path):
    more = ("--guidance", "2", "--negative", "a dog", "--truncation", "0.5", "--steps", "3")
    succeed("generate", "a cat", *flags, "--num-images", "1", *more)
    (row,) = read_json_lines(out / "manifest.jsonl")
    assert (row["file"], row["prompt"], row["seed"]) == ("a-cat-0000.png", "a cat", 0)
    assert row["model"] == model_hash(model_folder)
    assert (row["negative_prompt"], row["truncation"], row["dtype"]) == ("a dog", 0.5, "float32")
    assert (row["sampling"]["steps"], row["sampling"]["guidance"]) == (3, 2)
    with Image.open(out / "a-cat-0000.png") as image:
        assert json.loads(image.text["settings"]) == row


def test_forms_are_chosen(flags: tuple, out: Path):
    texts = ("a cat", "a dog", "a blue car")
    for form, expected in (
        (("sheet",), {"sheet_0001.png", "sheet_0002.png"}),
        (("grid",), {"grid.png"}),
        (("files",), {f"{t.replace(' ', '-')}-{s:04d}.png" for t in texts for s in range(30)}),
    ):
        for path in out.iterdir() if out.exists() else ():
            path.unlink()
        chosen = [word for name in form for word in ("--as", name)]
        succeed("generate", *texts, *flags, "--num-images", "30", *chosen)
        assert {path.name for path in out.iterdir()} - {"manifest.jsonl"} == expected


def test_many_images_of_a_prompt_are_wrapped_in_the_grid(flags: tuple, out: Path):
    outcome = succeed("generate", "a cat", *flags, "--num-images", "45", "--as", "grid")
    assert outcome.out.strip() == f"grid.png of 45 images in {out}"
    with Image.open(out / "grid.png") as grid:
        cell = 96 + 2  # of 20 columns and 3 rows, with a label and margins
        assert 20 * cell <= grid.width <= 20 * cell + 10
        assert 3 * cell <= grid.height <= 3 * cell + 40


def test_a_sheet_of_another_program_is_found_before_an_image_is_made(flags: tuple, out: Path):
    out.mkdir()
    (out / "sheet_0002.png").write_bytes(b"mine")
    command = ("generate", "a cat", *flags, "--num-images", "81", "--as", "sheet")
    outcome = run_command(*command)
    assert_refused(outcome, "sheet_0002.png was not written by lafite-shifted")
    assert [path.name for path in out.iterdir()] == ["sheet_0002.png"]
    assert [path.name for path in out.iterdir()] == ["sheet_0002.png"]


def test_a_sentence_of_the_name_of_sheets_and_grids_keeps_its_images(flags: tuple, out: Path):
    forms = ("--as", "files", "--as", "sheet", "--as", "grid")
    succeed("generate", "sheet", "grid", *flags, "--seed", "1", "--num-images", "1", *forms)
    rows = read_json_lines(out / "manifest.jsonl")
    assert {row["file"] for row in rows} == {"sheet-0001.png", "grid-0001.png"}
    for row in rows:
        with Image.open(out / row["file"]) as image:
            assert image.size == (16, 16)
    assert {path.name for path in out.glob("*.png")} == {
        *("sheet-0001.png", "grid-0001.png", "sheet_0001.png", "grid.png")
    }


def test_a_grid_that_shows_all_has_no_legend_of_the_one_before(flags: tuple, out: Path):
    succeed("generate", "\U00013000" * 3, *flags, "--num-images", "1")
    assert (out / "grid.txt").is_file()
    succeed("generate", "a star", *flags, "--num-images", "1")
    assert not (out / "grid.txt").exists()


def test_images_of_one_name_in_several_folders_are_told_apart(flags: tuple, tmp_path: Path):
    paths = []
    for folder, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        (tmp_path / folder).mkdir()
        paths += ["--image", tmp_path / folder / "cat.png"]
        Image.new("RGB", (20, 20), colour).save(paths[-1])
    out = tmp_path / "made"
    rest = flags[: flags.index("--out")] + flags[flags.index("--out") + 2 :]
    succeed("generate", *paths, *rest, "--out", out, "--num-images", "1")
    rows = read_json_lines(out / "manifest.jsonl")
    assert len({row["file"] for row in rows}) == len({row["image_sha256"] for row in rows}) == 2
    assert all((out / row["file"]).is_file() for row in rows)


def test_an_image_that_is_too_large_is_told_no_flag_of_other_commands(flags: tuple, tmp_path: Path):
    Image.new("1", (10_001, 10_000)).save(tmp_path / "large.png")
    outcome = run_command("generate", "--image", tmp_path / "large.png", *flags)
    assert_refused(outcome, "the limit is 100. Give another image")


def test_weights_mix_sentences_into_one(flags: tuple, out: Path):
    succeed("generate", "a cat:0.7", "a tiger:0.3", *flags, "--num-images", "2")
    rows = read_json_lines(out / "manifest.jsonl")
    assert {row["prompt"] for row in rows} == {'"a cat:0.7" "a tiger:0.3"'}
    assert len(images(out)) == 2
    refused = run_command("generate", "a cat:0.7", "a tiger", *flags)
    assert_refused(refused, "'a tiger' has none", "Give every sentence a weight")


def test_images_stand_for_prompts(flags: tuple, out: Path, shipped_images: Path):
    image = sorted(shipped_images.glob("*.png"))[0]
    succeed("generate", "--image", image, *flags, "--num-images", "2")
    rows = read_json_lines(out / "manifest.jsonl")
    assert [row["image"] for row in rows] == [image.name] * 2
    assert len(images(out)) == 2


# --- resuming


def test_many_prompts_share_forward_passes(
    flags: tuple, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prompts = [f"thing number {n}" for n in range(70)]
    (tmp_path / "p.txt").write_text("\n".join(prompts), encoding="utf-8")
    sizes: list[int] = []
    synthesise = InferenceGenerator.synthesise

    def counted(network, w, condition, **rest):
        sizes.append(len(w))
        return synthesise(network, w, condition, **rest)

    monkeypatch.setattr(InferenceGenerator, "synthesise", counted)
    outcome = succeed("generate", "--prompts", tmp_path / "p.txt", *flags, "--num-images", "1")
    assert sizes == [16] * 4 + [6]
    assert len(images(out)) == 70
    assert "grid.txt" in outcome.out
    assert "65 to 70: not shown" in (out / "grid.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "holds no prompt"),
        (("--prompts", "nowhere.txt"), "nowhere.txt does not exist"),
        (("--image", "nowhere.png"), "the file does not exist"),
        (("a cat", "--image", "x.png"), "takes the place of sentences"),
        (("a cat", "--seed", "5-2"), "no list of seeds"),
        (("a cat", "--seed", "1,1"), "a seed twice"),
        (("a cat", "--seed", "0-99999999"), "no list of seeds"),
        (("a cat", "--seed", "1,2", "--num-images", "3"), "Leave --num-images out"),
        (("a cat", "--num-images", "99999999"), "in parts"),
        (("a cat", "--as", "grid", "--resume"), "Add `--as files`"),
        (("a cat", "--negative", "x", "--no-prior"), "leave the negative prompt out"),
        (("a cat", "--negative", "x", "--guidance", "1"), "guidance 1 is none"),
        (("a cat", "--no-prior", "--steps", "4", "--eta", ".5"), "--steps, --eta: of the prior"),
        (("--image", "x.png", "--guidance", "2"), "--guidance: of the prior"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: tuple, expected: str, flags: tuple, out: Path, monkeypatch: pytest.MonkeyPatch
):
    typed(monkeypatch, "")
    assert_refused(run_command("generate", *arguments, *flags), expected)
    assert not out.exists()
