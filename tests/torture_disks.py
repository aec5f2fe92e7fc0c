"""Disks that are full, fail or are read-only while a training saves."""

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from lafite_shifted.io.files import load_tensors
from tests import faults
from tests.faults import Fault
from tests.torture_bench import EVALUATION_CALLS, SAVE_CALLS, Bench, newest

TOLD = re.compile(
    r"the disk is full\. A checkpoint needs ([\d.]+) MB, ([\d.]+) MB are free\. "
    r"(The last checkpoint, of [\d.]+ kimg, is intact|No checkpoint was saved yet)"
)


def full_disks(bench: Bench, count: int) -> str:
    """A small tmpfs, of `count` sizes, where one can be mounted: the message tells needed and free
    space, the checkpoints before are intact, and with more of it the run resumes exactly.
    """
    place = bench.folder / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(mount(place, 1000), check=False).returncode:
        return "no tmpfs can be mounted here: only injected faults"
    subprocess.run(["umount", str(place)], check=True)
    # from hardly more than the embeddings to all that a run ever has at once
    least = size_of(bench.folder / "embeddings") + 40
    most = size_of(bench.folder / "whole") + size_of(bench.folder / "whole" / "checkpoints") // 2
    refused = kept = 0
    for number in range(count):
        size = least + (most - least) * number // max(count - 1, 1)
        subprocess.run(mount(place, size), check=True)
        try:
            shutil.copytree(bench.folder / "embeddings", place / "run" / "embeddings")
            code = bench.start(place / "run").wait()
            assert code in (0, 2), bench.output()
            if code == 2:
                check_told(bench, place / "run")
                refused += 1
                kept += bool(newest(place / "run"))
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            bench.finish_and_check(place / "run")
        finally:
            subprocess.run(["umount", str(place)], check=True)
    assert 0 < kept < refused < count or count < 20, (kept, refused)
    return (
        f"{count} sizes of disk from {least} to {most} kB, {refused} too small, {kept} of them "
        "with a checkpoint before: needed and free space told, intact, exact with more room"
    )


def size_of(folder: Path) -> int:
    """Kilobytes, in whole pages."""
    return sum(4 * (1 + path.stat().st_size // 4096) for path in folder.rglob("*"))


def mount(place: Path, kilobytes: int) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]


def check_told(bench: Bench, run: Path) -> None:
    """AssertionError unless a full disk was told in figures that are so."""
    output = bench.output()
    told = TOLD.search(output)
    assert told, output
    assert "Traceback" not in output, output
    whole = bench.folder / "whole" / "checkpoints"
    state = max(whole.iterdir()) / "state.safetensors"
    tensors = load_tensors(state)[0].values()
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert abs(float(told[1]) - needed / 1e6) <= 0.06, output
    free = shutil.disk_usage(run).free / 1e6
    # what is not this test's alone changes meanwhile
    assert abs(float(told[2]) - free) <= max(1, 0.1 * free), output
    assert (told[3] == "No checkpoint was saved yet") == (newest(run) == ""), output
    bench.usable(run)


def failing_disks(bench: Bench, count: int) -> str:
    """ENOSPC and EROFS from one flush or renaming on: in saves, in evaluations, at the opening."""
    places = Counter[str]()
    for kind in ("ENOSPC", "EROFS"):
        for number in range(count):
            fault = Fault(kind, "checkpoint", 1 + number % 3, SAVE_CALLS[number % 9])
            if number % 5 == 3:
                call = EVALUATION_CALLS[number // 5 % len(EVALUATION_CALLS)]
                fault = Fault(kind, "evaluation", 1, call)
            if number % 10 == 9:
                fault = Fault(kind, "opening", 1, 2)
            name = f"disk-{kind}"
            code = bench.start(name, fault=fault).wait()
            output = bench.output()
            assert f"{faults.FAULT} {kind} in {fault.place}" in output, output
            assert code == 2, (code, output)
            assert "Traceback" not in output, output
            if kind == "EROFS":
                assert "the file system is read-only" in output, output
            elif fault.place == "opening":
                assert "the disk is full. Free some space" in output, output
            else:
                check_told(bench, bench.folder / name)
            bench.finish_and_check(name)
            places[fault.place] += 1
    where = ", ".join(f"{times} in {place}" for place, times in places.items())
    return f"{count} times each ENOSPC and EROFS ({where}): told, exit 2, then exact resumes"
