"""What surrounds a command: no home, other locales, a closed terminal, modules of the same name,
settings of a notebook.
"""

import contextlib
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from ops_cuda import targets
from tests.commands import TINY_GAN, assert_refused, run_command, succeed

TEXT = "a red apple"
COMMAND = [sys.executable, "-m", "lafite_shifted.cli"]


def process(
    *arguments: str | Path, command: list[str] = COMMAND, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess:
    """A command in a process of its own, without the locale of this one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LC_") and k != "LANG"}
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=kept | {"PYTHONPATH": root} | env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )


SEVERAL = """
import json, sys
from lafite_shifted.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:], code = words, 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    print("exit", code)
"""


def exit_codes(*commands: list[str | Path], **env: str) -> tuple[list[int], bytes]:
    """Of commands, one after the other in one process, and all that they said. Letters reach it as
    in words of a command line.
    """
    words = json.dumps([[str(word) for word in words] for words in commands], ensure_ascii=False)
    done = process(words, command=[sys.executable, "-c", SEVERAL], **env)
    assert done.returncode == 0, done.stdout
    return [int(code) for code in re.findall(rb"^exit (\d+)$", done.stdout, re.M)], done.stdout


# --- no home


def test_without_a_home_folder_everything_runs_and_says_what_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, some_images: Path
):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LAFITE_SHIFTED_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr("torch_utils.ops.native._choice.libraries", {})
    assert "set LAFITE_SHIFTED_CACHE" in succeed("ops", "status").out
    assert_refused(run_command("ops", "clean"), "set LAFITE_SHIFTED_CACHE")
    assert_refused(run_command("ops", "build"), "set LAFITE_SHIFTED_CACHE")
    assert "set LAFITE_SHIFTED_CACHE" in succeed("doctor").out
    outcome = succeed("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
    assert "reference (there is no home folder" in outcome.err
    with pytest.raises(targets.CacheMissingError):
        targets.cache_folder()


# --- modules of the same name


@pytest.mark.parametrize("name", ["training.py", "training/__init__.py", "torch_utils/__init__.py"])
def test_a_users_own_module_hides_none_of_ours(name: str, tmp_path: Path, some_embeddings: Path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("MINE = 1\n")
    done = process("stats", some_embeddings, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    python = [sys.executable, "-c"]
    program = "import lafite_shifted.pipeline; from lafite_shifted.cli.main import main; main()"
    doctor = process("doctor", command=[*python, program], cwd=tmp_path)
    assert doctor.returncode == 0
    assert f"{tmp_path / name} has the name of a package" in doctor.stdout.decode()
    if name.startswith("torch_utils"):
        late = process("import torch_utils, lafite_shifted", command=python, cwd=tmp_path)
        assert late.returncode == 1
        assert b"Import lafite_shifted first, or rename the other" in late.stdout


# --- settings of a notebook


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "all": lambda: contextlib.nullcontext(),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_notebook_change_no_image(name: str, model_folder: Path):
    """While a model is loaded, and while it is used; the random state is the caller's."""

    def state() -> tuple:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    def make(model: TextToImage) -> np.ndarray:
        return np.asarray(model(TEXT, seed=3)[0])

    plain = make(TextToImage.from_pretrained(model_folder))
    with contextlib.ExitStack() as stack:
        for setting in SETTINGS if name == "all" else (name,):
            stack.enter_context(SETTINGS[setting]())
        before = state()
        loaded = TextToImage.from_pretrained(model_folder)
        inside = make(loaded)
        embedding = loaded.embed([TEXT], seeds=[3])
        decoded = loaded.decode(embedding, seeds=[3])[0].numpy()
        assert state() == before
    assert np.array_equal(inside, plain)
    assert np.array_equal(decoded, plain)
    assert np.array_equal(make(loaded), plain)
    assert not any(p.is_inference() for p in loaded.generator.network.parameters())


# --- texts and locales


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
    codes, said = exit_codes(
        ["train-gan", some_images, "--out", run, *flags],
        ["pack", "--gan", gan_run, "--out", model],
        [*generate, model, "--out", out],
        [*generate, out, "--out", tmp_path / "写"],  # which is no model
        **env,
    )
    assert codes == [0, 0, 0, 2], said
    assert b"Traceback" not in said
    assert (run / "log.jsonl").is_file()
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


# --- a terminal that closes


def start_training(images: Path, out: Path, *, ignore: bool) -> tuple[subprocess.Popen, int]:
    """A long training on a terminal of its own, after its second line; and our end of that."""
    ours, theirs = pty.openpty()

    def prepare() -> None:
        os.setsid()
        # whatever the tests themselves were started by, such as nohup
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignore else signal.SIG_DFL)

    flags = (
        *TINY_GAN,
        "--kimg",
        "40",
        "--set",
        "run.log_kimg=0.016",
        "--set",
        "run.evaluate_kimg=8",
    )
    words = ["train-gan", str(images), "--out", str(out), *flags]
    started = subprocess.Popen(
        [*COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=prepare
    )
    os.close(theirs)
    log, end = out / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < end and not (log.is_file() and log.read_text().count("\n") >= 2):
        with contextlib.suppress(OSError):
            os.read(ours, 4096)
        time.sleep(0.02)
    return started, ours


@pytest.mark.parametrize("ignore", [False, True], ids=["plain", "nohup"])
def test_a_closed_terminal_saves_unless_hangups_are_ignored(
    ignore: bool, some_images: Path, tmp_path: Path
):
    started, ours = start_training(some_images, tmp_path / "run", ignore=ignore)
    os.close(ours)  # every further line meets an error
    started.send_signal(signal.SIGHUP)
    saved = tmp_path / "run" / "checkpoints"
    try:
        if not ignore:
            assert started.wait(timeout=60) == 128 + signal.SIGHUP
            assert list(saved.iterdir())
            return
        lines = (tmp_path / "run" / "log.jsonl").read_text().count("\n")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if (tmp_path / "run" / "log.jsonl").read_text().count("\n") > lines + 2:
                break
            time.sleep(0.1)
        assert started.poll() is None
    finally:
        started.kill()
        started.wait()
