"""Names of files as a shell takes them. It imports nothing slow: the command line uses it."""

from contextlib import suppress
from pathlib import Path


def expanded(name: str) -> str:
    """`name` with ~ or ~user replaced by the home folder, as a shell does at the beginning of a
    word but not behind `--out=`. As it is where there is no such home.
    """
    if name.startswith("~"):
        with suppress(RuntimeError):
            return str(Path(name).expanduser())
    return name


def absolute(name: str) -> str:
    """What `name` means here, in words that mean the same elsewhere; links are not followed."""
    return str(Path.cwd() / expanded(name))
