"""`make gpu`: all that waits for a GPU, in stages of at most 8 minutes each: `python -m
training.tools.gpu_stages --stage 2`.

A stage is a list of commands, each a process of its own with a time limit; what they found, with
the device, its driver, versions and clocks, goes to OUT/gpu.json and, to be read, to OUT/gpu.md.
Other stages' results stay. Needs no network and no optional package; says what is missing.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lafite_shifted.io.files import read_json, write_json
from lafite_shifted.io.starter import starter_folder

LIMIT_S = 8 * 60.0  # of a stage
GRACE_S = 60.0  # to save a checkpoint after SIGTERM
COPIED = "copied GB/s, read and written"
PYTHON = sys.executable
_BENCH = (PYTHON, "-m", "lafite_shifted.cli", "bench")
_SIZES = ("--set", "generator.channel_max=8", "--set", "discriminator.channel_max=8")


@dataclass(frozen=True)
class Task:
    """One command of a stage; an `endless` one is stopped at the limit, which is no failure."""

    name: str
    command: tuple[str, ...]
    endless: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    command: str
    status: str  # done, failed, out of time, missing
    seconds: float
    result: Any  # the JSON that it printed, else its last lines


def tasks_of(
    stage: int, device: str, *, shrunk: bool, run: Path, images: Path | None
) -> list[Task]:
    """The tasks of a stage; `shrunk` takes seconds on a CPU."""
    if stage == 1:
        marks = ("tests/torch_utils/test_lagged.py",) if shrunk else ("-m", "gpu")
        tests = (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *marks)
        short = ("tests/torch_utils/ops/test_gpu.py", "-m", "gpu", "-k", "derivatives")
        check = ("compute-sanitizer", "--error-exitcode", "1", PYTHON, "-m", "pytest", *short)
        few = ("--rounds", "1", "--no-compile") if shrunk else ()
        bench = Task("operators", (*_BENCH, "ops", "--device", device, "--json", *few))
        return [Task("tests", tests), Task("memory check", check), bench]
    if stage == 2:
        presets = ("tiny",) if shrunk else ("small", "256", "512", "1024")
        few = ("--rounds", "1") if shrunk else ("--rounds", "3")
        sizes = _SIZES if shrunk else ()
        on = ("--device", device, "--json", *few)
        found = [
            Task(f"train {p}", (*_BENCH, "train", "--preset", p, *on, *sizes)) for p in presets
        ]
        preset = ("--preset", "tiny" if shrunk else "256")
        found.append(Task("generate", (*_BENCH, "generate", *preset, *on)))
        found.append(Task("prior", (*_BENCH, "prior", "--preset", "tiny", *on)))
        found.append(Task("embed", (*_BENCH, "embed", str(shipped_images()), *on)))
        return found
    if images is None:
        return [Task("training", ("IMAGES",))]
    train = (PYTHON, "-m", "lafite_shifted.cli", "train-gan", str(images), "--out", str(run))
    if shrunk:
        sizes = ("--preset", "tiny", "--kimg", "100", "--batch-size", "8", *_SIZES)
    else:
        sizes = ("--init", "starter")
    return [Task("training", (*train, "--device", device, *sizes), endless=True)]


def shipped_images() -> Path:
    """The images that ship, to embed."""
    return starter_folder().parent / "images"


def with_shares(result: Any, machine: dict[str, Any]) -> Any:
    """Rows of `bench ops` with their share of the bandwidth of copies, as measured on `machine`;
    other results as they are.
    """
    if not isinstance(result, list):
        return result
    rate, copied = "gigabytes_per_second", machine[COPIED]
    return [
        row | {"share_of_copy": row[rate] / copied}
        if isinstance(row, dict) and rate in row
        else row
        for row in result
    ]


def perform(task: Task, limit_s: float) -> Outcome:
    """Run a task, at most `limit_s` seconds."""
    command = " ".join(Path(w).name if w == PYTHON else w for w in task.command)
    if shutil.which(task.command[0]) is None:
        return Outcome(command, "missing", 0.0, f"{task.command[0]} is not there")
    start = time.perf_counter()
    process = subprocess.Popen(
        task.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TQDM_DISABLE": "1"},
    )
    try:
        said, _ = process.communicate(timeout=max(limit_s, 1.0))
        status = "done" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # a training saves
        try:
            said, _ = process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        saved = process.returncode == 128 + signal.SIGTERM
        status = "done" if task.endless and saved else "out of time"
    return Outcome(command, status, time.perf_counter() - start, _result_of(said))


def _result_of(said: str) -> Any:
    """The JSON object in it, else the last lines."""
    start = said.find("{\n")
    try:
        return json.loads(said[start : said.rfind("}") + 1])["results"]
    except (ValueError, KeyError):
        return said.strip().splitlines()[-3:]


def describe(device: torch.device) -> dict[str, Any]:
    """The device, its driver and clocks as found, versions, and what it copies and multiplies a
    second.
    """
    found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    smi = shutil.which("nvidia-smi")
    if smi:
        names = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
        query = [smi, f"--query-gpu={names}", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        found["driver, clocks"] = done.stdout.strip()
    side = 4096 if device.type == "cuda" else 256
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    found["matrix TFLOP/s, bfloat16"] = 2 * side**3 / _seconds(lambda: a @ a, device) / 1e12
    x = torch.empty(2**28 if device.type == "cuda" else 2**22, device=device)
    y = torch.empty_like(x)
    found[COPIED] = 8 * len(x) / _seconds(lambda: y.copy_(x), device) / 1e9
    return found


def _seconds(run: Any, device: torch.device) -> float:
    """The least of five calls, after one that warms up."""
    found = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def page(record: dict[str, Any]) -> str:
    """gpu.md of gpu.json."""
    lines = ["# On a GPU", "", "Written by `make gpu`; all of it, as JSON, in gpu.json.", ""]
    for stage, found in sorted(record.items()):
        lines += [f"## Stage {stage}", ""]
        lines += [f"- {name}: {value}" for name, value in found["machine"].items()]
        lines += ["", "| what | command | status | seconds |", "|---|---|---|---|"]
        for name, task in found["tasks"].items():
            row = (name, f"`{task['command']}`", task["status"], f"{task['seconds']:.0f}")
            lines.append(f"| {' | '.join(row)} |")
        for name, task in found["tasks"].items():
            text = json.dumps(task["result"], indent=1)
            lines += ["", f"### {name}", "", "```json", text, "```"]
        lines.append("")
    return "\n".join(lines)


def run_stage(
    stage: int, device: torch.device, out: Path, tasks: Sequence[Task], *, limit_s: float = LIMIT_S
) -> list[Outcome]:
    """Perform the tasks within the limit, and write what was found after each."""
    record = read_json(out / "gpu.json") if (out / "gpu.json").is_file() else {}
    machine, end = describe(device), time.perf_counter() + limit_s
    record[str(stage)] = {"machine": machine, "tasks": {}}
    outcomes = []
    for task in tasks:
        outcome = perform(task, end - time.perf_counter() - (GRACE_S if task.endless else 0.0))
        outcome = replace(outcome, result=with_shares(outcome.result, machine))
        outcomes.append(outcome)
        record[str(stage)]["tasks"][task.name] = asdict(outcome)
        write_json(out / "gpu.json", record)
        (out / "gpu.md").write_text(page(record), encoding="utf-8")
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything was done; what is missing is told, and is no failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), action="append")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--run", type=Path, default=Path("runs/gpu"), help="of stage 3, resumed")
    parser.add_argument("--images", type=Path, help="that stage 3 trains on")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    parser.add_argument("--shrunk", action="store_true", help="seconds, on a CPU")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is here: nothing was run (--device cpu --shrunk tries the script)")
        return 2
    failed = False
    given.out.mkdir(parents=True, exist_ok=True)
    for stage in given.stage or (1, 2, 3):
        options = {"shrunk": given.shrunk, "run": given.run, "images": given.images}
        tasks = tasks_of(stage, given.device, **options)
        device = torch.device(given.device)
        for task, outcome in zip(
            tasks, run_stage(stage, device, given.out, tasks, limit_s=given.limit_s), strict=True
        ):
            print(f"stage {stage}: {task.name}: {outcome.status}, {outcome.seconds:.0f} s")
            failed |= outcome.status in ("failed", "out of time")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
