"""How much memory the threads that decode images may use together: whoever needs more than is left
waits, so that many large images at once take no more than a few do.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

DEFAULT_BYTES = 2**30
LARGE_BYTES = 2**28


def _give_back_freed_memory() -> None:
    """To the kernel, where the C library can: every thread has a heap of its own, which the command
    line lets it keep.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


class Ticket:
    """What one thread holds. It may take more and more; where all wait for each other, the one that
    came first goes on.
    """

    def __init__(self, budget: "MemoryBudget"):
        self._budget, self.size, self.waits = budget, 0, False

    def reserve(self, size: int) -> None:
        """Wait until `size` more bytes are free."""
        self._budget.reserve(self, size)


class MemoryBudget:
    """`limit` bytes for all threads together; beyond it goes one thread at a time."""

    def __init__(self, limit: int = DEFAULT_BYTES):
        self.limit = limit
        self._tickets: list[Ticket] = []  # the first came first
        self._free = threading.Condition()

    @contextmanager
    def ticket(self) -> Iterator[Ticket]:
        """One thread's part; all that it holds is free again when the block ends."""
        ticket = Ticket(self)
        with self._free:
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            if ticket.size > LARGE_BYTES:
                _give_back_freed_memory()
            with self._free:
                self._tickets.remove(ticket)
                self._free.notify_all()

    def reserve(self, ticket: Ticket, size: int) -> None:
        """See `Ticket.reserve`."""
        with self._free:
            ticket.waits = True
            self._free.notify_all()
            self._free.wait_for(lambda: self._fits(size) or self._must_go_on(ticket))
            ticket.waits = False
            ticket.size += size

    def _must_go_on(self, ticket: Ticket) -> bool:
        """Whether all that hold memory wait for more, and this is the first of them."""
        others = (other for other in self._tickets if other is not ticket and other.size)
        return ticket is self._tickets[0] and all(other.waits for other in others)

    def _fits(self, size: int) -> bool:
        return sum(ticket.size for ticket in self._tickets) + size <= self.limit
