"""Programs in several processes, with the environment that torchrun gives them, forked from one
that has imported everything: torchrun would take seconds of each to import it. What torchrun does
itself, such as to end all where one is lost, is tested with it, its ranks forked as well.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from subprocess import TimeoutExpired
from unittest.mock import patch

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from tests.commands import Outcome
from tests.processes import Python, forked, python

TIMEOUT_S = 400


def run_ranks(*arguments: str | Path, folder: Path, count: int = 2) -> Outcome:
    """The command's first exit code that is not 0, and what all of them said. `folder` takes
    their outputs.
    """
    return run_in_ranks(("-m", "lafite_shifted.cli", *arguments), folder=folder, count=count)


def run_in_ranks(words: Sequence[str | Path], *, folder: Path, count: int = 2) -> Outcome:
    """As `run_ranks`, of what `python WORDS` runs."""
    outputs = [folder / f"{stream}.txt" for stream in ("out", "err")]
    for output in outputs:
        output.unlink(missing_ok=True)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    environments = [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(count)]
    program = [str(word) for word in words]
    ranks = [forked(python, program, os.environ | own, outputs) for own in environments]
    end = time.monotonic() + TIMEOUT_S
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        running = [rank.sentinel for rank in ranks if rank.poll() is None]
        if not wait(running, timeout=end - time.monotonic()):
            break
    failed = [code for rank in ranks if (code := rank.poll())]
    for rank in ranks:
        rank.kill()
        rank.wait()
    out, err = (output.read_text(encoding="utf-8") for output in outputs)
    return Outcome(next(iter(failed), 0), out, err)


def succeed_in_ranks(*arguments: str | Path, folder: Path, count: int = 2) -> Outcome:
    """Run a command that must end well."""
    outcome = run_ranks(*arguments, folder=folder, count=count)
    assert outcome.code == 0, outcome.err
    return outcome


def torchrun(command: Sequence[str], *, count: int = 2) -> Python:
    """`torchrun` of the command, of this machine alone."""
    port = ("--master-port", str(free_port()))
    words = ("--nproc-per-node", str(count), *port, "-m", "lafite_shifted.cli", *command)
    return Python(
        [sys.executable, "-c", TORCHRUN, *words], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


TORCHRUN = "from tests.ranks import run_torchrun; run_torchrun()"


def run_torchrun() -> None:
    """torchrun itself, with the words of this process; each rank is a fork instead of a new
    interpreter.
    """

    def start(handler: SubprocessHandler, words: tuple[str, ...], env: dict[str, str]) -> Rank:
        return Rank(words, env)

    with patch.object(SubprocessHandler, "_popen", start):
        run.main(sys.argv[1:])


class Rank:
    """As much of `subprocess.Popen` as torchrun needs, in a session of its own."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str]):
        self.args, self.returncode = words, None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                python(list(words[1:]), dict(env))
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
            finally:
                if sys.exc_info()[0]:  # as an interpreter ends with it
                    traceback.print_exc()
                sys.stdout.flush()
                os._exit(code)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (TIMEOUT_S if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutExpired(str(self.args), timeout or 0)
            time.sleep(0.01)
        return code

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
