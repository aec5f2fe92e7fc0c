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
    """What `name` means here, in words that mean the same elsewhere, and are the same for the same
    file: links are followed only where `..` leads back over them.
    """
    path = Path.cwd() / expanded(name)
    with suppress(RuntimeError):  # links round in a circle: who opens it says so
        return str(path.resolve() if ".." in path.parts else path)
    return str(path)
