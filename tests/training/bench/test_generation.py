"""The benchmark of a generator's pass: what it times, and what it counts."""

import json

import pytest
import torch

from lafite_shifted.decoder.generator import GeneratorConfig
from tests.commands import assert_refused, run_command, succeed
from training.bench import generation as bench

CPU = torch.device("cpu")


def test_generation_counts_what_is_outside_convolutions():
    config = GeneratorConfig(
        resolution=32, condition_dim=8, channel_base=1024, channel_max=32, z_dim=16, w_dim=16
    )
    network = bench.untrained(config, device=CPU, dtype="bfloat16")
    found = bench.bench_generation(network, batch=2, device=CPU, rounds=1)
    assert found.dtype == "bfloat16"
    for name in ("compiled", "reference"):
        assert 0 < found.outside[name] < found.milliseconds[name]


def test_bytes_between_convolutions_are_counted():
    config = GeneratorConfig(resolution=8, channel_base=64, channel_max=10)  # 10 and 8 channels
    found = bench.moved_megabytes(config, torch.bfloat16)
    small, large, unfiltered = 10 * 16 * 2, 8 * 64 * 2, 8 * 81 * 2
    images = [3 * 16 * 4, 3 * 64 * 4]
    # read and written once: the first layer's, the filtered one's, the last one's, which only makes
    # an image
    least = 2 * small + images[0] + unfiltered + large + large + images[0] + images[1]
    assert found["in one pass"] == pytest.approx(least / 1e6)
    chain = (2 + 1 + 2) * small + images[0]  # epilogue, image, scale
    chain += (unfiltered + large) + 2 * large  # filter, epilogue
    chain += (2 + 1) * large + images[1] + images[0] + 2 * images[1]  # epilogue, image, sum
    assert found["by one operator after another"] == pytest.approx(chain / 1e6)


def test_batches_are_chosen_on_the_command_line():
    command = ("bench", "generate", "--preset", "tiny", "--rounds", "1")
    told = json.loads(succeed(*command, "--batches", "2,1,16", "--json").out)
    assert [row["batch"] for row in told["results"]] == [2, 1, 16]
    told = json.loads(succeed(*command, "--json").out)
    assert [row["batch"] for row in told["results"]] == [1, 4]
    assert_refused(run_command(*command, "--batches", "0,4"), "a batch has one image at least")
    assert_refused(run_command(*command, "--batches", "4,4"), "holds a batch size twice")
    assert_refused(run_command(*command, "--batches", "four"), "no list of batch sizes")
