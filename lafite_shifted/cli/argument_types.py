"""Parameter types of the command line: paths as the shell means them, finite numbers, shares."""

import os
import re
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import click

from lafite_shifted.io.shell import absolute, expanded
from lafite_shifted.io.starter import STARTER, starter_model


def _not_empty(
    kind: click.ParamType, name: str, param: click.Parameter | None, ctx: click.Context | None
) -> str:
    """`name`; a shell's variable that is not set would otherwise mean the folder one is in."""
    if not name:
        kind.fail("it is empty: give a path (is a variable of the shell not set?)", param, ctx)
    return name


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
        name = _not_empty(self, os.fspath(value), param, ctx)
        path = absolute(name) if self._absolute else expanded(name)
        try:
            return super().convert(path, param, ctx)
        except UnicodeEncodeError as error:  # bytes that the locale reads and cannot write
            said = f"{error.object!r} is no path in this locale ({error.encoding})"
            self.fail(f"{said}: set LC_ALL=C.UTF-8 and run the same command again", param, ctx)


class ModelPath(ShellPath):
    """A run or model folder, or the model that ships, `starter`; ./starter is a folder."""

    def convert(
        self,
        value: "str | os.PathLike[str]",
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """The path; InputError where the weights that should ship are missing."""
        return starter_model() if value == STARTER else super().convert(value, param, ctx)


FolderPath = ShellPath()
ModelFolder = ModelPath()
RecordedModel = ModelPath(absolute=True)


class PathOrUrl(click.ParamType):
    """A path as in `ShellPath`, or the name of something elsewhere, as a string."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, `~` resolved."""
        return expanded(_not_empty(self, value, param, ctx))


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


class SeedList(click.ParamType):
    """Whole numbers: one, `1,5,9`, a range such as `0-7` (both ends included), or both. One alone
    is an int, more are a sequence.
    """

    name = "seeds"
    MOST = 10**7

    def convert(
        self,
        value: "str | int | Sequence[int]",
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> "int | Sequence[int]":
        """The seeds; click's usage error for anything else, or one given twice."""
        if not isinstance(value, str):
            return value
        if re.fullmatch(r"\s*-?\d+\s*", value):
            return int(value)
        found = dict[int, None]()
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if first > last or last - first >= self.MOST:
                self.fail(f"{value!r} is no list of {self.name}: give such as 7, 1,5,9 or 0-7.")
            if found.keys() & range(first, last + 1):
                self.fail(f"{value!r} holds a {self.name.removesuffix('s')} twice.")
            found |= dict.fromkeys(range(first, last + 1))
        return list(found)


class BatchList(SeedList):
    """Numbers of images a batch, as `1,4,16`."""

    name = "batch sizes"

    def convert(
        self,
        value: "str | int | Sequence[int]",
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, ...]:
        """Always several, each above 0."""
        found = super().convert(value, param, ctx)
        found = (found,) if isinstance(found, int) else tuple(found)
        if min(found) < 1:
            self.fail(f"{value!r}: a batch has one image at least.", param, ctx)
        return found


class LayerList(SeedList):
    """Numbers of layers, as `3-8` or `0,2,5`, or `none`."""

    name = "layers"
    MOST = 1000

    def convert(
        self,
        value: "str | int | Sequence[int]",
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, ...]:
        """Always several; none of `none`."""
        if isinstance(value, str) and value.strip() in ("", "none"):
            return ()
        found = super().convert(value, param, ctx)
        return (found,) if isinstance(found, int) else tuple(found)


class NumberList(Number):
    """Finite numbers in a range, with commas between, as a tuple."""

    name = "numbers"

    def convert(  # type: ignore[override]
        self,
        value: "str | float | Sequence[float]",
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[float, ...]:
        """The numbers; click's usage error for one out of range, or given twice."""
        parts = value.split(",") if isinstance(value, str) else [value]
        found = tuple(Number.convert(self, part, param, ctx) for part in parts)  # type: ignore[arg-type]
        if len(set(found)) < len(found):
            self.fail(f"{value!r} holds a number twice.", param, ctx)
        return found
