"""Training under faults: killed at any moment and at every step of a save, stopped by signals, on a
full or read-only disk, with a process lost. After each the run must go on, and end as the unbroken
one did, bit for bit.

    make torture                         the whole, with a line for each part
    python -m tests.torture --help       parts of it
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lafite_shifted.io.files import load_tensors
from tests import faults
from tests.commands import TINY_GAN, half_written, succeed
from tests.faults import Fault
from tests.processes import Forked, forked
from training.loop import MACHINE_COLUMNS

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "lafite_shifted" / "assets" / "images"
STEPS, BATCH = 60, 8
RANK_STEPS = 20  # of two ranks, which wait for each other on busy cores
# a checkpoint every third step: saves are a good part of the time, as a target should be
FIELDS = ("run.checkpoint_kimg=0.024", "run.log_kimg=0.032", "run.evaluate_kimg=0.12")
OPTIONS = (
    *TINY_GAN,
    "--kimg",
    str(STEPS * BATCH / 1000),
    *(w for f in FIELDS for w in ("--set", f)),
)
EXITS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}
# changes of the disk in one save: each file is flushed, renamed, its folder flushed; so is the
# whole; then two files and the folder of the oldest checkpoint are removed
SAVE_CALLS = (*range(1, 10), 11)
EVALUATION_CALLS = (5, 11, 15, 20, 26)  # in the generator, the grid and the best generator
TOLD = re.compile(
    r"the disk is full\. A checkpoint needs ([\d.]+) MB, ([\d.]+) MB are free\. "
    r"(The last checkpoint, of [\d.]+ kimg, is intact|No checkpoint was saved yet)"
)
Process = Forked | subprocess.Popen


@dataclass
class Bench:
    """A folder of images with embeddings, and the runs that nothing has broken."""

    folder: Path
    seconds: float = 0.0  # of a forked run, of a fresh one, of two ranks
    fresh_seconds: float = 0.0
    ranks_seconds: float = 0.0

    @staticmethod
    def set_up(folder: Path, *, ranks: bool = False) -> "Bench":
        """`whole` is the command itself, in a process that nothing has prepared."""
        bench = Bench(folder)
        (folder / "images").mkdir()
        for path in sorted(IMAGES.glob("*.png"))[:24]:
            shutil.copy(path, folder / "images")
        succeed("embed", folder / "images", "--out", folder / "embeddings")
        bench.fresh_seconds = bench.finish("whole", fresh=True)
        bench.seconds = bench.finish("forked")
        bench.check("forked")
        if ranks:
            bench.ranks_seconds = bench.finish("whole-2", ranks=2)
        return bench

    def start(
        self,
        run: str | Path,
        *,
        fault: Fault | None = None,
        ranks: int = 1,
        fresh: bool = False,
        more: tuple[str, ...] = (),
    ) -> Process:
        """Forked, with a fault perhaps; or `fresh`, as it is typed; or of several `ranks`."""
        out = self.folder / run
        if not (out / "embeddings").exists():
            shutil.copytree(self.folder / "embeddings", out / "embeddings")
        words = ["train-gan", str(self.folder / "images"), "--out", str(out), *OPTIONS, *more]
        output = self.folder / "output.txt"
        output.write_bytes(b"")
        if not fresh and ranks == 1:
            return forked(faults.child, words, output, fault)
        python = [sys.executable, "-m", "lafite_shifted.cli"]
        if ranks > 1:
            words += ["--kimg", str(RANK_STEPS * BATCH / 1000)]
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
            python = [sys.executable, *launcher, "-m", "lafite_shifted.cli"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with output.open("w") as file:
            return subprocess.Popen(
                [*python, *words], stdout=file, stderr=file, env=environment, cwd=ROOT
            )

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def moment(self, rng: random.Random, run: str, *, fresh: bool = False) -> float:
        """Seconds from the begin of a process: any of what is left of the run, and of a fresh
        process those until it trains.
        """
        if fresh:
            return rng.uniform(0, 0.6 * self.fresh_seconds)
        done = int(newest(self.folder / run).rpartition("-")[2] or 0) / (STEPS * BATCH)
        return rng.uniform(0, self.seconds * (1 - 0.7 * done))

    def wait_for(self, line: str, process: Process) -> None:
        """Until the process has written it, or has ended."""
        while line not in self.output() and process.poll() is None:
            time.sleep(0.002)

    def finish(self, run: str | Path, *, ranks: int = 1, fresh: bool = False) -> float:
        """Seconds that the run has needed to end well."""
        start = time.monotonic()
        code = self.start(run, ranks=ranks, fresh=fresh).wait()
        assert code == 0, self.output()
        return time.monotonic() - start

    def check(self, run: str | Path, *, like: str = "whole") -> None:
        """AssertionError unless the finished run equals the unbroken one: weights, moments and the
        log's losses, the generators for use and the grids; and nothing half-written lies about.
        """
        found, expected = self.folder / run, self.folder / like
        names = [max((path / "checkpoints").iterdir()).name for path in (found, expected)]
        assert names[0] == names[1]
        for part in (f"checkpoints/{names[0]}", "generator", "best/generator"):
            for file in sorted((expected / part).iterdir()):
                check_same(found / part / file.name, file)
        for grid in sorted((expected / "grids").iterdir()):
            assert (found / "grids" / grid.name).read_bytes() == grid.read_bytes(), grid.name
        assert losses(found) == losses(expected)
        half = half_written(found)
        assert half == [], half

    def finish_and_check(self, run: str | Path, *, ranks: int = 1) -> None:
        """The run goes on to its end; then there is room for another of its name."""
        self.finish(run, ranks=ranks)
        self.check(run, like="whole" if ranks == 1 else f"whole-{ranks}")
        shutil.rmtree(self.folder / run)

    def usable(self, run: str | Path) -> set[str]:
        """The parts of a run that are there for use: the generators, and the newest checkpoint,
        which must be readable.
        """
        folder = self.folder / run
        found = {p for p in ("generator", "best/generator") if (folder / p).exists()}
        last = {f"checkpoints/{newest(folder)}"} if newest(folder) else set[str]()
        for part in found | last:
            for file in (folder / part).glob("*.safetensors"):
                load_tensors(file)
        return found


def check_same(file: Path, reference: Path) -> None:
    """AssertionError unless the values are the same, bit for bit: headers have no fixed order."""
    if file.suffix == ".safetensors":
        (tensors, metadata), (expected, told) = load_tensors(file), load_tensors(reference)
        assert metadata == told, file
        assert tensors.keys() == expected.keys(), file
        wrong = [name for name in expected if not torch.equal(tensors[name], expected[name])]
        assert wrong == [], (file, wrong[:5])
    else:
        assert json.loads(file.read_text()) == json.loads(reference.read_text()), file


def losses(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in rows]


def newest(run: Path) -> str:
    names = [path.name for path in (run / "checkpoints").glob("samples-*")]
    return max(names, default="")


def wait_for_training(process: Process, run: Path) -> None:
    """Until the process has saved something of its own, or has ended."""
    before = newest(run)
    while process.poll() is None and newest(run) == before:
        time.sleep(0.005)


# --- the faults; each returns how many it has made, and that all were survived


def kills(bench: Bench, count: int, *, in_saves: int, in_evaluations: int) -> str:
    """`kill -9` inside saves and evaluations, at calls spread over all of them, and else at any
    moment from the process's begin on. A run that ends is checked, and a new one begun.
    """
    rng, runs, name = random.Random(0), 0, "killed"
    saves = [SAVE_CALLS[n * len(SAVE_CALLS) // in_saves] for n in range(in_saves)]
    calls = [EVALUATION_CALLS[n % len(EVALUATION_CALLS)] for n in range(in_evaluations)]
    plan: list[Fault | None] = [Fault("kill", "checkpoint", 3, call) for call in saves]
    plan += [Fault("kill", "evaluation", 1, call) for call in calls]
    plan += [None] * (count - len(plan))
    rng.shuffle(plan)
    while plan:
        fault, before = plan[-1], bench.usable(name)
        process = bench.start(name, fault=fault)
        if fault is None:
            time.sleep(bench.moment(rng, name))
            process.kill()
        ended = process.wait()
        assert ended in (0, -signal.SIGKILL), (ended, bench.output())
        if ended == 0:  # before it was killed
            bench.check(name)
            shutil.rmtree(bench.folder / name)
            runs += 1
            continue
        if fault is not None:
            assert f"{faults.FAULT} kill in {fault.place}" in bench.output(), bench.output()
        lost = before - bench.usable(name)
        assert lost == set(), (lost, fault)
        plan.pop()
    bench.finish_and_check(name)
    where = f"{in_saves} of them inside the save of a checkpoint, {in_evaluations} inside an"
    return f"{count} kills, {where} evaluation: {runs + 1} finished runs equal the unbroken one"


def rank_kills(bench: Bench, count: int) -> str:
    """`kill -9` of either of two ranks, at any moment: torchrun takes the other down."""
    rng, done, runs, name = random.Random(2), 0, 0, "killed-2"
    while done < count:
        process = bench.start(name, ranks=2)
        time.sleep(rng.uniform(0.3, 1) * bench.ranks_seconds)
        found = children(process.pid)
        if process.poll() is None and found:
            os.kill(rng.choice(found), signal.SIGKILL)
        ended = process.wait()
        if ended == 0:
            bench.check(name, like="whole-2")
            shutil.rmtree(bench.folder / name)
            runs += 1
        else:
            assert ended == 1, (ended, bench.output())  # torchrun's
            assert re.search(r"exitcode\s*: -9 ", bench.output()), bench.output()
            assert all_gone(found)
            done += 1
    bench.finish_and_check(name, ranks=2)
    return f"{done} kills of one of 2 ranks: {runs + 1} finished runs equal the unbroken one"


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def all_gone(processes: list[int]) -> bool:
    """Whether they have ended, or do within seconds."""
    end = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def signals(bench: Bench, count: int, *, fresh: int) -> str:
    """Each signal `count` times, at any moment of a run, of which `fresh` from the first import on.
    While it trains: a checkpoint at the end of the step, and exit 128 + n; else nothing is broken.
    """
    rng, slowest, trained = random.Random(1), 0.0, 0
    for number in EXITS:
        name, sent = f"signal-{number}", 0
        while sent < count:
            before, is_fresh = newest(bench.folder / name), sent < fresh
            process = bench.start(name, fresh=is_fresh)
            if not is_fresh:
                bench.wait_for(faults.BEGUN, process)
            time.sleep(bench.moment(rng, name, fresh=is_fresh))
            reached, start = newest(bench.folder / name), time.monotonic()
            process.send_signal(number)
            ended = process.wait()
            if ended == 0:
                # in the last step or after it
                assert reached >= f"samples-{(STEPS - 4) * BATCH:010d}", (reached, bench.output())
                bench.check(name)
                shutil.rmtree(bench.folder / name)
                continue
            slowest = max(slowest, time.monotonic() - start)
            trained += check_stopped(bench, name, number, ended, before=before)
            sent += 1
        bench.finish_and_check(name)
    assert slowest < 30, slowest
    names = ", ".join(signal.Signals(n).name for n in EXITS)
    return (
        f"{count} each of {names}, {trained} of the {count * len(EXITS)} while it trained: a "
        f"checkpoint, exit 128 + n, exact resumes; the slowest exit after {slowest:.1f} s"
    )


def check_stopped(bench: Bench, run: str, number: int, ended: int, *, before: str) -> bool:
    """Whether it was training; AssertionError unless it has left what it must."""
    output, name = bench.output(), signal.Signals(number).name
    if ended == EXITS[signal.Signals(number)] and f"Stopped by {name}" in output:
        assert "the checkpoint is saved. Run the same command again" in output, output
        assert newest(bench.folder / run) > before, output
        bench.usable(run)
        return True
    by_itself = number == signal.SIGINT and ended == EXITS[signal.SIGINT]
    assert by_itself or ended == -number, (ended, output)
    assert faults.LISTENS not in output or faults.LISTENS_NO_MORE in output, output
    return False


def second_sigint(bench: Bench, trials: int) -> str:
    """The first waits for the step, which is made to last two minutes; the second leaves at once,
    from a step, a save and an evaluation.
    """
    slowest = 0.0
    places = [("step", 5, 0), ("checkpoint", 2, 4), ("evaluation", 2, 9), ("checkpoint", 3, 9)]
    for trial in range(trials):
        fault = Fault("slow", *places[trial % len(places)])
        process = bench.start("twice", fault=fault)
        bench.wait_for(faults.FAULT, process)
        saved = newest(bench.folder / "twice")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5 + 0.2 * trial)
        assert process.poll() is None, bench.output()
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        ended = process.wait(timeout=faults.SLOW_S / 2)
        slowest = max(slowest, time.monotonic() - start)
        output = bench.output()
        assert ended == EXITS[signal.SIGINT], (ended, output)
        assert "lafite-shifted: Interrupted." in output, output
        assert "Stopped by" not in output, output
        assert "Traceback" not in output, output
        assert newest(bench.folder / "twice") == saved, output
        bench.finish_and_check("twice")
    assert slowest < 10
    return f"{trials} times in mid-step: all left at once, the slowest after {slowest:.1f} s"


def full_disks(bench: Bench, count: int) -> str:
    """A small tmpfs, of `count` sizes, where one can be mounted: the message tells needed and free
    space, the checkpoints before are intact, and with more room the run goes on exactly.
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


