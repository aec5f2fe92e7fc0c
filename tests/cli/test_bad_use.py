"""What a user can do wrong with a model, and what reaches the shell. Each time: a message
that says what to do next, the exit code of the contract, no traceback, nothing half-written.
"""

from pathlib import Path

import pytest

from tests import processes
from tests.commands import TINY_PRIOR, assert_refused, half_written, run_command, succeed
from training.data.embeddings.embedding_set import EmbeddingSet


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
    assert_refused(outcome, "A sentence is empty", "Write one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--num-images", "0"), ("--steps", "0"), ("--steps", "100000")])
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
    gan_run: Path, small_clip_folder: Path, some_images: Path, tmp_path: Path
):
    named = ("--clip", small_clip_folder)
    succeed("train-prior", some_images, "--out", tmp_path / "prior", *named, *TINY_PRIOR)
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


def test_exit_code_and_message_reach_the_shell(tmp_path: Path):
    (tmp_path / "images").mkdir()
    result = processes.run(
        [*processes.COMMAND, "embed", tmp_path / "images", "--out", tmp_path / "out"]
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("lafite-shifted: ")
    assert "holds no images" in result.stderr
    assert "Traceback" not in result.stderr


def test_text_too_long_is_one_plain_warning(model_folder: Path, tmp_path: Path):
    text = " ".join(["cat"] * 60)
    arguments = ("--model", model_folder, "--out", tmp_path / "out", "--num-images", "1")
    result = processes.run([*processes.COMMAND, "generate", text, f"{text} dog", *arguments])
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("longer than the") == 1
    assert "\nwarning: The text 'cat cat" in result.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
