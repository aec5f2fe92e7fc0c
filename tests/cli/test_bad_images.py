"""What a user can do wrong with images. Each time: a message
that says what to do next, the exit code of the contract, no traceback, nothing half-written.
"""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.io.files import read_json_lines
from tests.commands import (
    OUT_VERBS,
    TINY_GAN,
    TINY_PRIOR,
    assert_refused,
    half_written,
    image_folder,
    run_command,
    succeed,
)
from training.data.split import is_held_out


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_missing_folder(verb: str, tmp_path: Path):
    outcome = run_command(verb, tmp_path / "none", "--out", tmp_path / "out")
    assert_refused(outcome, "none does not exist", "Give a folder of images")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_empty_folder(verb: str, tmp_path: Path):
    (tmp_path / "images").mkdir()
    outcome = run_command(verb, tmp_path / "images", "--out", tmp_path / "out")
    assert_refused(outcome, "holds no images: nothing", ".jpg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_folder_of_text_files(verb: str, tmp_path: Path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello", encoding="utf-8")
    outcome = run_command(verb, tmp_path / "texts", "--out", tmp_path / "out")
    assert_refused(outcome, "only 1 other files (.txt)", "Give a folder with images")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_file_instead_of_a_folder(verb: str, tmp_path: Path):
    image_folder(tmp_path, "a.png")
    outcome = run_command(verb, tmp_path / "a.png", "--out", tmp_path / "out")
    assert_refused(outcome, "a.png is neither a folder nor a .zip or .tar", "Give a folder")
    assert not (tmp_path / "out").exists()


