"""How many threads to compute with. A thread that waits for another which has no core costs more
than it brings: beside a busy neighbour one is often faster than all.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping

import torch

ROUNDS, FEW_ROUNDS = 7, 3  # of a probe for hours of work, and for seconds
GAIN = 0.9  # of the time of fewer threads: more of them must be faster than that


def _convolution() -> Callable[[], object]:
    """Work as a small training's: some ten milliseconds."""
    x = torch.ones(8, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    return lambda: torch.nn.functional.conv2d(x, weight, padding=1)


def cores() -> int:
    """That this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def probe(counts: list[int], *, rounds: int = ROUNDS) -> dict[int, float]:
    """Median seconds of a convolution by number of threads, which take turns; the number of
    threads is as before afterwards.
    """
    before, seconds = torch.get_num_threads(), {count: list[float]() for count in counts}
    try:
        with torch.no_grad():
            work = _convolution()
            for number in range(rounds + 1):
                for count in counts:
                    torch.set_num_threads(count)
                    start = time.perf_counter()
                    work()
                    if number:  # the first round warms up
                        seconds[count].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return {count: statistics.median(values) for count, values in seconds.items()}


def best(seconds: Mapping[int, float]) -> int:
    """The smallest number of threads that no larger one beats by more than GAIN."""
    chosen = min(seconds)
    for count in sorted(seconds):
        if seconds[count] < GAIN * seconds[chosen]:
            chosen = count
    return chosen


def choose_threads(wanted: int | None, *, rounds: int = ROUNDS) -> str | None:
    """Set the number of threads: `wanted`, or what a short probe finds fastest now, unless
    OMP_NUM_THREADS says it. A line that tells the user, None where nothing was chosen.
    """
    if wanted is not None:
        torch.set_num_threads(wanted)
        return None
    most = cores()
    if "OMP_NUM_THREADS" in os.environ or most == 1:
        return None
    powers = (2**power for power in range(most.bit_length()))
    counts = sorted({most, *powers})
    seconds = probe(counts, rounds=rounds)
    chosen = best(seconds)
    torch.set_num_threads(chosen)
    found = ", ".join(f"{count}: {1000 * each:.1f} ms" for count, each in seconds.items())
    return f"threads        {chosen} of {most} cores (a convolution takes {found})"


def probe_threads(device: torch.device) -> None:
    """Choose the number of threads of some seconds of work on `device`: beside a busy neighbour two
    may be slower than one.
    """
    if device.type == "cpu":
        choose_threads(None, rounds=FEW_ROUNDS)


class Reprobe:
    """Called again and again, chooses the number of threads every EVERY_S."""

    EVERY_S = 60.0

    def __init__(self, device: torch.device):
        self._device, self._at = device, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._at > self.EVERY_S:
            probe_threads(self._device)
            self._at = time.monotonic()


def rechoose_threads() -> str | None:
    """Ask again, while a training runs: neighbours come and go. A line that tells the user where
    the number has changed, None where it has not.
    """
    before = torch.get_num_threads()
    line = choose_threads(None)
    return None if torch.get_num_threads() == before else line
