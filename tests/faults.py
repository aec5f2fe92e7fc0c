"""The command `lafite-shifted` in a process forked from one that has imported everything, with a
fault at a chosen place: what `tests.torture` starts.
"""

import errno
import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard

from lafite_shifted.cli import main as command
from lafite_shifted.cli import train_gan
from lafite_shifted.io import files
from training import loop
from training.gan import run as gan_run
from training.gan.trainer import GanTrainer
from training.prior import run as prior_run
from training.run_folder import RunFolder

IMPORTED = (
    train_gan,
    gan_run,
    prior_run,
    torch.utils.tensorboard,
)  # before it forks, to start quickly

SLOW_S = 120
PLACES: dict[str, tuple[Any, str]] = {
    "opening": (RunFolder, "__init__"),
    "step": (GanTrainer, "step"),
    "evaluation": (GanTrainer, "evaluate"),
    "checkpoint": (RunFolder, "save_checkpoint"),
}
LISTENS, LISTENS_NO_MORE = "[listens to signals]", "[listens no more]"
BEGUN, FAULT = "[begun]", "[fault]"


@dataclass(frozen=True)
class Fault:
    """At the `call`-th change of the disk (0: at once) of the `turn`-th time that a process is at
    the `place`: "kill", "slow" (busy for two minutes), or an error of the disk, from then on.
    """

    kind: str
    place: str
    turn: int = 1
    call: int = 0


class _Armed:
    """Counts, in this process, up to where the fault is due."""

    def __init__(self, fault: Fault):
        self._fault, self._is_error = fault, hasattr(errno, fault.kind)
        self._turns, self._calls, self._inside, self._happened = 0, 0, False, False
        owner, name = PLACES[fault.place]
        setattr(owner, name, self._place(getattr(owner, name)))
        changes: list[tuple[Any, str]] = [(os, "fsync"), (Path, "replace")]
        if not self._is_error:
            changes += [(files, "_exchange")]
        if fault.kind != "ENOSPC":  # files can be removed from a full disk
            changes += [(os, "unlink"), (os, "rmdir")]
        for owner, name in changes:
            setattr(owner, name, self._change(getattr(owner, name), name))

    def _place(self, real: Callable) -> Callable:
        @functools.wraps(real)
        def place(*arguments: Any, **options: Any) -> Any:
            self._turns, self._calls = self._turns + 1, 0
            self._inside = self._turns == self._fault.turn
            if self._inside and self._fault.call == 0:
                self._happen("at once")
            try:
                return real(*arguments, **options)
            finally:
                self._inside = False

        return place

    def _change(self, real: Callable, name: str) -> Callable:
        def change(*arguments: Any, **options: Any) -> Any:
            self._calls += self._inside
            due = self._inside and self._calls == self._fault.call
            if due or (self._happened and self._is_error):
                self._happen(name)
            return real(*arguments, **options)

        return change

    def _happen(self, where: str) -> None:
        fault = self._fault
        if not self._happened:
            note(f"{FAULT} {fault.kind} in {fault.place} {fault.turn}, {fault.call}: {where}")
        self._happened = True
        if self._is_error:
            number = getattr(errno, fault.kind)
            raise OSError(number, os.strerror(number))
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + SLOW_S
        while time.monotonic() < end:
            torch.ones(64, 64).matmul(torch.ones(64, 64))


def note(line: str) -> None:
    """Into the output at once: a kill loses what Python holds back."""
    os.write(2, f"{line}\n".encode())


def child(words: list[str], output: Path, fault: Fault | None) -> None:
    """The command, in a process of its own."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    enter, leave = loop._Interrupts.__enter__, loop._Interrupts.__exit__

    def entered(self: loop._Interrupts) -> loop._Interrupts:
        enter(self)
        note(LISTENS)
        return self

    def left(self: loop._Interrupts, *error: Any) -> None:
        note(LISTENS_NO_MORE)
        leave(self, *error)

    loop._Interrupts.__enter__, loop._Interrupts.__exit__ = entered, left
    if fault:
        _Armed(fault)
    sys.argv = ["lafite-shifted", *words]
    try:
        note(BEGUN)
        command.main()
    except KeyboardInterrupt:  # before or after the command's own care
        sys.exit(130)
