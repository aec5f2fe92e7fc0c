"""What a GAN costs: each kind of step timed apart, and weighed by how often it comes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lafite_shifted.encoders.clip import ClipEncoder
from tests.training.gan.trainers import SMALL
from training.gan.cost import measure_gan
from training.gan.probe import Kind, mean_seconds, step_kinds


@pytest.mark.parametrize(("r1_every", "path_length_every"), [(16, 4), (4, 6), (1, 4), (3, 1)])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_kinds_of_steps_come_as_often_as_in_a_run(
    r1_every: int, path_length_every: int, weight: float
):
    config = dataclasses.replace(
        SMALL, r1_every=r1_every, path_length_every=path_length_every, path_length_weight=weight
    )

    run = [Kind.of(step, config) for step in range(48)]  # a multiple of each pair
    kinds = step_kinds(config)
    assert kinds.keys() == set(run)
    for kind, (step, share) in kinds.items():
        assert Kind.of(step, config) == kind
        assert share == pytest.approx(run.count(kind) / len(run))


def probe(
    seconds: Callable[[int, int], float], *, limit: float, **changes: Any
) -> tuple[float, list[int]]:
    """(the mean, the steps that were timed) where a step takes `seconds(step, steps before)`."""
    measured: list[int] = []

    def timed(step: int) -> float:
        measured.append(step)
        return seconds(step, len(measured) - 1)

    config = dataclasses.replace(SMALL, **changes)
    return mean_seconds(config, timed, limit=limit)[0], measured


def test_the_mean_is_of_medians_of_each_kind():
    """R1 in one of four steps, path lengths in one of two; what sets up more and one step that
    was disturbed do not count.
    """
    every: dict[str, Any] = {"r1_every": 4, "path_length_every": 2, "path_length_weight": 2.0}

    def seconds(step: int, before: int) -> float:
        if before < 3 or before == 6:
            return 5.0
        return 1.0 + 0.5 * (step % 2 == 0) + 2.0 * (step % 4 == 0)

    mean, measured = probe(seconds, limit=60, **every)
    assert measured == [1, 2, 0, *range(1, len(measured) - 2)]
    assert mean == pytest.approx(1.0 + 0.5 / 2 + 2.0 / 4)
    assert 60 < sum(seconds(step, before) for before, step in enumerate(measured)) <= 65


def test_a_probe_ends_in_time():
    assert probe(lambda *_: 60.0, limit=20) == (60.0, [1])  # the first step is the measurement
    assert probe(lambda *_: 15.0, limit=20) == (15.0, [1, 0])  # one of each at least
    assert probe(lambda *_: 0.0, limit=20) == (0.0, [1, 0, *range(1, 101)])  # enough
    assert len(probe(lambda *_: 1.0, limit=20)[1]) == 21


def test_path_lengths_cost_time_and_memory(clip: ClipEncoder):
    """Most of all where activations are computed again, but for these."""
    changes: dict[str, Any] = {"activation_checkpointing": True, "clip_weight": 0.0}
    small = dataclasses.replace(SMALL, batch=8192, micro_batch=4096, **changes)
    device = torch.device("cpu")
    plain, longer = (
        measure_gan(
            dataclasses.replace(small, path_length_weight=weight, path_length_every=1),
            clip,
            device=device,
            probe_seconds=0.0,
        )
        for weight in (0.0, 2.0)
    )
    assert longer.training_gib > 1.2 * plain.training_gib
    assert plain.probe_images == longer.probe_images == 32  # the first step
    assert min(plain.seconds_per_kimg, longer.seconds_per_kimg) > 0


def test_a_whole_batch_keeps_what_pieces_do_not(clip: ClipEncoder):
    """The generator's activations, while the discriminator learns."""
    changes: dict[str, Any] = {"activation_checkpointing": True, "clip_weight": 0.0}
    pieces = dataclasses.replace(SMALL, batch=8192, micro_batch=4096, **changes)
    whole = dataclasses.replace(SMALL, batch=4096, **changes)
    found = [
        measure_gan(config, clip, device=torch.device("cpu"), probe_seconds=0.0).training_gib
        for config in (pieces, whole)
    ]
    assert found[1] > found[0]
