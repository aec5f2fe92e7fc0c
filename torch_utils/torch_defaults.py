"""PyTorch's settings as this project computes with them, whatever a notebook has set before."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


@contextmanager
def plain_settings() -> Iterator[None]:
    """float32 as the default dtype, the CPU as the default device, no autocast, and no inference
    mode, whose tensors nobody can use elsewhere; the caller's settings come back.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as undo:
        undo.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
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
