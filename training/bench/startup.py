"""Benchmark of a cold start: `generate` to its first PNG, in a process of its own, beside a process
that imports what every such program imports.

Both take their turns; a ratio is the median over rounds of one round's times.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lafite_shifted.errors import InputError

IMPORTS, GENERATE = "import torch, open_clip", "generate"
PROMPT = "a red heart"


@dataclass(frozen=True)
class MeasuredStartup:
    """Seconds of a process from its start to its end, medians over rounds."""

    seconds: dict[str, float]
    cpu_seconds: dict[str, float]  # of all its threads: a busy machine changes them less
    ratio: float  # generate over imports
    cpu_ratio: float


def bench_startup(model: str, *, rounds: int) -> MeasuredStartup:
    """`model` as in `generate --model`. A first round, which does not count, reads the files into
    the system's cache. InputError where `generate` fails.
    """
    found: dict[str, list[tuple[float, float]]] = {IMPORTS: [], GENERATE: []}
    for number in range(rounds + 1):
        pair = {GENERATE: _first_image(model), IMPORTS: _spent((sys.executable, "-c", IMPORTS))}
        if number:
            for name, spent in pair.items():
                found[name].append(spent)

    def medians(column: int) -> dict[str, float]:
        return {name: statistics.median(s[column] for s in spent) for name, spent in found.items()}

    def ratio(column: int) -> float:
        pairs = zip(found[GENERATE], found[IMPORTS], strict=True)
        return statistics.median(a[column] / b[column] for a, b in pairs)

    return MeasuredStartup(medians(0), medians(1), ratio(0), ratio(1))


def _first_image(model: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--model", model, "--num-images", "1", "--as", "files", "--out", folder)
        command = (sys.executable, "-m", "lafite_shifted.cli", "generate", PROMPT, *flags)
        spent = _spent(command)
        assert list(Path(folder).glob("*.png")), "generate ended well without an image"
    return spent


def _spent(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and CPU seconds of a process, to its end."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode:
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise InputError(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else 'silent'}")
    return seconds, usage.ru_utime + usage.ru_stime
