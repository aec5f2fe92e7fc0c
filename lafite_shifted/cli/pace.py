"""Notices that steps of a training have become slow, and says the likely reason."""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable

STEPS = 50  # of a median
SLOWER = 2.0


class Pace:
    """The time of steps against that of the first ones. Says it once."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._before = clock, clock()
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=STEPS)
        self._said = False

    def step(self, *, counts: bool, data_time: float | None) -> str | None:
        """After each step; one with an evaluation or a checkpoint does not count. A line for the
        user where steps take SLOWER times as long as at the start; `data_time` is the share of time
        that the last line of the log told.
        """
        now = self._clock()
        seconds, self._before = now - self._before, now
        if not counts or self._said:
            return None
        if len(self._first) < STEPS:
            self._first.append(seconds)
            return None
        self._recent.append(seconds)
        if len(self._recent) < STEPS:
            return None
        first, recent = statistics.median(self._first), statistics.median(self._recent)
        if recent < SLOWER * first:
            return None
        self._said = True
        return f"steps take {recent / first:.1f} times as long as at the start: {_why(data_time)}"


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
