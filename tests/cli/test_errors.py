"""What a user can do wrong: a message that says what to do next, the exit code of the contract, no
traceback, nothing half-written.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.files import read_json_lines
from tests.commands import TINY_GAN, TINY_PRIOR, Outcome, half_written, run_command, succeed
from torch_utils.ops import native
from training import embeddings, run_folder
from training.embeddings import EmbeddingSet
from training.run_folder import RunLock
from training.split import is_held_out

OUT_VERBS = ("embed", "train-gan", "train-prior", "train-clip")


def assert_refused(outcome: Outcome, *expected: str, code: int = 2) -> None:
    """The exit code, and each of `expected` in what was said."""
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for text in expected:
        assert text in outcome.err, outcome.err


def picture_folder(folder: Path, *names: str) -> Path:
    """Small pictures of different colours."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (16, 16), (40 * number % 256, 90, 200 - number)).save(folder / name)
    return folder


# --- the folder of pictures


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_missing_folder(verb: str, tmp_path: Path):
    outcome = run_command(verb, tmp_path / "none", "--out", tmp_path / "out")
    assert_refused(outcome, "none does not exist", "Give a folder of pictures")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_empty_folder(verb: str, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    outcome = run_command(verb, tmp_path / "pictures", "--out", tmp_path / "out")
    assert_refused(outcome, "holds no pictures: nothing", ".jpg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_folder_of_text_files(verb: str, tmp_path: Path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello", encoding="utf-8")
    outcome = run_command(verb, tmp_path / "texts", "--out", tmp_path / "out")
    assert_refused(outcome, "only 1 other files (.txt)", "Give a folder with pictures")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_file_instead_of_a_folder(verb: str, tmp_path: Path):
    picture_folder(tmp_path, "a.png")
    outcome = run_command(verb, tmp_path / "a.png", "--out", tmp_path / "out")
    assert_refused(outcome, "a.png is neither a folder nor a .zip or .tar", "Give a folder")
    assert not (tmp_path / "out").exists()


# --- single pictures


def test_broken_picture_is_named_and_the_others_work(tmp_path: Path, some_pictures: Path):
    folder = Path(shutil.copytree(some_pictures, tmp_path / "pictures"))
    (folder / "broken.png").write_bytes(next(folder.glob("*.png")).read_bytes()[:200])
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "48 pictures embedded" in outcome.err
    assert "1 pictures left out" in outcome.err
    assert "broken.png: broken: " in outcome.err
    report = read_json_lines(tmp_path / "out" / "report.jsonl")
    assert [row["file_name"] for row in report] == ["broken.png"]
    assert half_written(tmp_path) == []


@pytest.mark.parametrize("verb", ["embed", "train-gan", "train-prior"])
def test_only_broken_pictures_exit_3(verb: str, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.jpg"):
        path = tmp_path / "pictures" / name
        path.write_bytes(b"broken")
        path.with_suffix(".txt").write_text("a caption", encoding="utf-8")
    outcome = run_command(verb, tmp_path / "pictures", "--out", tmp_path / "out")
    expected = ("2 of 2 pictures cannot be read", "a.png: not a picture", "b.jpg: not a picture")
    assert_refused(outcome, *expected, "Remove or replace them", code=3)
    assert half_written(tmp_path) == []


def test_max_bad_decides_how_many_broken_ones_are_too_many(tmp_path: Path):
    folder = picture_folder(tmp_path / "pictures", *(f"{n}.png" for n in range(8)))
    (folder / "a.png").write_bytes(b"broken")
    (folder / "b.png").write_bytes(b"broken")
    arguments = ("embed", folder, "--out", tmp_path / "out")
    outcome = run_command(*arguments)
    assert_refused(outcome, "2 of 10 pictures", "more than --max-bad 5%", "a.png", code=3)
    for share in ("19.5%", "0.195"):
        outcome = run_command(*arguments, "--max-bad", share)
        assert_refused(outcome, "more than --max-bad 19.5%", code=3)
    for share in ("20%", "0.2"):
        assert "8 reused" in succeed(*arguments, "--max-bad", share).err


def test_picture_above_the_megapixels(tmp_path: Path):
    folder = picture_folder(tmp_path / "pictures", "a.png", "b.png")
    Image.new("1", (10_001, 10_000)).save(folder / "huge.png")
    arguments = ("embed", folder, "--out", tmp_path / "out", "--max-bad", "0.5")
    outcome = succeed(*arguments)
    assert "huge.png: 10001 x 10000 is 100 megapixels, the limit is 100" in outcome.err
    assert "--max-megapixels" in outcome.err
    everything = run_command("embed", folder, "--out", tmp_path / "b", "--max-megapixels", "0.0001")
    assert_refused(everything, "3 of 3", "the limit is 0.0001", code=3)


def test_unusual_pictures_are_converted_and_counted(tmp_path: Path):
    folder = picture_folder(tmp_path / "pictures", "a.png", "b.png")
    Image.new("I;16", (16, 16), 30000).save(folder / "deep.png")
    Image.new("CMYK", (16, 16), (9, 99, 9, 0)).save(folder / "print.jpg")
    Image.new("P", (16, 16)).save(folder / "palette.png")
    Image.new("RGBA", (16, 16), (9, 9, 9, 99)).save(folder / "glass.png")
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    outcome = succeed("embed", folder, "--out", tmp_path / "out")
    assert "7 pictures embedded" in outcome.err
    counts = outcome.err.split("converted to RGB: ")[1].splitlines()[0]
    for kind in ("1 16-bit", "1 CMYK", "1 animated", "2 palette", "1 transparent"):
        assert kind in counts
    assert read_json_lines(tmp_path / "out" / "report.jsonl") == []


def test_bad_line_of_metadata(tmp_path: Path):
    folder = picture_folder(tmp_path / "pictures", "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{"text": 1}', encoding="utf-8")
    outcome = run_command("embed", folder, "--out", tmp_path / "out")
    assert_refused(outcome, "metadata.jsonl, line 2", 'needs "file_name"')


@pytest.mark.parametrize("num", [1, 2])
def test_too_few_pictures_to_train_on(tmp_path: Path, num: int):
    """One picture has no spread; two equal ones have none either. More pictures then work."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(num):
        Image.new("RGB", (16, 16), "red").save(folder / f"{number}.png")
    arguments = ("train-gan", folder, "--out", tmp_path / "out", *TINY_GAN)
    hold_out = ("--set", "hold_out=false")
    assert_refused(run_command(*arguments, *hold_out), "Add ", "pictures")
    picture_folder(folder, *(f"more{number}.png" for number in range(6)))
    succeed(*arguments, *hold_out)


def test_numbered_files_that_are_all_held_out(tmp_path: Path):
    """A camera's names differ by a number alone: they are one name of the split."""
    name = next(word for word in ("holiday", "garden", "door", "sea", "cats") if is_held_out(word))
    folder = picture_folder(
        tmp_path / "pictures", *(f"{name}-{number:03}.png" for number in range(6))
    )
    arguments = ("train-gan", folder, "--out", tmp_path / "out", *TINY_GAN)
    assert_refused(run_command(*arguments), "leaves 0 of 6 pictures", "--set hold_out=false")
    succeed(*arguments, "--set", "hold_out=false")


def test_prior_needs_captions(tmp_path: Path):
    folder = picture_folder(tmp_path / "pictures", "a.png", "b.png", "c.png")
    outcome = run_command("train-prior", folder, "--out", tmp_path / "out", *TINY_PRIOR)
    assert_refused(outcome, "has no captions", "metadata.jsonl", "--no-prior")
    (folder / "a.txt").write_text("red apple", encoding="utf-8")
    outcome = run_command("train-prior", folder, "--out", tmp_path / "out", *TINY_PRIOR)
    assert_refused(outcome, "captioned pictures to train on", "Add captions")


def test_clip_needs_many_captions(tmp_path: Path, some_pictures: Path):
    outcome = run_command("train-clip", some_pictures, "--out", tmp_path / "out")
    assert_refused(outcome, "Only 48 pictures with captions", "lafite-shifted dataset emoji")
    assert list(tmp_path.iterdir()) == []


def test_clip_batch_larger_than_the_set(tmp_path: Path, shipped_pictures: Path):
    out = tmp_path / "out"
    outcome = run_command("train-clip", shipped_pictures, "--out", out, "--batch", "600")
    assert_refused(outcome, "600", "512", "--batch")
    assert not (out / "checkpoints").exists()
    assert not (out / "config.json").exists()  # so that a smaller batch is not another run


# --- the CLIP


@pytest.mark.parametrize("verb", ["embed", "train-gan", "train-prior"])
@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("nonsense", "Give `starter`, MODEL/PRETRAINED"),
        ("ViT-B-32/nonsense", "Its tags are: "),
        ("hf-hub:nobody/nothing", "the network"),
    ],
)
def test_wrong_clip(verb: str, clip: str, expected: str, some_pictures: Path, tmp_path: Path):
    outcome = run_command(verb, some_pictures, "--out", tmp_path / "out", "--clip", clip)
    assert_refused(outcome, f"--clip {clip}", expected)
    assert list(tmp_path.iterdir()) == []


def test_truncated_clip(small_clip_folder: Path, some_pictures: Path, tmp_path: Path):
    folder = Path(shutil.copytree(small_clip_folder, tmp_path / "clip"))
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    outcome = run_command("embed", some_pictures, "--out", tmp_path / "out", "--clip", folder)
    assert_refused(outcome, "truncated or damaged", "again")
    assert not (tmp_path / "out").exists()


def test_embeddings_of_another_clip(
    small_clip_folder: Path, some_pictures: Path, some_embeddings: Path, tmp_path: Path
):
    shutil.copytree(some_embeddings, tmp_path / "run" / "embeddings")
    named = ("--clip", small_clip_folder)
    for verb, out, sizes in (
        ("embed", tmp_path / "run" / "embeddings", ()),
        ("train-gan", tmp_path / "run", TINY_GAN),
        ("train-prior", tmp_path / "run", TINY_PRIOR),
    ):
        outcome = run_command(verb, some_pictures, "--out", out, *named, *sizes)
        assert_refused(outcome, "Embeddings of two CLIPs cannot be mixed", "Choose another --out")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["embeddings"]


# --- damaged files


def test_prior_on_embeddings_of_another_clip(
    some_embeddings: Path, small_clip_folder: Path, tmp_path: Path
):
    arguments = ("--out", tmp_path / "run", *TINY_PRIOR, "--clip", small_clip_folder)
    outcome = run_command("train-prior", some_embeddings, *arguments)
    assert_refused(outcome, "Embeddings of two CLIPs cannot be mixed", "Leave --clip out")
    assert list(tmp_path.iterdir()) == []


def test_prior_with_changed_captions(some_pictures: Path, tmp_path: Path):
    """As many captions as before, but others: the run cannot go on as if nothing had happened."""
    pictures = Path(shutil.copytree(some_pictures, tmp_path / "pictures"))
    command = ("train-prior", pictures, "--out", tmp_path / "run", *TINY_PRIOR)
    succeed(*command)
    metadata = pictures / "metadata.jsonl"
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(text.replace('"text": "', '"text": "new ', 1), encoding="utf-8")
    assert_refused(run_command(*command), "data.fingerprint", "choose another --out")


def test_model_whose_clip_has_moved(
    gan_run: Path, some_pictures: Path, small_clip_folder: Path, tmp_path: Path
):
    first, moved = tmp_path / "first", tmp_path / "moved"
    shutil.copytree(small_clip_folder, first)
    succeed("train-gan", some_pictures, "--out", tmp_path / "run", *TINY_GAN, "--clip", first)
    succeed("pack", "--gan", tmp_path / "run", "--out", tmp_path / "model")
    first.rename(moved)
    command = ("generate", "a cat", "--model", tmp_path / "model", "--out", tmp_path / "out")
    assert_refused(run_command(*command), "trained with", "say where with `--clip`")
    assert not (tmp_path / "out").exists()
    succeed(*command, "--num", "1", "--clip", moved)


def test_wrong_folder_leaves_the_embeddings_of_a_run_alone(
    gan_run: Path, prior_run: Path, tmp_path: Path
):
    other = picture_folder(tmp_path / "other", *(f"other{i}.png" for i in range(8)))
    (other / "other0.txt").write_text("a caption", encoding="utf-8")
    for verb, flags, run in (
        ("train-gan", TINY_GAN, gan_run),
        ("train-prior", TINY_PRIOR, gan_run),
        ("embed", (), gan_run / "embeddings"),
    ):
        copy = Path(shutil.copytree(run, tmp_path / f"{verb}-run"))
        before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
        assert_refused(run_command(verb, other, "--out", copy, *flags), "Choose another --out")
        assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_picture_changed_under_its_name(some_pictures: Path, tmp_path: Path):
    pictures = Path(shutil.copytree(some_pictures, tmp_path / "pictures"))
    command = ("train-gan", pictures, "--out", tmp_path / "run", *TINY_GAN)
    succeed(*command)
    Image.new("RGB", (64, 64), "red").save(sorted(pictures.glob("*.png"))[0])
    assert_refused(run_command(*command), "data.fingerprint", "choose another --out")


@pytest.mark.parametrize("verb", ["train-gan", "train-prior"])
def test_folder_in_use_is_not_embedded_into(verb: str, some_pictures: Path, tmp_path: Path):
    sizes = {"train-gan": TINY_GAN, "train-prior": TINY_PRIOR}[verb]
    command = (verb, some_pictures, "--out", tmp_path / "run", *sizes)
    lock = RunLock(tmp_path / "run")
    assert_refused(run_command(*command), "is in use: another process trains there")
    assert list((tmp_path / "run").iterdir()) == []
    lock.release()
    succeed(*command)


def test_unsupported_format_is_listed(some_pictures: Path, tmp_path: Path):
    pictures = Path(shutil.copytree(some_pictures, tmp_path / "pictures"))
    Image.new("RGB", (8, 8)).save(pictures / "scan.tiff")
    outcome = succeed("embed", pictures, "--out", tmp_path / "out")
    assert "scan.tiff: this format is not supported" in outcome.err
    assert read_json_lines(tmp_path / "out" / "report.jsonl")[0]["file_name"] == "scan.tiff"


def test_run_inside_the_folder_of_pictures_does_not_train_on_its_own_grids(
    some_pictures: Path, tmp_path: Path
):
    pictures = Path(shutil.copytree(some_pictures, tmp_path / "pictures"))
    command = ("train-gan", pictures, "--out", pictures / "run", *TINY_GAN)
    succeed(*command)
    assert "0 pictures embedded, 48 reused" in succeed(*command).err


def test_model_with_a_damaged_configuration(model_folder: Path, tmp_path: Path):
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    record = json.loads((model / "generator" / "config.json").read_text(encoding="utf-8"))
    for damaged in ([], record | {"config": {"unknown": 1}}, record | {"encoder": [{}]}):
        (model / "generator" / "config.json").write_text(json.dumps(damaged), encoding="utf-8")
        command = ("generate", "a cat", "--model", model, "--out", tmp_path / "out")
        assert_refused(run_command(*command), "gain")
        assert not (tmp_path / "out").exists()


def test_truncated_embeddings(some_embeddings: Path, tmp_path: Path):
    folder = Path(shutil.copytree(some_embeddings, tmp_path / "embeddings"))
    shard = folder / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert_refused(run_command("stats", folder), "shard-00000.safetensors is truncated", "again")
    outcome = run_command("train-prior", folder, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(outcome, "shard-00000.safetensors is truncated")
    assert not (tmp_path / "run").exists()


def test_stats_of_something_else(tmp_path: Path, some_pictures: Path):
    assert_refused(run_command("stats", tmp_path / "none"), "holds no embeddings", "embed")
    assert_refused(run_command("stats", some_pictures), "holds no embeddings", "embed")


def test_truncated_model(model_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    weights = folder / "generator" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    outcome = run_command("generate", "a cat", "--model", folder, "--out", tmp_path / "out")
    assert_refused(outcome, "weights.safetensors is truncated", "again")
    assert not (tmp_path / "out").exists()


def test_truncated_checkpoint(gan_run: Path, some_pictures: Path, tmp_path: Path):
    folder = Path(shutil.copytree(gan_run, tmp_path / "run"))
    state = max((folder / "checkpoints").iterdir()) / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    outcome = run_command("train-gan", some_pictures, "--out", folder, *TINY_GAN)
    assert_refused(outcome, "state.safetensors is truncated")


# --- the output


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_output_that_is_a_file(
    verb: str, tmp_path: Path, some_pictures: Path, shipped_pictures: Path
):
    (tmp_path / "out").write_text("keep", encoding="utf-8")
    pictures = shipped_pictures if verb == "train-clip" else some_pictures
    outcome = run_command(verb, pictures, "--out", tmp_path / "out")
    assert_refused(outcome, "out", "hoose another")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "keep"


def test_generate_into_a_file(tmp_path: Path, model_folder: Path):
    (tmp_path / "out").write_text("keep", encoding="utf-8")
    outcome = run_command("generate", "a cat", "--model", model_folder, "--out", tmp_path / "out")
    assert_refused(outcome, "out", "hoose another")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "keep"


def test_output_below_a_file(tmp_path: Path, some_pictures: Path):
    (tmp_path / "file").write_text("keep", encoding="utf-8")
    outcome = run_command("embed", some_pictures, "--out", tmp_path / "file" / "out")
    assert_refused(outcome, "file", "hoose another")


@pytest.mark.parametrize("verb", ["train-gan", "train-prior"])
def test_output_that_holds_something_else(verb: str, tmp_path: Path, some_pictures: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("keep", encoding="utf-8")
    outcome = run_command(verb, some_pictures, "--out", tmp_path / "out")
    assert_refused(outcome, "is not empty and is no run folder", "Choose another --out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def fail_with(number: int) -> Callable[..., None]:
    """What the operating system does on a disk that is full, read-only, or not ours."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/the/disk")

    return fail


DISK_ERRORS = [
    (errno.ENOSPC, "the disk is full. Free some space"),
    (errno.EDQUOT, "quota is used up"),
    (errno.EROFS, "the file system is read-only. Mount it for writing, or choose another --out"),
    (errno.EACCES, "permission denied. Choose another folder"),
]


@pytest.mark.parametrize(("number", "expected"), DISK_ERRORS)
def test_disk_that_cannot_be_written(
    number: int, expected: str, some_pictures: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(os, "mkdir", fail_with(number))
    outcome = run_command("embed", some_pictures, "--out", tmp_path / "out")
    assert_refused(outcome, "/the/disk: ", expected, "run the same command again")
    assert list(tmp_path.iterdir()) == []


def commands(tmp_path: Path, some_pictures: Path, some_embeddings: Path, model_folder: Path):
    """One command of each verb that writes into `tmp_path / "out"`."""
    out = ("--out", tmp_path / "out")
    return {
        "embed": ("embed", some_pictures, *out),
        "stats": ("stats", some_embeddings, *out),
        "train-gan": ("train-gan", some_pictures, *out, *TINY_GAN),
        "train-prior": ("train-prior", some_embeddings, *out, *TINY_PRIOR),
        "pack": ("pack", "--gan", model_folder, *out),
        "generate": ("generate", "a cat", "--model", model_folder, *out),
    }


@pytest.mark.parametrize("verb", ["embed", "stats", "train-gan", "train-prior", "pack", "generate"])
def test_disk_that_fills_up_then_the_same_command_again(
    verb: str,
    tmp_path: Path,
    some_pictures: Path,
    some_embeddings: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    arguments = commands(tmp_path, some_pictures, some_embeddings, model_folder)[verb]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_with(errno.ENOSPC))
        outcome = run_command(*arguments)
    assert_refused(outcome, "the disk is full", "run the same command again")
    assert half_written(tmp_path) == []
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    succeed(*arguments)


def test_disk_that_fills_up_at_a_checkpoint(
    some_pictures: Path, gan_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The checkpoint before is kept, and the same command goes on from it."""
    shutil.copytree(gan_run / "embeddings", tmp_path / "out" / "embeddings")
    arguments = ("train-gan", some_pictures, "--out", tmp_path / "out", *TINY_GAN)
    real, saved = run_folder.save_tensors, []

    def save_tensors(path: Path, *rest: object) -> None:
        if len(saved) == 2:
            fail_with(errno.ENOSPC)()
        saved.append(path)
        real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_tensors", save_tensors)
        assert_refused(run_command(*arguments), "the disk is full")
    names = [p.name for p in sorted((tmp_path / "out" / "checkpoints").iterdir())]
    assert names == ["samples-0000000008", "samples-0000000016"]
    succeed(*arguments)
    rows, expected = (read_json_lines(p / "log.jsonl") for p in (tmp_path / "out", gan_run))
    assert [row["loss_d"] for row in rows] == [row["loss_d"] for row in expected]


def test_diverged_training_exits_4(some_pictures: Path, gan_run: Path, tmp_path: Path):
    shutil.copytree(gan_run / "embeddings", tmp_path / "out" / "embeddings")
    arguments = ("train-gan", some_pictures, "--out", tmp_path / "out", *TINY_GAN)
    outcome = run_command(*arguments, "--kimg", "0.4", "--set", "learning_rate=1e20")
    expected = ("Training diverged", "not finite", "start a new run with a lower learning rate")
    assert_refused(outcome, *expected, code=4)
    for state in tmp_path.glob("out/checkpoints/*/state.json"):
        assert "NaN" not in state.read_text(encoding="utf-8")
    assert half_written(tmp_path) == []


def test_control_c_while_embedding(some_pictures: Path, tmp_path: Path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embeddings, "check_share_of_bad", interrupted)
    outcome = run_command("embed", some_pictures, "--out", tmp_path / "out")
    assert_refused(outcome, "Interrupted.", code=130)


# --- flags


@pytest.mark.parametrize("verb", OUT_VERBS)
@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_batch_below_one(verb: str, value: str, some_pictures: Path, tmp_path: Path):
    outcome = run_command(verb, some_pictures, "--out", tmp_path / "out", "--batch", value)
    assert_refused(outcome, "--batch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", OUT_VERBS[1:])
@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("run.kimk=3", "Did you mean run.kimg"),
        ("batch=0", "batch must be above 0"),
        ("batch=many", "batch: "),
        ("batch", "write it as field=value"),
    ],
)
def test_bad_set(
    verb: str,
    assignment: str,
    expected: str,
    some_pictures: Path,
    shipped_pictures: Path,
    tmp_path: Path,
):
    pictures = shipped_pictures if verb == "train-clip" else some_pictures
    outcome = run_command(verb, pictures, "--out", tmp_path / "out", "--set", assignment)
    assert_refused(outcome, expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "field"),
    [("train-gan", "generator.condition_dim"), ("train-prior", "prior.embed_dim")],
)
def test_field_that_the_clip_decides(verb: str, field: str, some_pictures: Path, tmp_path: Path):
    assignment = f"{field}=7"
    outcome = run_command(verb, some_pictures, "--out", tmp_path / "out", "--set", assignment)
    assert_refused(outcome, f"--set {field}=7: the encoder decides this")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\necho 'out of registers' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("LAFITE_SHIFTED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_choice", native._Choice())


@pytest.mark.usefixtures("broken_compiler")
def test_broken_compiler(some_pictures: Path, tmp_path: Path):
    arguments = ("train-gan", some_pictures, "--out", tmp_path / "run", *TINY_GAN)
    outcome = run_command(*arguments, "--ops", "compiled")
    assert_refused(outcome, "--ops compiled: ", "its log is ", "Use --ops auto or --ops reference")
    assert not (tmp_path / "run").exists()
    assert_refused(run_command("ops", "build", "--device", "cpu"), "its log is ", "--ops reference")
    prior = ("train-prior", some_pictures, "--out", tmp_path / "prior", *TINY_PRIOR)
    assert "operators" not in succeed(*prior).err  # it uses none, and so builds none
    assert_refused(run_command(*prior, "--ops", "compiled"), "--ops compiled: ")
    outcome = run_command(*arguments)
    assert outcome.code == 0, outcome.err
    assert (
        "operators: reference (the build of the native operators failed; its log is" in outcome.err
    )
    log = outcome.err.partition("its log is ")[2].partition(")")[0]
    assert "out of registers" in Path(log).read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["train-gan", "train-prior"])
def test_bad_preset(verb: str, some_pictures: Path, tmp_path: Path):
    outcome = run_command(verb, some_pictures, "--out", tmp_path / "out", "--preset", "huge")
    assert_refused(outcome, "--preset huge: not known. Choose one of tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "field"),
    [
        ("train-prior", "warmup_kimg=0"),
        ("train-prior", "evaluation_steps=5000"),
        ("train-prior", "beta2=2"),
        ("train-gan", "beta2=1"),
        ("train-gan", "generator.mapping_lr_multiplier=0"),
        ("train-gan", "r1_gamma=nan"),
        ("train-gan", "augment.scale=-1"),
        ("train-gan", "contrast_weight=inf"),
        ("train-gan", "ema_half_life_kimg=-1"),
    ],
)
def test_set_out_of_range(verb: str, field: str, some_pictures: Path, tmp_path: Path):
    preset = ("--preset", "tiny", "--set", field)
    outcome = run_command(verb, some_pictures, "--out", tmp_path / "out", *preset)
    assert_refused(outcome, "The configuration is not valid", "Change the field")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cuda:99", "banana", "meta"])
@pytest.mark.parametrize("verb", ["embed", "train-gan", "train-prior"])
def test_bad_device(verb: str, device: str, some_pictures: Path, tmp_path: Path):
    outcome = run_command(verb, some_pictures, "--out", tmp_path / "out", "--device", device)
    assert_refused(outcome, f"--device {device}", "Use --device cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ("--resolution", "48"),
        ("--resolution", "0"),
        ("--kimg", "0"),
        ("--kimg", "-1"),
        ("--kimg", "nan"),
        ("--kimg", "inf"),
        ("--max-bad", "2"),
        ("--max-bad", "101%"),
        ("--max-bad", "-1%"),
        ("--max-bad", "nan"),
        ("--max-bad", "few"),
        ("--max-megapixels", "0"),
        ("--seed", "x"),
    ],
)
def test_values_out_of_range(flags: tuple[str, str], some_pictures: Path, tmp_path: Path):
    outcome = run_command("train-gan", some_pictures, "--out", tmp_path / "out", *flags)
    assert_refused(outcome, flags[0].removeprefix("--"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["nonsense"], ["embed"], ["embed", "--nonsense"], ["pack"]])
