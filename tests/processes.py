"""Commands of Python as processes of their own, forked from one that has imported everything: a
fresh interpreter would take seconds of each to import it. What a fresh one does itself, such as to
read a variable of the environment while it imports, needs `subprocess`.
"""

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from typing import Any
from unittest.mock import patch

import torch

COMMAND = (sys.executable, "-m", "lafite_shifted.cli")


def start_server() -> None:
    """What processes are forked from; it sums as they do, in one thread."""
    # the semaphores of who is killed are no news
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning"}
    with patch.dict(os.environ, environment):
        multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.faults"])
        forkserver.ensure_running()


def forked(target: Any, *arguments: Any) -> "Forked":
    """`target(*arguments)` in a process of its own."""
    start_server()
    forks = multiprocessing.get_context("forkserver")
    return Forked(forks.Process(target=target, args=arguments))


class Forked:
    """As much of `subprocess.Popen` as is needed, of a forked process."""

    def __init__(self, process: ForkServerProcess):
        self._process = process
        process.daemon = True
        process.start()
        self.pid = int(process.pid or 0)

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise TimeoutExpired("lafite-shifted", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Python(Forked):
    """`subprocess.Popen(COMMAND)` of a Python program: `-m MODULE`, `-c PROGRAM` or a file. What it
    says is in `out` and `err`, or all in `out` where it goes to one.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, one: bool = False
    ):
        assert command[0] == sys.executable
        start_server()
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        names = ("out", "out") if one else ("out", "err")
        self._outputs = [folder / name for name in names]
        for output in self._outputs:
            output.touch()
        words = [str(word) for word in command[1:]]
        arguments = (words, dict(os.environ if env is None else env), self._outputs)
        forks = multiprocessing.get_context("forkserver")
        super().__init__(forks.Process(target=python, args=arguments))

    @property
    def out(self) -> str:
        return self._outputs[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._outputs[1].read_text(encoding="utf-8")

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.out, self.err


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> CompletedProcess[str]:
    """`subprocess.run(COMMAND)` of a Python program."""
    process = Python([str(word) for word in command], env=env)
    out, err = process.communicate(timeout)
    return CompletedProcess(command, process.wait(), out, err)


def python(words: list[str], environment: dict[str, str], outputs: Sequence[Path] = ()) -> None:
    """What `python WORDS` does, in this process, which is there for it alone."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, output in zip((1, 2), outputs, strict=False):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    torch.set_num_threads(1)
    first, *rest = words[1:] if words[0] == "-u" else words
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")
