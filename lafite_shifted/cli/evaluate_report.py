"""What the verbs of `evaluate` share: a check of --out, the typed command, lists of numbers."""

import shlex
import sys
from contextlib import suppress
from pathlib import Path

REPORT_FILES = ("report.json", "report.md", "grid.png", "steps.png")


def check_own_report(out: Path) -> None:
    """InputError where a report would be written over a file of another program in `out`."""
    from lafite_shifted.errors import InputError
    from lafite_shifted.io.files import read_json

    found = [path for name in REPORT_FILES if (path := out / name).exists()]
    record = None
    with suppress(InputError):  # no JSON, or none at all
        record = read_json(out / "report.json")
    ours = isinstance(record, dict) and {"rows", "command"} <= record.keys()
    if found and not ours:
        raise InputError(
            f"{found[0]} was not written by lafite-shifted, and stays as it is. Choose another "
            "--out, or move it away."
        )


def typed() -> str:
    """The command as the user typed it, for the report."""
    return shlex.join(["lafite-shifted", *sys.argv[1:]])


def numbers(name: str, text: str, *, least: float) -> list[float]:
    """The numbers of a flag `name` with commas between, each finite and from `least`: whole ones
    where `least` is not 0, and then at least one. InputError for others.
    """
    from math import isfinite

    from lafite_shifted.errors import InputError

    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"{name} {text!r}: give numbers with commas, such as 1,2,4.") from error
    fits = all(isfinite(n) and n >= least and not (least and n % 1) for n in found)
    if not fits or (least and not found):
        raise InputError(f"{name} {text!r}: give numbers from {least:g}, such as 1,2,4.")
    return found