def test_usage_errors(arguments: list[str]):
    assert_refused(run_command(*arguments), "--help")


# --- using a model


def test_generate_without_model(tmp_path: Path):
    for name in (tmp_path / "none", "none", "nobody/nothing"):
        outcome = run_command("generate", "a cat", "--model", name, "--out", tmp_path / "out")
        assert_refused(outcome, f"{name} is no folder")
    assert_refused(
        run_command("generate", "a cat", "--model", tmp_path, "--out", tmp_path / "out"),
        "config.json does not exist",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("texts", [[""], ["a cat", "  "]])
def test_generate_with_an_empty_text(texts: list[str], model_folder: Path, tmp_path: Path):
    outcome = run_command("generate", *texts, "--model", model_folder, "--out", tmp_path / "out")
    assert_refused(outcome, "A text is empty", "Give a sentence")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--num", "0"), ("--steps", "0"), ("--steps", "100000")])
def test_generate_with_numbers_out_of_range(
    flags: tuple[str, str], model_folder: Path, tmp_path: Path
):
    arguments = ("generate", "a cat", "--model", model_folder, "--out", tmp_path / "out")
    assert_refused(run_command(*arguments, *flags), flags[0])
    assert list(tmp_path.iterdir()) == []


def test_generate_with_another_clip(model_folder: Path, small_clip_folder: Path, tmp_path: Path):
    named = ("--clip", small_clip_folder)
    outcome = run_command(
        "generate", "a cat", "--model", model_folder, "--out", tmp_path / "out", *named
    )
    assert_refused(outcome, "The generator was made with the CLIP starter", "trained with")
    assert list(tmp_path.iterdir()) == []


def test_pack_of_two_clips(
    gan_run: Path, small_clip_folder: Path, some_pictures: Path, tmp_path: Path
):
    named = ("--clip", small_clip_folder)
    succeed("train-prior", some_pictures, "--out", tmp_path / "prior", *named, *TINY_PRIOR)
    model = ("--out", tmp_path / "model")
    outcome = run_command("pack", "--gan", gan_run, "--prior", tmp_path / "prior", *model)
    assert_refused(outcome, "cannot be mixed", "Train the prior on embeddings of the generator's")
    assert not (tmp_path / "model").exists()


def test_pack_of_what_is_not_there(gan_run: Path, model_folder: Path, tmp_path: Path):
    out = ("--out", tmp_path / "model")
    assert_refused(run_command("pack", "--gan", tmp_path / "none", *out), "train-gan")
    assert_refused(run_command("pack", "--gan", tmp_path, *out), "holds no generator yet")
    outcome = run_command("pack", "--gan", gan_run, "--prior", gan_run, *out)
    assert_refused(outcome, "holds no prior yet")
    outcome = run_command("pack", "--gan", gan_run, "--out", model_folder)
    assert_refused(outcome, "exists already", "Choose another --out")
    assert list(tmp_path.iterdir()) == []


def test_existing_embeddings_are_not_touched_by_a_refusal(some_embeddings: Path):
    """The read-only fixtures of this file are what they were."""
    assert len(EmbeddingSet(some_embeddings).names) == 48
    assert half_written(some_embeddings) == []


# --- as a process of its own


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = "from lafite_shifted.cli.main import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exit_code_and_message_reach_the_shell(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    result = process("embed", tmp_path / "pictures", "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("lafite-shifted: ")
    assert "holds no pictures" in result.stderr
    assert "Traceback" not in result.stderr


def test_text_too_long_is_one_plain_warning(model_folder: Path, tmp_path: Path):
    text = " ".join(["cat"] * 60)
    arguments = ("--model", model_folder, "--out", tmp_path / "out", "--num", "1")
    result = process("generate", text, f"{text} dog", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("longer than the") == 1
    assert "\nwarning: The text 'cat cat" in result.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
