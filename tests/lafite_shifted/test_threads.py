"""One model, several threads: the images of one call after another."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from tests.small_model import small_model

THREADS = 4


@pytest.fixture
def eager_switches():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switches")
def test_threads_get_the_images_of_one_call_after_another():
    model, together = small_model(torch.device("cpu")), Barrier(THREADS)
    texts = ["a cat", {"a cat": 0.7, "a dog": 0.3}, "a house", "the sea"]

    def images(number: int) -> np.ndarray:
        return np.stack(model(texts[number], num_images=2, seed=number))  # type: ignore[arg-type]

    def at_once(number: int) -> np.ndarray:
        together.wait()
        return images(number)

    expected = [images(number) for number in range(THREADS)]
    torch.set_default_dtype(torch.float64)  # as a notebook may: it is one for all threads
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(at_once, range(THREADS)))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(expected[0], expected[2])
