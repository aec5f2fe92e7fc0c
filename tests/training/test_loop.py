"""What the loop does with any training: log, signals, divergence, a full disk."""

import errno
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lafite_shifted.errors import DivergedError, InputError, InterruptedRunError
from tests.training.runs import interrupt, last_checkpoint, log_of, train
from training.config import RunConfig
from training.loop import run_loop
from training.run_folder import Evaluation, RunFolder


class Walk:
    """A training of one number that goes up by one a step, and reports it."""

    batch, waited, device = 4, 0.0, torch.device("cpu")

    def __init__(self, not_finite_from: float = float("inf")):
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.not_finite_from = not_finite_from
        self.evaluated: list[int] = []

    def parts(self) -> Mapping[str, nn.Module]:
        return {"network": self.network}

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        with torch.no_grad():
            self.network.weight += 1
        finite = samples_seen + self.batch < self.not_finite_from
        return {"loss": self.network.weight.detach().sum() * (1.0 if finite else torch.nan)}

    def evaluate(self, samples_seen: int, folder: Path) -> Evaluation:
        self.evaluated.append(samples_seen)
        return Evaluation({"metric": float(samples_seen)})


def walk(
    path: Path, trainer: Walk, *, log: float = 0.008, checkpoint: float = 0.004
) -> tuple[Walk, RunConfig, RunFolder]:
    config = RunConfig(
        kimg=0.03,
        log_kimg=log,
        evaluate_kimg=0.016,
        checkpoint_kimg=checkpoint,
        keep_checkpoints=9,
    )
    return trainer, config, RunFolder(path, kind="walk", description={"config": {}})


def test_log_holds_averages_since_the_last_line(tmp_path: Path):
    trainer = Walk()
    progress = list(run_loop(*walk(tmp_path / "run", trainer)))
    assert [step.samples for step in progress] == list(range(4, 33, 4))  # whole batches
    assert {step.total_samples for step in progress} == {32}
    logged = [(step.samples, step.logged["loss"]) for step in progress if step.logged]
    assert logged == [(8, 1.5), (16, 3.5), (24, 5.5), (32, 7.5)]
    assert trainer.evaluated == [16, 32]
    assert log_of(tmp_path / "run")[1] == {"samples": 16, "loss": 3.5, "metric": 16.0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_a_checkpoint_and_tells_its_exit_code(tmp_path: Path, number: int):
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRunError, match="checkpoint is saved") as caught:
        interrupt(walk(tmp_path / "run", Walk(), checkpoint=1), at=12, number=number)
    assert caught.value.exit_code == 128 + number
    assert last_checkpoint(tmp_path / "run").name == "samples-0000000012"
    assert signal.getsignal(number) == before


def test_signal_in_the_last_step_ends_the_run_well(tmp_path: Path):
    interrupt(walk(tmp_path / "run", Walk()), at=32, number=signal.SIGTERM)
    assert last_checkpoint(tmp_path / "run").name == "samples-0000000032"


def test_second_control_c_does_not_wait(tmp_path: Path):
    loop = run_loop(*walk(tmp_path / "run", Walk()))
    next(loop)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    loop.close()


def test_diverged_run_keeps_the_last_good_checkpoint(tmp_path: Path):
    with pytest.raises(DivergedError, match=r"diverged at .*loss not finite.*last checkpoint"):
        train(walk(tmp_path / "run", Walk(not_finite_from=20)))
    assert last_checkpoint(tmp_path / "run").name == "samples-0000000016"
    assert [row["samples"] for row in log_of(tmp_path / "run")] == [8, 16]
    assert DivergedError.exit_code == 4


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path):
    """The loss of this step was finite, its gradient was not."""
    trainer = Walk()
    loop = run_loop(*walk(tmp_path / "run", trainer))
    for _ in range(3):
        next(loop)
    with torch.no_grad():
        trainer.network.weight.fill_(torch.inf)
    trainer.step = lambda samples_seen: {"loss": torch.ones(())}  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"network\.weight not finite"):
        next(loop)
    assert last_checkpoint(tmp_path / "run").name == "samples-0000000012"
    assert trainer.evaluated == []


def test_divergence_between_two_lines_is_never_saved(tmp_path: Path):
    """A checkpoint is due before the next line of the log: it must not hold broken weights."""
    with pytest.raises(DivergedError):
        train(walk(tmp_path / "run", Walk(not_finite_from=12), log=0.02))
    assert last_checkpoint(tmp_path / "run").name == "samples-0000000008"


@pytest.mark.parametrize("what", ["log", "save_checkpoint", "close"])
def test_full_disk_says_what_is_needed_and_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    """Wherever a run meets it."""
    real, calls = getattr(RunFolder, what), []

    def full(self: RunFolder, *arguments: Any, **options: Any) -> None:
        calls.append(what)
        real(self, *arguments, **options)
        if what == "close" or len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = walk(tmp_path / "run", Walk())
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, what, full)
        with pytest.raises(InputError) as caught:
            train(opened)
    last = {"log": 20, "save_checkpoint": 12, "close": 32}[what]
    told = (
        r"run: the disk is full\. A checkpoint needs 0\.0 MB, [\d.]+ MB are free\. The last "
        rf"checkpoint, of {last / 1000:g} kimg, is intact\. Free some space and run the same"
    )
    assert re.search(told, str(caught.value))
    assert last_checkpoint(tmp_path / "run").name == f"samples-{last:010d}"
    train(walk(tmp_path / "run", Walk()))  # the lock is gone, and so is what was half-written


def test_thread_count_belongs_to_the_state(tmp_path: Path):
    """Sums of floats depend on it."""
    threads = torch.get_num_threads()
    train(walk(tmp_path / "run", Walk()), until=16)
    torch.set_num_threads(threads + 1)
    train(walk(tmp_path / "run", Walk()))
    assert torch.get_num_threads() == threads
