"""A line when steps become slow."""

import os

import pytest

from lafite_shifted.cli.pace import STEPS, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(seconds: list[float], *, data_time: float | None = None) -> list[str]:
    clock = Clock()
    pace, found = Pace(clock), []
    for each in seconds:
        clock.now += each
        line = pace.step(counts=each < 100, data_time=data_time)
        found += [line] if line else []
    return found


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [9.0]
    monkeypatch.setattr(os, "getloadavg", lambda: (found[0], 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return found


@pytest.mark.usefixtures("load")
def test_steps_that_stay_as_they_were_say_nothing():
    assert lines([1.0] * 4 * STEPS + [1.9] * 4 * STEPS) == []
    assert lines([1.0, 500.0] * 4 * STEPS) == []  # evaluations
    assert lines([1.0] * 4 * STEPS + [50.0] * (STEPS // 3)) == []  # a hiccup


@pytest.mark.usefixtures("load")
def test_a_neighbour_is_named_once():
    (line,) = lines([1.0] * 2 * STEPS + [3.0] * 4 * STEPS)
    assert line.startswith("steps take 2.0 times as long as at the start: other programs want")
    assert "load 9.0 on 2" in line


def test_a_slow_disk_and_no_reason_are_told_apart(load: list[float]):
    slow = [1.0] * STEPS + [3.0] * 2 * STEPS
    assert "images are waited for 60 %" in lines(slow, data_time=0.6)[0]
    load[0] = 1.0
    assert "nothing here says why" in lines(slow)[0]
