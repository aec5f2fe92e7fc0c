"""Outputs that cannot be written, and what interrupts a command. Each time: a message
that says what to do next, the exit code of the contract, no traceback, nothing half-written.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lafite_shifted.io.files import read_json_lines
from tests.commands import (
    OUT_VERBS,
    TINY_GAN,
    TINY_PRIOR,
    assert_refused,
    half_written,
    run_command,
    succeed,
)
from training import checkpoint as checkpoint_module
from training.data.embeddings import embed as embed_module


@pytest.mark.parametrize("verb", OUT_VERBS)
def test_output_that_is_a_file(verb: str, tmp_path: Path, some_images: Path, shipped_images: Path):
    (tmp_path / "out").write_text("keep", encoding="utf-8")
    images = shipped_images if verb == "train-clip" else some_images
    outcome = run_command(verb, images, "--out", tmp_path / "out")
    assert_refused(outcome, "out", "hoose another")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "keep"


def test_generate_into_a_file(tmp_path: Path, model_folder: Path):
    (tmp_path / "out").write_text("keep", encoding="utf-8")
    outcome = run_command("generate", "a cat", "--model", model_folder, "--out", tmp_path / "out")
    assert_refused(outcome, "out", "hoose another")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "keep"


def test_output_below_a_file(tmp_path: Path, some_images: Path):
    (tmp_path / "file").write_text("keep", encoding="utf-8")
    outcome = run_command("embed", some_images, "--out", tmp_path / "file" / "out")
    assert_refused(outcome, "file", "hoose another")


@pytest.mark.parametrize("verb", ["train-gan", "train-prior"])
def test_output_that_holds_something_else(verb: str, tmp_path: Path, some_images: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("keep", encoding="utf-8")
    outcome = run_command(verb, some_images, "--out", tmp_path / "out")
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
    (errno.EFBIG, "a file is larger than allowed"),
    (errno.EINVAL, "Invalid argument. Choose another path"),  # a name that a file system refuses
]


@pytest.mark.parametrize(("number", "expected"), DISK_ERRORS)
def test_disk_that_cannot_be_written(
    number: int, expected: str, some_images: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(os, "mkdir", fail_with(number))
    outcome = run_command("embed", some_images, "--out", tmp_path / "out")
    assert_refused(outcome, "/the/disk: ", expected, "run the same command again")
    assert list(tmp_path.iterdir()) == []


def commands(tmp_path: Path, some_images: Path, some_embeddings: Path, model_folder: Path):
    """One command of each verb that writes into `tmp_path / "out"`."""
    out = ("--out", tmp_path / "out")
    return {
        "embed": ("embed", some_images, *out),
        "stats": ("stats", some_embeddings, *out),
        "train-gan": ("train-gan", some_images, *out, *TINY_GAN),
        "train-prior": ("train-prior", some_embeddings, *out, *TINY_PRIOR),
        "pack": ("pack", "--gan", model_folder, *out),
        "generate": ("generate", "a cat", "--model", model_folder, *out),
    }


@pytest.mark.parametrize("verb", ["embed", "stats", "train-gan", "train-prior", "pack", "generate"])
def test_disk_that_fills_up_then_the_same_command_again(
    verb: str,
    tmp_path: Path,
    some_images: Path,
    some_embeddings: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    arguments = commands(tmp_path, some_images, some_embeddings, model_folder)[verb]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_with(errno.ENOSPC))
        outcome = run_command(*arguments)
    assert_refused(outcome, "the disk is full", "run the same command again")
    assert half_written(tmp_path) == []
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    succeed(*arguments)


def test_disk_that_fills_up_at_a_checkpoint(
    some_images: Path, gan_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The checkpoint before is kept, and the same command is repeated from it."""
    shutil.copytree(gan_run / "embeddings", tmp_path / "out" / "embeddings")
    arguments = ("train-gan", some_images, "--out", tmp_path / "out", *TINY_GAN)
    real, saved = checkpoint_module.save_tensors, []

    def save_tensors(path: Path, *rest: object) -> None:
        if len(saved) == 2:
            fail_with(errno.ENOSPC)()
        saved.append(path)
        real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_tensors", save_tensors)
        assert_refused(run_command(*arguments), "the disk is full")
    names = [p.name for p in sorted((tmp_path / "out" / "checkpoints").iterdir())]
    assert names == ["samples-0000000008", "samples-0000000016"]
    succeed(*arguments)
    rows, expected = (read_json_lines(p / "log.jsonl") for p in (tmp_path / "out", gan_run))
    assert [row["loss_d"] for row in rows] == [row["loss_d"] for row in expected]


def test_diverged_training_exits_4(some_images: Path, gan_run: Path, tmp_path: Path):
    shutil.copytree(gan_run / "embeddings", tmp_path / "out" / "embeddings")
    arguments = ("train-gan", some_images, "--out", tmp_path / "out", *TINY_GAN)
    outcome = run_command(*arguments, "--kimg", "0.4", "--set", "learning_rate=1e20")
    expected = ("Training diverged", "not finite", "start a new run with a lower learning rate")
    assert_refused(outcome, *expected, code=4)
    for state in tmp_path.glob("out/checkpoints/*/state.json"):
        assert "NaN" not in state.read_text(encoding="utf-8")
    assert half_written(tmp_path) == []


def test_control_c_while_embedding(some_images: Path, tmp_path: Path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embed_module, "check_share_of_bad", interrupted)
    outcome = run_command("embed", some_images, "--out", tmp_path / "out")
    assert_refused(outcome, "Interrupted.", code=130)
