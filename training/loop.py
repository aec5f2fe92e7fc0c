"""The loop that every training shares: resume, log, evaluate, checkpoint, stop at signals. What a
step does is the trainer's business.
"""

import errno
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lafite_shifted.errors import (
    DivergedError,
    InputError,
    InterruptedRunError,
    TooManyBadImagesError,
)
from torch_utils import distributed
from torch_utils.device import peak_gib
from torch_utils.host_reads import HostRead, numbers
from torch_utils.lagged import Lagged
from training.checkpoint import Checkpoint, flatten_state, restore_state
from training.config import RunConfig
from training.log_sums import LogSums
from training.run_folder import Evaluation, RunFolder

# columns of the log that tell of the machine, and differ between equal runs: time since the process
# began, and the peak of its memory
MACHINE_COLUMNS = ("seconds_per_kimg", "peak_mem_gib", "data_time")


class Trainer(Protocol):
    """What `run_loop` needs of a training."""

    batch: int  # samples a step
    device: torch.device

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for data, so far."""
        ...

    def parts(self) -> Mapping[str, nn.Module | Optimizer]:
        """Everything with state, by name."""
        ...

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        """Train on the samples [samples_seen, samples_seen + batch); scalars to log: see
        `LogSums`.
        """
        ...

    def evaluate(self, samples_seen: int, folder: Path) -> Evaluation:
        """Held-out metrics; may write sample grids into `folder`."""
        ...


@dataclass(frozen=True)
class Progress:
    """One step done; `logged` holds the averages when a line was written."""

    samples: int
    total_samples: int
    logged: dict[str, float] | None


class _Interrupts:
    """Remembers the first SIGINT, SIGTERM, SIGUSR1 or SIGHUP; a second SIGINT interrupts at once.
    SIGHUP, of a terminal that closes, stays ignored where it is, as under nohup.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            for number in numbers:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def _due(before: int, after: int, every_kimg: float) -> bool:
    every = max(round(every_kimg * 1000), 1)
    return before // every != after // every


def run_loop(trainer: Trainer, config: RunConfig, folder: RunFolder) -> Iterator[Progress]:
    """Train until `config.kimg`, from the latest checkpoint if there is one; yields after every
    step. Closes the folder, however it ends.

    Of several processes all do this in step; the first writes, and a signal to one stops all. The
    thread count belongs to the state, because float sums depend on it. Raises InterruptedRunError
    after a signal, with a checkpoint saved; the last checkpoint stays where a logged value is not
    finite (DivergedError), the disk is full (InputError) or too many images cannot be read
    (TooManyBadImagesError).
    """
    with _telling_what_is_kept(trainer, folder), closing(folder):
        yield from _steps(trainer, config, folder)
    distributed.barrier()  # the first may still be writing


@contextmanager
def _telling_what_is_kept(trainer: Trainer, folder: RunFolder) -> Iterator[None]:
    """In the words of what the user can mend before the same command is repeated."""
    try:
        yield
    except TooManyBadImagesError as error:
        raise TooManyBadImagesError(
            f"{error}\n{folder.kept()} Run the same command again once they are mended."
        ) from error
    except OSError as error:
        name = error.filename and os.fsdecode(error.filename)  # bytes, of some libraries
        elsewhere = name and folder.path not in Path(name).parents
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or elsewhere:
            raise
        state = flatten_state(trainer.parts()).values()
        needed = sum(tensor.numel() * tensor.element_size() for tensor in state)
        free = shutil.disk_usage(folder.path).free
        raise InputError(
            f"{folder.path}: the disk is full. A checkpoint needs {needed / 1e6:.1f} MB, "
            f"{free / 1e6:.1f} MB are free. {folder.kept()} Free some space and run the same "
            "command again."
        ) from error