def lost_ranks(bench: Bench, limit: int) -> str:
    """Either of two ranks killed, or stopped for good: all processes end within the time limit and
    ten seconds, not with 0, and the run goes on exactly.
    """
    told = []
    for number in (signal.SIGKILL, signal.SIGSTOP):
        for rank in range(2):
            name = f"lost-{number}-{rank}"
            limited = ("--set", f"run.time_limit_s={limit}")
            process = bench.start(name, ranks=2, more=limited)
            wait_for_training(process, bench.folder / name)
            found = children(process.pid)
            start = time.monotonic()
            os.kill(found[rank], number)
            ended = process.wait(timeout=limit + 10)
            told.append(f"{signal.Signals(number).name} {time.monotonic() - start:.0f} s")
            assert ended == 1, (ended, bench.output())  # torchrun's
            assert all_gone(found)
            bench.finish_and_check(name, ranks=2)
    return f"limit {limit} s, all gone after {', '.join(told)}, then exact resumes"


def main() -> None:
    """Run the parts asked for and print a line of each; exit 1 unless all hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts: dict[str, Callable[[Bench], str]] = {
        "kills": lambda bench: kills(bench, 50, in_saves=10, in_evaluations=5),
        "signals": lambda bench: signals(bench, 20, fresh=4),
        "second-sigint": lambda bench: second_sigint(bench, 8),
        "full-disks": lambda bench: full_disks(bench, 20),
        "failing-disks": lambda bench: failing_disks(bench, 10),
        "rank-kills": lambda bench: rank_kills(bench, 10),
        "lost-ranks": lambda bench: lost_ranks(bench, 30),
    }
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    chosen = parser.parse_args().parts or [*parts]
    if unknown := [part for part in chosen if part not in parts]:
        parser.error(f"{unknown[0]}: choose from {', '.join(parts)}")
    begun, failed = time.monotonic(), []
    # A shell's background jobs ignore SIGINT, and so would the commands here until they train.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.set_up(Path(folder), ranks=any("rank" in part for part in chosen))
        for part in chosen:
            start = time.monotonic()
            try:
                told = parts[part](bench)
            except (AssertionError, subprocess.SubprocessError):
                traceback.print_exc()
                told = "FAILED"
                failed.append(part)
            print(f"{part}: {told} ({time.monotonic() - start:.0f} s)", flush=True)
    held = f"{len(chosen) - len(failed)} of {len(chosen)} parts held"
    print(f"{held}, in {(time.monotonic() - begun) / 60:.0f} minutes")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
