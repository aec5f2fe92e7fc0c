"""`lafite-shifted` in several processes, with the environment that torchrun gives them, forked from
one that has imported everything: torchrun would take seconds of each to import it. What torchrun
does itself, such as to end all where one is lost, is tested with it.
"""

import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch

from lafite_shifted.cli import main as command
from tests.commands import Outcome
from tests.torture import start_server

TIMEOUT_S = 400


def run_ranks(*arguments: str | Path, folder: Path, count: int = 2) -> Outcome:
    """The command's first exit code that is not 0, and what all of them said. `folder` takes
    their outputs.
    """
    start_server()
    forks = multiprocessing.get_context("forkserver")
    outputs = [folder / f"{stream}.txt" for stream in ("out", "err")]
    for output in outputs:
        output.unlink(missing_ok=True)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    words = [str(word) for word in arguments]
    ranks = [
        forks.Process(
            target=_rank,
            args=(words, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, outputs),
            daemon=True,
        )
        for rank in range(count)
    ]
    for rank in ranks:
        rank.start()
    end = time.monotonic() + TIMEOUT_S
    while any(rank.is_alive() for rank in ranks) and not any(rank.exitcode for rank in ranks):
        running = [rank.sentinel for rank in ranks if rank.is_alive()]
        if not wait(running, timeout=end - time.monotonic()):
            break
    failed = [rank.exitcode for rank in ranks if rank.exitcode]
    for rank in ranks:
        rank.kill()
        rank.join()
    out, err = (output.read_text(encoding="utf-8") for output in outputs)
    return Outcome(next(iter(failed), 0), out, err)


def succeed_in_ranks(*arguments: str | Path, folder: Path, count: int = 2) -> Outcome:
    """Run a command that must end well."""
    outcome = run_ranks(*arguments, folder=folder, count=count)
    assert outcome.code == 0, outcome.err
    return outcome


def _rank(words: list[str], environment: dict[str, str], outputs: list[Path]) -> None:
    os.environ.update(environment)
    for descriptor, output in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    torch.set_num_threads(1)
    sys.argv = ["lafite-shifted", *words]
    command.main()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
