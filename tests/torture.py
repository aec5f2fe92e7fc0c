"""Training under faults: killed at any moment and at every step of a save, stopped by signals, on a
full or read-only disk, with a process lost. After each the run must go on, and end as the unbroken
one did, bit for bit.

    make torture                         the whole, with a line for each part
    python -m tests.torture --help       parts of it
"""

import argparse
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
from collections.abc import Callable
from pathlib import Path

from tests import faults
from tests.faults import Fault
from tests.torture_bench import (
    BATCH,
    EVALUATION_CALLS,
    EXITS,
    SAVE_CALLS,
    Bench,
    all_gone,
    children,
    newest,
    wait_for_training,
)
from tests.torture_disks import failing_disks, full_disks

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
                late = f"samples-{(bench.steps - 4) * BATCH:010d}"
                assert reached >= late, (reached, bench.output())
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
