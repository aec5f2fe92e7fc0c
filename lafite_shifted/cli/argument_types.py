"""Parameter types of the command line: paths as the shell means them, finite numbers, shares."""

import os
from math import isfinite
from pathlib import Path
from typing import Any

import click

from lafite_shifted.io.shell import absolute, expanded


class ShellPath(click.Path):
    """A path that means what it means in a shell: `--out=~/runs`, which bash hands on as it is,
    lies in the home folder. `absolute`: what is recorded, and used from another folder later.
    """

    def __init__(self, *, absolute: bool = False):
        super().__init__(path_type=Path, file_okay=True)
        self._absolute = absolute

    def convert(
        self,
        value: "str | os.PathLike[str]",
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """The path, `~` and relative names resolved as the shell would."""
        name = os.fspath(value)
        path = absolute(name) if self._absolute else expanded(name)
        return super().convert(path, param, ctx)


FolderPath = ShellPath()
RecordedPath = ShellPath(absolute=True)


class PathOrUrl(click.ParamType):
    """A path as in `ShellPath`, or the name of something elsewhere, as a string."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, `~` resolved."""
        return expanded(value)


class Number(click.FloatRange):
    """A finite number from `least` to `most`, each None for no bound."""

    def __init__(
        self, least: float | None = None, most: float | None = None, *, above: bool = False
    ):
        """`above`: `least` itself is left out."""
        super().__init__(min=least, max=most, min_open=above)

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; click's usage error unless it is finite and in range."""
        number = super().convert(value, param, ctx)  # pyright: ignore[reportArgumentType]
        if not isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


class Share(click.ParamType):
    """Part of a whole from 0 to 1, given as `1%` or `0.01`."""

    name = "share"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The share in [0, 1]; click's usage error for anything else."""
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{text!r} is no share: give one from 0% to 100%, such as 1% or 0.01.")
        return share
