"""A line when steps become slow, and another number of threads."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lafite_shifted.cli.pace import RECHOOSE_S, STEPS, Pace
from lafite_shifted.io.files import read_json
from tests.commands import TINY_GAN, succeed
from torch_utils import threads


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(
    seconds: list[float],
    *,
    data_time: float | None = None,
    rechoose: Callable[[], str | None] | None = None,
) -> list[str]:
    clock = Clock()
    pace, found = Pace(clock, rechoose=rechoose), []
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


@pytest.mark.usefixtures("load")
def test_slow_steps_ask_for_another_number_of_threads_and_are_measured_anew():
    answers = ["1 of 2 cores", None, None]
    calls: list[None] = []

    def rechoose() -> str | None:
        calls.append(None)
        return answers[len(calls) - 1]

    slow = [0.1] * STEPS + [0.3] * 2 * STEPS
    assert lines(slow, rechoose=rechoose) == ["1 of 2 cores"]
    # as slow again, where nothing is to be gained: it is said, once
    first, second = lines([*slow, *[0.9] * 2 * STEPS], rechoose=lambda: answers.pop(0))
    assert first == "1 of 2 cores"
    assert second.startswith("steps take 3.0 times as long as at the start")
    assert answers == [None]


def test_a_neighbour_that_has_gone_is_noticed_without_slow_steps():
    calls: list[None] = []
    steps = round(2.5 * RECHOOSE_S)
    assert lines([1.0] * steps, rechoose=lambda: calls.append(None)) == []
    assert len(calls) == 2
    assert lines([1.0] * steps, rechoose=lambda: "2 of 2 cores") == 2 * ["2 of 2 cores"]


@pytest.mark.parametrize(("words", "expected"), [((), 1), (("--threads", "2"), 2)])
def test_a_training_gives_up_a_thread_to_a_neighbour(
    some_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: int,
):
    probes = iter([{1: 1.0, 2: 0.5}] * (not words) + [{1: 1.0, 2: 20.0}] * 99)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "probe", lambda *_, **__: next(probes))
    monkeypatch.setattr("lafite_shifted.cli.pace.RECHOOSE_S", 0.0)
    before = torch.get_num_threads()
    try:
        outcome = succeed("train-gan", some_images, "--out", tmp_path, *TINY_GAN, *words)
    finally:
        torch.set_num_threads(before)
    told = [line for line in outcome.err.splitlines() if line.startswith("threads  ")]
    assert [line.split()[1] for line in told] == ([] if words else ["2", "1"])
    newest = max((tmp_path / "checkpoints").iterdir())
    assert read_json(newest / "state.json")["threads"] == expected