def test_broken_image_is_named_and_the_others_work(tmp_path: Path, some_images: Path):
    folder = Path(shutil.copytree(some_images, tmp_path / "images"))
    (folder / "broken.png").write_bytes(next(folder.glob("*.png")).read_bytes()[:200])
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "48 images embedded" in outcome.err
    assert "1 image left out" in outcome.err
    assert "broken.png: broken: " in outcome.err
    report = read_json_lines(tmp_path / "out" / "report.jsonl")
    assert [row["file_name"] for row in report] == ["broken.png"]
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("verb", ["embed", "train-gan", "train-prior"])
def test_only_broken_images_exit_3(verb: str, tmp_path: Path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.jpg"):
        path = tmp_path / "images" / name
        path.write_bytes(b"broken")
        path.with_suffix(".txt").write_text("a caption", encoding="utf-8")
    outcome = run_command(verb, tmp_path / "images", "--out", tmp_path / "out")
    expected = ("2 of 2 images cannot be read", "a.png: not an image", "b.jpg: not an image")
    assert_refused(outcome, *expected, "Remove or replace them", code=3)
    assert half_written(tmp_path) == []


def test_max_bad_decides_how_many_broken_ones_are_too_many(tmp_path: Path):
    folder = image_folder(tmp_path / "images", *(f"{n}.png" for n in range(8)))
    (folder / "a.png").write_bytes(b"broken")
    (folder / "b.png").write_bytes(b"broken")
    arguments = ("embed", folder, "--out", tmp_path / "out")
    outcome = run_command(*arguments)
    assert_refused(outcome, "2 of 10 images", "more than --max-bad 5%", "a.png", code=3)
    for share in ("19.5%", "0.195"):
        outcome = run_command(*arguments, "--max-bad", share)
        assert_refused(outcome, "more than --max-bad 19.5%", code=3)
    for share in ("20%", "0.2"):
        assert "8 reused" in succeed(*arguments, "--max-bad", share).err


def test_image_above_the_megapixels(tmp_path: Path):
    folder = image_folder(tmp_path / "images", "a.png", "b.png")
    Image.new("1", (10_001, 10_000)).save(folder / "huge.png")
    arguments = ("embed", folder, "--out", tmp_path / "out", "--max-bad", "0.5")
    outcome = succeed(*arguments)
    assert "huge.png: 10001 x 10000 is 100 megapixels, the limit is 100" in outcome.err
    assert "--max-megapixels" in outcome.err
    everything = run_command("embed", folder, "--out", tmp_path / "b", "--max-megapixels", "0.0001")
    assert_refused(everything, "3 of 3", "the limit is 0.0001", code=3)


def test_unusual_images_are_converted_and_counted(tmp_path: Path):
    folder = image_folder(tmp_path / "images", "a.png", "b.png")
    Image.new("I;16", (16, 16), 30000).save(folder / "deep.png")
    Image.new("CMYK", (16, 16), (9, 99, 9, 0)).save(folder / "print.jpg")
    Image.new("P", (16, 16)).save(folder / "palette.png")
    Image.new("RGBA", (16, 16), (9, 9, 9, 99)).save(folder / "glass.png")
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "7 images embedded" in outcome.err
    counts = outcome.err.split("converted to RGB: ")[1].splitlines()[0]
    for kind in ("1 16-bit", "1 CMYK", "1 animated", "2 palette", "1 transparent"):
        assert kind in counts
    assert read_json_lines(tmp_path / "out" / "report.jsonl") == []


def test_bad_line_of_metadata(tmp_path: Path):
    folder = image_folder(tmp_path / "images", "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{"text": 1}', encoding="utf-8")
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert 'metadata.jsonl, line 2: lacks "file_name"' in outcome.err
    outcome = run_command("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(outcome, "has no captions", "metadata.jsonl, line 2")


@pytest.mark.parametrize("num", [1, 2])
def test_too_few_images_to_train_on(tmp_path: Path, num: int):
    """One image has no spread; two equal ones have none either. More images then work."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(num):
        Image.new("RGB", (16, 16), "red").save(folder / f"{number}.png")
    arguments = ("train-gan", folder, "--out", tmp_path / "out", *TINY_GAN)
    hold_out = ("--set", "hold_out=false")
    assert_refused(run_command(*arguments, *hold_out), "Add ", "images")
    image_folder(folder, *(f"more{number}.png" for number in range(6)))
    succeed(*arguments, *hold_out)


def test_numbered_files_that_are_all_held_out(tmp_path: Path):
    """A camera's names differ by a number alone: they are one name of the split."""
    name = next(word for word in ("holiday", "garden", "door", "sea", "cats") if is_held_out(word))
    folder = image_folder(tmp_path / "images", *(f"{name}-{number:03}.png" for number in range(6)))
    arguments = ("train-gan", folder, "--out", tmp_path / "out", *TINY_GAN)
    assert_refused(run_command(*arguments), "leaves 0 of 6 images", "--set hold_out=false")
    succeed(*arguments, "--set", "hold_out=false")


def test_prior_needs_captions(tmp_path: Path):
    folder = image_folder(tmp_path / "images", "a.png", "b.png", "c.png")
    outcome = run_command("train-prior", folder, "--out", tmp_path / "out", *TINY_PRIOR)
    assert_refused(outcome, "has no captions", "metadata.jsonl", "--no-prior")
    (folder / "a.txt").write_text("red apple", encoding="utf-8")
    outcome = run_command("train-prior", folder, "--out", tmp_path / "out", *TINY_PRIOR)
    assert_refused(outcome, "captioned images to train on. Add captions")


def test_captions_that_are_all_held_out(tmp_path: Path):
    name = next(word for word in ("holiday", "garden", "door", "sea", "cats") if is_held_out(word))
    folder = image_folder(tmp_path / "images", *(f"{name}-{number:03}.png" for number in range(6)))
    for number, image in enumerate(sorted(folder.glob("*.png"))):
        image.with_suffix(".txt").write_text(f"a door, number {number}", encoding="utf-8")
    arguments = ("train-prior", folder, "--out", tmp_path / "out", *TINY_PRIOR)
    assert_refused(run_command(*arguments), "6 more are held out", "--set hold_out=false")
    succeed(*arguments, "--set", "hold_out=false")


def test_clip_needs_many_captions(tmp_path: Path, some_images: Path):
    outcome = run_command("train-clip", some_images, "--out", tmp_path / "out")
    assert_refused(outcome, "Only 48 images with captions", "lafite-shifted dataset emoji")
    assert list(tmp_path.iterdir()) == []


def test_clip_batch_larger_than_the_set(tmp_path: Path, shipped_images: Path):
    out = tmp_path / "out"
    outcome = run_command("train-clip", shipped_images, "--out", out, "--batch-size", "600")
    assert_refused(outcome, "600", "512", "--batch-size")
    assert not (out / "checkpoints").exists()
    assert not (out / "config.json").exists()  # so that a smaller batch is not another run
