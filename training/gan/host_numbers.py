"""Numbers of a step that the host makes, in a thread while the step before runs. They depend on the
position and on the augmentation's probability alone, so the order does not matter.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class HostNumbers(Generic[T]):
    """`compute(position, probability)`, in a thread while the step before runs. `waited` counts the
    seconds that `get` has needed so far.
    """

    def __init__(self, compute: Callable[[int, float], T]):
        self.waited = 0.0
        self._compute = compute
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="host-numbers")
        self._ahead: dict[tuple[int, float], Future[T]] = {}

    def prefetch(self, position: int, probability: float) -> None:
        """Begin with what will be taken next."""
        job = self._pool.submit(self._compute, position, probability)
        self._ahead = {(position, probability): job}

    def get(self, position: int, probability: float) -> T:
        """compute(position, probability), which has begun if it was expected."""
        start = time.perf_counter()
        if (position, probability) not in self._ahead:
            self.prefetch(position, probability)
        found = self._ahead.pop((position, probability)).result()
        self.waited += time.perf_counter() - start
        return found
