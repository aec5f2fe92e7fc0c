"""A cold start: the benchmark, and what a start leaves out."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from lafite_shifted.io.starter import has_starter
from tests.commands import run_command, succeed
from torch_utils.uninitialised import without_random_weights
from training.bench.startup import GENERATE, IMPORTS


@pytest.mark.skipif(not has_starter(), reason="the weights of the starter are not here")
def test_a_first_image_is_compared_with_the_imports():
    """How much longer it takes is the benchmark's to say: a busy machine changes that."""
    found = json.loads(succeed("bench", "startup", "--rounds", "1", "--json").out)["results"]
    assert set(found["seconds"]) == set(found["cpu_seconds"]) == {IMPORTS, GENERATE}
    for ratio, seconds in (("ratio", "seconds"), ("cpu_ratio", "cpu_seconds")):
        assert min(found[seconds].values()) > 0
        assert found[ratio] == pytest.approx(found[seconds][GENERATE] / found[seconds][IMPORTS])


def test_what_fails_is_told():
    outcome = run_command("bench", "startup", "--model", "./nothing-here", "--rounds", "1")
    assert outcome.code == 2
    assert "nothing-here" in outcome.err


def test_weights_that_are_loaded_anyway_are_not_made():
    before = torch.random.get_rng_state()
    with without_random_weights():
        layer, table = nn.Linear(64, 64), nn.Embedding(8, 64)
        nn.init.trunc_normal_(layer.weight)
        norm = nn.LayerNorm(8)
    assert torch.equal(torch.random.get_rng_state(), before)  # no number was drawn
    assert norm.weight.sum() == 8  # constants are made
    assert table.weight.shape == (8, 64)


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (0.5, 2.0), (3.0, 4.0)])
def test_a_truncated_normal_distribution_ends_whatever_the_memory_holds(
    bounds: tuple[float, float],
):
    """PyTorch draws again until all are within the bounds."""
    weight = nn.Parameter(torch.full((64, 64), 1e9))
    with without_random_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # far from the mean, it is inexact
        nn.init.trunc_normal_(weight, std=1.0, a=bounds[0], b=bounds[1])
    assert weight.min() >= bounds[0]
    assert weight.max() <= bounds[1]


def test_a_grid_of_latin_letters_needs_no_matplotlib():
    code = (
        "import sys; from training.metrics.labels import label_of; label = label_of('a cat', "
        "width=400); assert label.complete; assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
