"""How many threads are chosen."""

import pytest
import torch

from torch_utils import threads
from torch_utils.threads import (
    Reprobe,
    best,
    choose_threads,
    probe,
    probe_threads,
    rechoose_threads,
)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 0.55, 4: 0.3}, 4),  # an idle machine
        ({1: 1.0, 2: 1.4, 4: 20.0}, 1),  # busy neighbours
        ({1: 1.0, 2: 0.95}, 1),  # not worth a core
        ({1: 1.0, 2: 0.5, 4: 0.48}, 2),
        ({1: 1.0}, 1),
    ],
)
def test_more_threads_must_be_worth_it(seconds: dict[int, float], expected: int):
    assert best(seconds) == expected


def test_a_probe_times_each_and_leaves_the_number_alone():
    before = torch.get_num_threads()
    found = probe([1, 2], rounds=1)
    assert found.keys() == {1, 2}
    assert min(found.values()) > 0
    assert torch.get_num_threads() == before


def test_the_fastest_number_is_set(monkeypatch: pytest.MonkeyPatch):
    done: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 6)
    monkeypatch.setattr(threads, "probe", lambda counts, **_: {c: 1.0 / min(c, 4) for c in counts})
    monkeypatch.setattr(torch, "set_num_threads", done.append)
    line = choose_threads(None)
    assert done == [4]
    assert line is not None
    assert line.startswith("threads        4 of 6 cores (a convolution takes 1: 1000.0 ms, 2: ")
    assert "6:" in line


def test_what_the_user_says_is_taken(monkeypatch: pytest.MonkeyPatch):
    done: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", done.append)
    monkeypatch.setattr(threads, "cores", lambda: 4)
    assert choose_threads(3) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_threads(None) is None  # PyTorch has taken it already
    assert done == [3]


def test_asked_again_only_another_number_is_told(monkeypatch: pytest.MonkeyPatch):
    seconds = {1: 1.0, 2: 0.5}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(
        threads, "probe", lambda counts, **_: {each: seconds[each] for each in counts}
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert rechoose_threads() is None
        seconds[2] = 20.0  # a neighbour has come
        assert (rechoose_threads() or "").startswith("threads        1 of 2 cores")
        assert torch.get_num_threads() == 1
        assert rechoose_threads() is None
        seconds[2] = 0.5
        assert (rechoose_threads() or "").startswith("threads        2 of 2 cores")
    finally:
        torch.set_num_threads(before)


def test_short_work_asks_on_a_cpu_and_again_from_time_to_time(monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    monkeypatch.setattr(threads, "choose_threads", lambda _, *, rounds: calls.append(rounds))
    probe_threads(torch.device("meta"))
    assert not calls
    probe_threads(torch.device("cpu"))
    again = Reprobe(torch.device("cpu"))
    again()
    assert len(calls) == 1
    monkeypatch.setattr(Reprobe, "EVERY_S", -1.0)
    again()
    again()
    assert calls == [threads.FEW_ROUNDS] * 3
