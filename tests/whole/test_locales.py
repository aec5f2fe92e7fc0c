"""Texts and names in any locale."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from tests.commands import TINY_GAN, succeed
from tests.whole.fresh_processes import COMMAND, exit_codes, process


def test_bytes_that_are_no_text_become_a_character(model_folder: Path, tmp_path: Path):
    words = [
        b"generate",
        b"caf\xe9 au lait",
        b"--num-images",
        b"1",
        b"--model",
        os.fsencode(model_folder),
    ]
    command = [*map(os.fsencode, COMMAND), *words, b"--out", os.fsencode(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("caf-au-lait-*.png"))) == 1


@pytest.mark.parametrize("text", ["a \ud83d cat", "a\0cat", "\u202ered\u202c", "\u200b", "\u0007"])
def test_odd_characters_make_an_image(text: str, model_folder: Path, tmp_path: Path):
    succeed("generate", text, "--model", model_folder, "--out", tmp_path, "--num-images", "1")


@pytest.mark.parametrize("text", [None, ["a", 3], b"a", 3])
def test_what_is_no_text_is_refused(text: object, model_folder: Path):
    with pytest.raises(InputError, match="is no text but"):
        TextToImage.from_pretrained(model_folder)(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=["C", "C without UTF-8 mode", "ascii", "latin-1"],
)
def test_names_and_sentences_need_no_locale(
    env: dict[str, str], gan_run: Path, some_images: Path, tmp_path: Path
):
    model = tmp_path / "Bilder é 写真"
    run, flags = tmp_path / "é 写 run", (*TINY_GAN, "--kimg", "0.008")
    out = tmp_path / "é 写"
    generate = ["generate", "ein Café 写真", "--num-images", "1", "--model"]
    train = ["train-gan", some_images, "--out", run, *flags]
    trains = "PYTHONUTF8" in env  # the hardest of the four
    codes, said = exit_codes(
        *([train] if trains else []),
        ["pack", "--gan", gan_run, "--out", model],
        [*generate, model, "--out", out],
        [*generate, out, "--out", tmp_path / "写"],  # which is no model
        **env,
    )
    assert codes == [0] * trains + [0, 0, 2], said
    assert b"Traceback" not in said
    assert (run / "log.jsonl").is_file() == trains
    assert len(list(out.glob("*.png"))) == 2  # and grid.txt where no font has the letters


def locale_of(folder: Path, name: str, charset: str) -> dict[str, Any]:
    """The environment of a locale whose charset is not UTF-8; skips where it cannot be made."""
    made = folder / f"{name}.{charset}"
    if shutil.which("localedef"):
        subprocess.run(["localedef", "-i", name, "-f", charset, made], check=False)
    if not made.is_dir():
        pytest.skip("no sources of locales here")
    return {"LOCPATH": str(folder), "LC_ALL": made.name, "PYTHONUTF8": "0"}


def test_a_run_folder_in_latin_1_trains_without_tensorboard(some_images: Path, tmp_path: Path):
    """TensorBoard, whose paths are UTF-8, would look for it elsewhere."""
    env = locale_of(tmp_path, "de_DE", "ISO-8859-1")
    run = os.fsdecode(os.fsencode(tmp_path) + b"/Caf\xe9")
    words = ["train-gan", some_images, "--out", run, *TINY_GAN, "--kimg", "0.008"]
    done = process(*words, **env)
    assert done.returncode == 0, done.stdout
    assert b"no TensorBoard events are written, log.jsonl is" in done.stdout
    assert (Path(run) / "log.jsonl").is_file()
    assert not [path for path in tmp_path.rglob("*events.out*")]


def test_a_path_that_the_locale_cannot_write_is_refused(some_images: Path, tmp_path: Path):
    env = locale_of(tmp_path, "ja_JP", "EUC-JP")
    done = process("embed", some_images, "--out", tmp_path / "é 写", **env)
    assert done.returncode == 2, done.stdout
    assert b"is no path in this locale (euc_jp): set LC_ALL=C.UTF-8" in done.stdout
    assert b"Traceback" not in done.stdout
