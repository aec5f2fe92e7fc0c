"""Randomness drawn ahead: in a thread, once, and the same as without."""

import threading

import torch
from torch import Tensor

from training.gan.random_numbers import RandomNumbers


def test_what_is_prefetched_is_computed_in_a_thread_and_once():
    drawn: list[tuple[int, bool]] = []

    def draw(position: int) -> dict[str, Tensor]:
        drawn.append((position, threading.current_thread() is threading.main_thread()))
        return {"z": torch.tensor(position)}

    draws = RandomNumbers(draw)
    assert int(draws.get(0)["z"]) == 0
    draws.prefetch(4)
    assert int(draws.get(4)["z"]) == 4
    assert drawn == [(0, True), (4, False)]
    draws.prefetch(8)
    assert int(draws.get(20)["z"]) == 20  # a run that goes on elsewhere
    assert drawn[-1] == (20, True) or drawn[-2] == (20, True)


def test_waiting_is_counted():
    gate = threading.Event()

    def draw(position: int) -> dict[str, Tensor]:
        gate.wait(0.2)
        return {}

    draws = RandomNumbers(draw)
    draws.get(0)
    assert draws.waited > 0.15
