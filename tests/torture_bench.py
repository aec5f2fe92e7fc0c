"""What `tests.torture` breaks: the runs of one folder, begun, watched, and compared with the
unbroken one.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
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
BATCH = 8
RANK_STEPS = 20  # of two ranks, which wait for each other on busy cores
# a checkpoint every third step: saves are a good part of the time, as a target should be
FIELDS = ("run.checkpoint_kimg=0.024", "run.log_kimg=0.032", "run.evaluate_kimg=0.12")
OPTIONS = (*TINY_GAN, *(w for f in FIELDS for w in ("--set", f)))
EXITS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}
# changes of the disk in one save: each file is flushed, renamed, its folder flushed; so is the
# whole; then two files and the folder of the oldest checkpoint are removed
SAVE_CALLS = (*range(1, 10), 11)
EVALUATION_CALLS = (5, 11, 15, 20, 26)  # in the generator, the grid and the best generator
Process = Forked | subprocess.Popen


@dataclass
class Bench:
    """A folder of images with embeddings, and the runs that nothing has broken."""

    folder: Path
    steps: int  # of a run of one process
    seconds: float = 0.0  # of a forked run, of a fresh one, of two ranks
    fresh_seconds: float = 0.0
    ranks_seconds: float = 0.0

    @staticmethod
    def set_up(folder: Path, *, steps: int = 60, ranks: bool = False) -> "Bench":
        """`whole` is the command itself, in a process that nothing has prepared."""
        bench = Bench(folder, steps)
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
        steps = self.steps if ranks == 1 else RANK_STEPS
        words = ["train-gan", str(self.folder / "images"), "--out", str(out), *OPTIONS]
        words += ["--kimg", str(steps * BATCH / 1000), *more]
        output = self.folder / "output.txt"
        output.write_bytes(b"")
        if not fresh and ranks == 1:
            return forked(faults.child, words, output, fault)
        python = [sys.executable, "-m", "lafite_shifted.cli"]
        if ranks > 1:
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
        done = int(newest(self.folder / run).rpartition("-")[2] or 0) / (self.steps * BATCH)
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
        """The run resumes, to its end; then there is space for another of its name."""
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
