"""PyTorch's settings inside and after a block, in one thread and in two."""

import threading
from collections.abc import Iterator

import pytest
import torch

from torch_utils.torch_defaults import plain_settings


@pytest.fixture(autouse=True)
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_default_dtype_comes_back():
    with plain_settings():
        with plain_settings():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_dtype() == torch.float64


def test_it_comes_back_when_the_last_thread_leaves():
    """It is one for all threads: who leaves first must not change it for who is still inside."""
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with plain_settings():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with plain_settings():
        thread.start()
        assert entered.wait(10)
    assert torch.get_default_dtype() == torch.float32
    leave.set()
    thread.join()
    assert torch.get_default_dtype() == torch.float64
