"""Training the prior: which one is kept as the best, and the paper's size."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lafite_shifted.model_folder import best_metric, find_part, load_prior
from lafite_shifted.prior.network import PriorNetwork
from tests.commands import TINY_PRIOR, succeed
from training.data.embeddings.embedding_set import EmbeddingSet
from training.prior.cost import measure_prior
from training.prior.presets import PRIOR_PRESETS
from training.prior.trainer import PriorTrainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cone") / "out"
    succeed("dataset", "cone", "--out", folder, "--names", "300")
    return folder


def test_the_best_prior_is_that_of_the_smallest_held_out_distance(cone: Path, tmp_path: Path):
    run = tmp_path / "run"
    settings = ("--set", "run.evaluate_kimg=0.064", "--set", "learning_rate=0.01")
    options = (*TINY_PRIOR, "--kimg", "0.32", *settings)
    succeed("train-prior", cone, "--out", run, *options)
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    distances = {
        line["samples"]: line["held_out_kid_clip"] for line in logged if "held_out_kid_clip" in line
    }
    assert len(distances) == 5
    best = load_prior(find_part(run / "best", "prior"), device=CPU)
    assert best.training["kimg"] == min(distances, key=distances.__getitem__) / 1000
    assert best_metric(run / "best" / "prior", "held_out_kid_clip") == pytest.approx(
        min(distances.values()), rel=1e-3
    )
    assert load_prior(find_part(run, "prior"), device=CPU).training["kimg"] == 0.32
    assert best_metric(tmp_path, "held_out_kid_clip") == float("inf")


def test_statistics_come_from_all_images_and_pairs_from_the_captioned(
    some_images: Path, tmp_path: Path
):
    """Few captions are enough for the cone of all."""
    images = tmp_path / "images"
    images.mkdir()
    lines = (some_images / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    names = [json.loads(line)["file_name"] for line in lines]
    for name in names:
        (images / name).write_bytes((some_images / name).read_bytes())
    (images / "metadata.jsonl").write_text("\n".join(lines[:10]) + "\n", encoding="utf-8")
    succeed("embed", images, "--out", tmp_path / "embeddings")
    config = dataclasses.replace(PRIOR_PRESETS["tiny"], hold_out=False)
    prior = dataclasses.replace(config.prior, width=32, depth=1, heads=2)
    data = EmbeddingSet(tmp_path / "embeddings")
    trainer = PriorTrainer(dataclasses.replace(config, prior=prior), data, device=CPU)
    assert trainer.prior.stats.count == len(names)
    assert len(trainer.training) == 10


def test_the_papers_size_has_a_billion_parameters():
    with torch.device("meta"):
        network = PriorNetwork(PRIOR_PRESETS["corgi"].prior)
    assert 0.9e9 < sum(p.numel() for p in network.parameters()) < 1.2e9


def test_the_papers_size_takes_a_step_on_a_shrunk_depth(cone: Path):
    data = EmbeddingSet(cone)
    config = PRIOR_PRESETS["corgi"]
    prior = dataclasses.replace(
        config.prior, depth=1, token_width=data.token_width, context_length=data.context_length
    )
    trainer = PriorTrainer(dataclasses.replace(config, prior=prior, batch=2), data, device=CPU)
    before = trainer.prior.network.query.detach().clone()
    assert trainer.step(2)["loss"].isfinite()
    assert not trainer.prior.network.query.equal(before)


def test_the_cost_of_a_deeper_network_is_extrapolated():
    config = PRIOR_PRESETS["tiny"]
    deep = dataclasses.replace(config, prior=dataclasses.replace(config.prior, depth=30))
    few, many = measure_prior(config, device=CPU), measure_prior(deep, device=CPU)
    assert many.parameters > 8 * few.parameters
    assert many.training_gib > 4 * few.training_gib
    assert many.seconds_per_kimg > few.seconds_per_kimg


def test_a_prior_of_few_steps_is_evaluated_with_as_many(cone: Path, tmp_path: Path):
    """It learns more times than it takes steps."""
    options = (*TINY_PRIOR, "--set", "prior.step_budget=3")
    succeed("train-prior", cone, "--out", tmp_path / "run", *options)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["held_out_energy"] > 0
