"""What surrounds a command: no home, a closed terminal, modules of the same name,
settings of a notebook.
"""

import contextlib
import importlib.util
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lafite_shifted.pipeline import TextToImage
from ops_cuda import targets
from tests.commands import TINY_GAN, assert_refused, run_command, succeed
from tests.whole import browsers
from tests.whole.fresh_processes import COMMAND, process

TEXT = "a red apple"


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


# --- no selenium


def test_tests_in_a_browser_say_what_they_need(monkeypatch: pytest.MonkeyPatch):
    """They are skipped by a mark, which pytest looks at before it makes any fixture."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/chromium")
    assert browsers.missing() == "selenium: pip install -e '.[test,browser]'"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert browsers.missing().startswith("chromium, chromedriver, selenium")
