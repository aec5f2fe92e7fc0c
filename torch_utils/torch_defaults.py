"""PyTorch's settings as this project computes with them, whatever a notebook has set before."""

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


class _Float32:
    """float32 as the default dtype, which all threads share, while any of them is inside; the
    last to leave gives back what the first has found.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.set_default_dtype(self._before)


_float32 = _Float32()


@contextmanager
def plain_settings() -> Iterator[None]:
    """float32 as the default dtype, the CPU as the default device, no autocast, and no inference
    mode, whose tensors nobody can use elsewhere; the caller's settings come back.
    """
    with ExitStack() as undo:
        undo.enter_context(_float32)
        if torch.get_default_device().type != "cpu":
            undo.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            undo.enter_context(torch.inference_mode(mode=False))
            undo.enter_context(torch.no_grad())
        yield


@contextmanager
def kept_random_state() -> Iterator[None]:
    """The global random numbers of Python, numpy and torch (CPU) afterwards are those that would
    have come without the block.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the caller's
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