def _steps(trainer: Trainer, config: RunConfig, folder: RunFolder) -> Iterator[Progress]:
    """The loop itself."""
    checkpoint = folder.latest_checkpoint()
    samples, evaluated, sums = 0, 0, LogSums()
    if checkpoint is not None:
        restore_state(trainer.parts(), checkpoint.tensors)
        samples, sums = checkpoint.samples, LogSums(checkpoint.state["pending"])
        evaluated = checkpoint.state.get("evaluated", 0)
        torch.set_num_threads(checkpoint.state["threads"])
    first = distributed.is_main_process()
    if first:
        folder.cut_back(samples)
    total = math.ceil(config.kimg * 1000 / trainer.batch) * trainer.batch
    pace = _Pace(samples)
    stop = _Received(trainer.device)

    def save() -> None:
        _check_finite({name: total for name, (total, _) in sums.read().items()}, samples)
        state = {"pending": sums.here, "threads": torch.get_num_threads(), "evaluated": evaluated}
        tensors = flatten_state(trainer.parts())
        _check_finite_state(tensors, samples)
        if first:
            checkpoint = Checkpoint(samples, tensors, state)
            folder.save_checkpoint(checkpoint, keep=config.keep_checkpoints)

    with _Interrupts() as interrupts:
        if checkpoint is not None and samples >= total and evaluated < samples:
            # it was stopped between evaluations, and is to end where it stands
            evaluated = samples
            if first:
                evaluation = trainer.evaluate(samples, folder.path)
                folder.log(samples, {}, evaluation)
                save()
                yield Progress(samples, samples, dict(evaluation.metrics))
        while samples < total:
            with pace.step(trainer):
                sums.add(trainer.step(samples))
                received = stop.agreed(interrupts.received)
            before, samples = samples, samples + trainer.batch
            last, logged, evaluation = samples >= total, None, None
            evaluate_now = last or _due(before, samples, config.evaluate_kimg)
            if evaluate_now or _due(before, samples, config.log_kimg):
                logged = sums.means()
                _check_finite(logged, samples)
                logged |= pace.columns(samples)
                if evaluate_now:
                    _check_finite_state(flatten_state(trainer.parts()), samples)
                    evaluated = samples
                    if first:
                        evaluation = trainer.evaluate(samples, folder.path)
                logged["peak_mem_gib"] = peak_gib()
                if first:
                    folder.log(samples, logged, evaluation)
                    logged |= evaluation.metrics if evaluation else {}
            if last or received or _due(before, samples, config.checkpoint_kimg):
                save()
            if received and not last:
                distributed.barrier()  # torchrun would end the first while it still writes
                raise _interrupted(received, samples, total)
            yield Progress(samples, total, logged)


class _Pace:
    """Seconds since the loop began at `samples`, and since the last line of the log."""

    def __init__(self, samples: int):
        self._started, self._samples = time.perf_counter(), samples
        self._stepping, self._waiting = 0.0, 0.0  # since the last line

    @contextmanager
    def step(self, trainer: Trainer) -> Iterator[None]:
        began, waited = time.perf_counter(), trainer.waited
        yield
        self._stepping += time.perf_counter() - began
        self._waiting += trainer.waited - waited

    def columns(self, samples: int) -> dict[str, float]:
        """Of the line that is written now."""
        seconds = time.perf_counter() - self._started
        share = self._waiting / self._stepping
        self._stepping, self._waiting = 0.0, 0.0
        return {
            "seconds_per_kimg": seconds / (samples - self._samples) * 1000,
            "data_time": share,
        }


def _interrupted(received: int, samples: int, total: int) -> InterruptedRunError:
    """The error after signal `received`, once the checkpoint is saved."""
    return InterruptedRunError(
        f"Stopped by {signal.Signals(received).name} at {samples / 1000:.1f} of "
        f"{total / 1000:.1f} kimg; the checkpoint is saved. Run the same command again to resume.",
        received,
    )


class _Received:
    """The signal that any process has received, 0 for none: known to all at the same step. Of
    several processes that is two steps later, so that a GPU is not waited for.
    """

    def __init__(self, device: torch.device):
        self.lagged = Lagged(0.0).to(device)

    def agreed(self, own: int | None) -> int:
        if distributed.world_size() == 1:
            return own or 0
        flag = torch.tensor(float(own or 0)).to(self.lagged.under_way.device, non_blocking=True)
        distributed.all_reduce_max(flag)
        self.lagged.put(flag)
        return int(self.lagged.take())


def _check_finite_state(tensors: Mapping[str, Tensor], samples: int) -> None:
    """A loss can be finite while a gradient was not: no such weights are saved or shown."""
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    finite = numbers([tensors[name].isfinite().all() for name in names], HostRead.STATE)
    bad = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]
    _check_finite({name: math.nan for name in bad[:3]}, samples)


def _check_finite(values: Mapping[str, float], samples: int) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise DivergedError(
            f"Training diverged at {samples / 1000:.1f} kimg: {', '.join(bad)} not finite. The "
            "last checkpoint is intact; "
            f"start a new run with a lower learning rate or a higher R1 gamma."
        )
