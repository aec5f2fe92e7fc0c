"""Running `lafite-shifted` inside the test process, and what must hold after it failed."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from lafite_shifted.cli.main import main
from torch_utils.ops import native

# a GAN and a prior that train in a second
TINY_GAN = (
    *("--preset", "tiny", "--resolution", "16", "--batch-size", "8", "--kimg", "0.032"),
    *("--set", "generator.channel_max=8", "--set", "discriminator.channel_max=8"),
    *("--set", "generator.z_dim=8", "--set", "generator.w_dim=8"),
    *("--set", "run.evaluate_kimg=0.016"),
)
TINY_PRIOR = (
    *("--preset", "tiny", "--batch-size", "8", "--kimg", "0.032"),
    *("--set", "prior.width=32", "--set", "prior.depth=1", "--set", "prior.heads=2"),
)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_command(*arguments: str | Path) -> Outcome:
    """`lafite-shifted ARGUMENTS` in this process; a bug's traceback becomes the test's own."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    mode = native.mode()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["lafite-shifted", *map(str, arguments)])
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        finally:
            native.choose(mode)  # --ops is the process's, and this one runs all tests
    return Outcome(code, out.getvalue(), err.getvalue())


def succeed(*arguments: str | Path) -> Outcome:
    """Run a command that must end well."""
    outcome = run_command(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def half_written(folder: Path) -> list[Path]:
    """Temporary files and folders below `folder`, which no command may leave."""
    return [p for p in folder.rglob("*") if p.name.startswith(".") or p.suffix in (".tmp", ".old")]


OUT_VERBS = ("embed", "train-gan", "train-prior", "train-clip")


def assert_refused(outcome: Outcome, *expected: str, code: int = 2) -> None:
    """The exit code, and each of `expected` in what was said."""
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for text in expected:
        assert text in outcome.err, outcome.err


def image_folder(folder: Path, *names: str) -> Path:
    """Small images of different colours."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (16, 16), (40 * number % 256, 90, 200 - number)).save(folder / name)
    return folder
