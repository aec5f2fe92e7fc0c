"""Random numbers of a step, generated while the step before runs: on a CPU that takes as long as a
part of a GPU's step. They depend on the position alone, so the order does not matter.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor


class RandomNumbers:
    """`compute(position)`, in a thread while the step before runs. `waited` counts the seconds that
    `get` has needed so far.
    """

    def __init__(self, compute: Callable[[int], dict[str, Tensor]]):
        self.waited = 0.0
        self._compute = compute
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="random-numbers")
        self._ahead: dict[int, Future[dict[str, Tensor]]] = {}

    def prefetch(self, position: int) -> None:
        """Begin with what will be taken next."""
        self._ahead = {position: self._pool.submit(self._compute, position)}

    def get(self, position: int) -> dict[str, Tensor]:
        """compute(position), which has begun if it was expected."""
        start = time.perf_counter()
        ahead = self._ahead.pop(position, None)
        found = self._compute(position) if ahead is None else ahead.result()
        self.waited += time.perf_counter() - start
        return found
