"""A Ctrl-C that is not lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class RememberedInterrupt:
    """Handler of SIGINT: interrupts as Python's own does, and remembers it. A library may swallow
    the KeyboardInterrupt, as where it comes while one is imported; a training asks here and stops.
    """

    def __init__(self) -> None:
        self.received = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt


@contextmanager
def remembered() -> Iterator[None]:
    """SIGINT is remembered inside, where it would interrupt."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not plain or threading.current_thread() is not threading.main_thread():
        yield  # ignored, as by nohup, or another's
        return
    signal.signal(signal.SIGINT, RememberedInterrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
