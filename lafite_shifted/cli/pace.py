"""Notices that steps of a training have become slow, and says the likely reason."""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable

STEPS = 50  # of a median
SLOWER = 2.0
RECHOOSE_S = 300.0  # between two probes for the number of threads, which take less than a second


class Pace:
    """The time of steps against that of the first ones. Says once that they are slow.

    `rechoose` changes the number of threads where another is faster by now, and says so. It is
    called when steps have become slow, and every RECHOOSE_S, since neighbours also go.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        *,
        rechoose: Callable[[], str | None] | None = None,
    ):
        self._clock, self._before = clock, clock()
        self._rechoose, self._chosen_at = rechoose, self._before
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=STEPS)
        self._said = False

    def step(self, *, counts: bool, data_time: float | None) -> str | None:
        """After each step; one with an evaluation or a checkpoint does not count. A line for the
        user where steps take SLOWER times as long as at the start, or where the number of threads
        has changed; `data_time` is the share of time that the last line of the log told.
        """
        now = self._clock()
        seconds, self._before = now - self._before, now
        if counts:
            times = self._first if len(self._first) < STEPS else self._recent
            times.append(seconds)
        slower = self._slower()
        is_slow = not self._said and slower >= SLOWER
        line = self._ask() if is_slow or now - self._chosen_at > RECHOOSE_S else None
        if line or not is_slow:
            return line
        self._said = True
        return f"steps take {slower:.1f} times as long as at the start: {_why(data_time)}"

    def _slower(self) -> float:
        """Recent steps over the first ones; 1 where too few are known."""
        if len(self._recent) < STEPS:
            return 1.0
        return statistics.median(self._recent) / statistics.median(self._first)

    def _ask(self) -> str | None:
        """Another number of threads, and steps are measured anew."""
        line = self._rechoose() if self._rechoose else None
        self._before = self._chosen_at = self._clock()  # the probe is no part of a step
        if line:
            self._first, self._said = [], False
            self._recent.clear()
        return line


def _why(data_time: float | None) -> str:
    if data_time is not None and data_time > 0.3:
        return f"images are waited for {100 * data_time:.0f} % of the time (a slow disk or network)"
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores + 0.5:
        return (
            f"other programs want the cores too (load {load:.1f} on {cores}). Stop and run the "
            "same command again later; a new run with --threads 1 suffers least"
        )
    return "nothing here says why (a hot machine runs slower)"
