"""Training under faults: killed at any moment and at every step of a save, stopped by signals, on a
full or read-only disk, with a process lost. After each the run must go on, and end as the unbroken
one did, bit for bit.

    make torture                         the whole
    python -m tests.torture --help       parts of it
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lafite_shifted.files import load_tensors
from tests.commands import TINY_GAN
from tests.conftest import ASSETS
from training.loop import MACHINE_COLUMNS

ROOT = Path(__file__).parents[1]
STEPS, BATCH = 60, 8
# a checkpoint every third step: saves are a good part of the time, as a target should be
FIELDS = ("run.checkpoint_kimg=0.024", "run.log_kimg=0.032", "run.evaluate_kimg=0.16")
OPTIONS = (
    *TINY_GAN,
    "--kimg",
    str(STEPS * BATCH / 1000),
    *(w for f in FIELDS for w in ("--set", f)),
)
EXITS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}
# what the command is started with: a fault at the n-th flush or renaming of files
CHILD = """
import errno, os, signal, sys
kind, _, at = os.environ.get("FAULT", "").partition(":")
count = 0
def faulty(real):
    def call(*args, **kwargs):
        global count
        count += 1
        if kind and count >= int(at):
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)), "made to fail")
        return real(*args, **kwargs)
    return call
os.fsync = faulty(os.fsync)
os.rename, os.replace = faulty(os.rename), faulty(os.replace)
from lafite_shifted.cli.main import main
main()
"""


@dataclass(frozen=True)
class Bench:
    """A folder of pictures with embeddings, and the run that nothing has broken."""

    folder: Path

    @staticmethod
    def set_up(folder: Path) -> "Bench":
        bench = Bench(folder)
        (folder / "pictures").mkdir()
        for path in sorted((ASSETS / "pictures").glob("*.png"))[:24]:
            shutil.copy(path, folder / "pictures")
        assert bench.start("first", prepare=False).wait() == 0
        shutil.copytree(folder / "first" / "embeddings", folder / "embeddings")
        assert bench.start("whole").wait() == 0
        return bench

    def start(
        self,
        run: str | Path,
        *,
        fault: str = "",
        ranks: int = 1,
        prepare: bool = True,
        more: tuple[str, ...] = (),
    ) -> subprocess.Popen:
        out = self.folder / run
        if prepare and not (out / "embeddings").exists():
            shutil.copytree(self.folder / "embeddings", out / "embeddings")
        words = ["train-gan", str(self.folder / "pictures"), "--out", str(out), *OPTIONS, *more]
        python = [sys.executable, "-c", CHILD]
        if ranks > 1:
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
            python = [sys.executable, *launcher, "-m", "lafite_shifted.cli"]
        environment = os.environ | {"FAULT": fault, "OMP_NUM_THREADS": "1"}
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [*python, *words], stdout=output, stderr=output, env=environment, cwd=ROOT
            )

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def finish(self, run: str | Path, *, ranks: int = 1) -> None:
        code = self.start(run, ranks=ranks).wait()
        assert code == 0, self.output()

    def check(self, run: str | Path, *, like: str = "whole") -> None:
        """AssertionError unless the finished run equals the unbroken one: weights, moments and the
        log's losses; and nothing half-written lies about.
        """
        found, expected = self.folder / run, self.folder / like
        last = [max((path / "checkpoints").iterdir()) for path in (found, expected)]
        assert last[0].name == last[1].name
        tensors, reference = (load_tensors(path / "state.safetensors")[0] for path in last)
        wrong = [name for name in reference if not torch.equal(tensors[name], reference[name])]
        assert wrong == [], wrong[:5]
        assert losses(found) == losses(expected)
        half = [p for p in found.rglob(".*") if p.suffix in (".tmp", ".old")]
        assert half == [], half


def losses(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in rows]


def newest(run: Path) -> str:
    names = [path.name for path in (run / "checkpoints").glob("samples-*")]
    return max(names, default="")


def wait_for_training(process: subprocess.Popen, run: Path) -> None:
    """Until the process has logged or saved something of its own, or has ended."""
    before = newest(run)
    while process.poll() is None and newest(run) == before:
        time.sleep(0.005)


# --- the faults; each returns how many it has made, and that all were survived


def kills(bench: Bench, count: int, *, inside_saves: int, ranks: int = 1) -> str:
    """`kill -9` at random moments of training, and at the n-th flush or renaming of a save. A run
    that ends is checked, and a new one begun.
    """
    rng, done, runs, name = random.Random(0), 0, 0, f"killed-{ranks}"
    injected = [3 + 7 * n for n in range(inside_saves)]
    while done < count:
        fault = f"kill:{injected.pop()}" if injected else ""
        process = bench.start(name, fault=fault, ranks=ranks)
        if not fault:
            wait_for_training(process, bench.folder / name)
            time.sleep(rng.uniform(0, 0.4))
            process.kill() if ranks == 1 else kill_one(process, rng)
        if process.wait() == 0:
            bench.check(name, like="whole" if ranks == 1 else f"whole-{ranks}")
            shutil.rmtree(bench.folder / name)
            runs += 1
        else:
            done += 1
    bench.finish(name, ranks=ranks)
    bench.check(name, like="whole" if ranks == 1 else f"whole-{ranks}")
    shutil.rmtree(bench.folder / name)
    where = f", {inside_saves} of them inside a save" if inside_saves else f", {ranks} ranks"
    return f"{done} kills{where}: {runs + 1} finished runs bit-identical to the unbroken one"


def kill_one(process: subprocess.Popen, rng: random.Random) -> None:
    """Kill a rank: torchrun takes the others down."""
    found = children(process.pid)
    if found:
        os.kill(rng.choice(found), signal.SIGKILL)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def signals(bench: Bench, count: int) -> str:
    """Each signal `count` times: a checkpoint at the end of the step, its exit code, and an exact
    resume; the second SIGINT leaves at once.
    """
    rng, slowest = random.Random(1), 0.0
    for number, code in EXITS.items():
        name, sent = f"signal-{number}", 0
        while sent < count:
            process = bench.start(name)
            wait_for_training(process, bench.folder / name)
            time.sleep(rng.uniform(0, 0.4))
            start = time.monotonic()
            process.send_signal(number)
            ended = process.wait()
            slowest = max(slowest, time.monotonic() - start)
            if ended == 0:
                bench.check(name)
                shutil.rmtree(bench.folder / name)
            else:
                assert ended == code, (ended, bench.output())
                assert "Run the same command again" in bench.output()
                sent += 1
        bench.finish(name)
        bench.check(name)
    assert slowest < 30
    process = bench.start("twice")
    wait_for_training(process, bench.folder / "twice")
    process.send_signal(signal.SIGINT)
    time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert process.wait() in (130, -signal.SIGINT)
    bench.finish("twice")
    bench.check("twice")
    names = ", ".join(signal.Signals(n).name for n in EXITS)
    return f"{count} each of {names}: exact resumes, the slowest exit after {slowest:.1f} s"


def full_disks(bench: Bench, count: int) -> str:
    """A small tmpfs, of `count` sizes, where one can be mounted: the message tells needed and free
    space, the checkpoints before are intact, and with more room the run goes on exactly.
    """
    place = bench.folder / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(mount(place, 1000), check=False).returncode:
        return "no tmpfs can be mounted here: only injected faults"
    subprocess.run(["umount", str(place)], check=True)
    least = sum(p.stat().st_size for p in (bench.folder / "embeddings").rglob("*")) // 1024 + 40
    refused = 0
    for number in range(count):
        subprocess.run(mount(place, least + 40 * number), check=True)
        try:
            shutil.copytree(bench.folder / "embeddings", place / "run" / "embeddings")
            process = bench.start(place / "run")
            code = process.wait()
            before = newest(place / "run")
            assert code in (0, 2), bench.output()
            if code == 2:
                refused += 1
                told = "disk is full" in bench.output()
                assert told, bench.output()
            if before:
                load_tensors(place / "run" / "checkpoints" / before / "state.safetensors")
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            bench.finish(place / "run")
            bench.check(place / "run")
        finally:
            subprocess.run(["umount", str(place)], check=True)
    return f"{count} sizes of disk, {refused} too small: told, intact, exact with more room"


def mount(place: Path, kilobytes: int) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]


def failing_disks(bench: Bench, count: int) -> str:
    """ENOSPC and EROFS from the n-th flush or renaming on."""
    for kind in ("ENOSPC", "EROFS"):
        for number in range(count):
            name = f"disk-{kind}-{number}"
            process = bench.start(name, fault=f"{kind}:{5 + 11 * number}")
            code = process.wait()
            assert code in (0, 2), bench.output()
            assert "Traceback" not in bench.output(), bench.output()
            bench.finish(name)
            bench.check(name)
            shutil.rmtree(bench.folder / name)
    return f"{count} times each ENOSPC and EROFS made to happen: exit 2, then exact resumes"


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
            assert process.wait(timeout=limit + 10) != 0, bench.output()
            told.append(f"{signal.Signals(number).name} {time.monotonic() - start:.0f} s")
            assert not any(Path(f"/proc/{pid}").exists() for pid in found)
            bench.finish(name, ranks=2)
            bench.check(name, like="whole-2")
    return f"limit {limit} s, all gone after {', '.join(told)}, then exact resumes"


def main() -> None:
    """Run the parts asked for and print a line of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts: dict[str, Callable[[Bench], str]] = {
        "kills": lambda bench: kills(bench, 50, inside_saves=10),
        "signals": lambda bench: signals(bench, 20),
        "full-disks": lambda bench: full_disks(bench, 20),
        "failing-disks": lambda bench: failing_disks(bench, 10),
        "rank-kills": lambda bench: kills(bench, 10, inside_saves=0, ranks=2),
        "lost-ranks": lambda bench: lost_ranks(bench, 60),
    }
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    chosen = parser.parse_args().parts or [*parts]
    if unknown := [part for part in chosen if part not in parts]:
        parser.error(f"{unknown[0]}: choose from {', '.join(parts)}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.set_up(Path(folder))
        if any("rank" in part for part in chosen):
            bench.finish("whole-2", ranks=2)
        for part in chosen:
            start = time.monotonic()
            print(f"{part}: {parts[part](bench)} ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
