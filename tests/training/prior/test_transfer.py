"""Starting a prior from another."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import find_part, load_prior
from lafite_shifted.prior.sample_embeddings import sample_embeddings
from lafite_shifted.prior.samplers import SamplerConfig
from tests.commands import TINY_PRIOR, run_command, succeed
from training.data.embeddings.embedding_set import EmbeddingSet
from training.prior.presets import PRIOR_PRESETS
from training.prior.run import open_prior_run, prior_config
from training.prior.transfer import PriorStart

CPU = torch.device("cpu")
ENERGY = ("--set", "prior.objective=energy", "--set", "prior.step_budget=1")
SMALL = ["prior.width=32", "prior.depth=1", "prior.heads=2", "batch=8", "dtype=float32"]


def test_the_energy_objective_begins_as_the_mse_one(
    prior_run: Path, some_embeddings: Path, tmp_path: Path
):
    """In one step the mean that it comes from, whatever the inner draw, and then other weights."""
    data = EmbeddingSet(some_embeddings)
    settings = [*SMALL, "prior.objective=energy", "prior.step_budget=1", "run.kimg=0.032"]
    config = prior_config(PRIOR_PRESETS["tiny"], assignments=settings)
    trainer, _ = open_prior_run(config, data, tmp_path / "run", device=CPU, init=prior_run)
    captions = torch.arange(6)
    mean = load_prior(find_part(prior_run, "prior"), device=CPU, dtype="float32").prior
    text, one = data.text_features(captions), SamplerConfig(1, "ancestral")
    expected = sample_embeddings(mean, text, sample_seeds=range(6), sampling=one)
    (found,) = trainer.sample(captions, sampling=one)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for step in range(3):
        trainer.step(step * 8)
    assert trainer.prior.network.from_sample_noise is not None
    assert trainer.prior.network.from_sample_noise.weight.count_nonzero() > 0


def test_a_run_resumes_without_what_it_began_with(
    prior_run: Path, some_embeddings: Path, tmp_path: Path
):
    first, run = tmp_path / "first", tmp_path / "run"
    shutil.copytree(prior_run, first)
    begin = ("train-prior", some_embeddings, "--out", run, "--init", first, *TINY_PRIOR, *ENERGY)
    succeed(*begin)
    recorded = json.loads((run / "config.json").read_text())["init"]
    assert recorded["path"] == str(first)
    shutil.rmtree(first)
    succeed(*begin, "--kimg", "0.064")
    assert load_prior(find_part(run, "prior"), device=CPU).training["kimg"] == 0.064
    other = run_command(*begin[:4], *TINY_PRIOR, *ENERGY, "--kimg", "0.064")
    assert other.code == 2
    assert "init" in other.err


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("prior.width=64", "width=32"),
        ("prior.covariance=diagonal", "covariance=full"),
        ("prior.v_parameterisation=false", "v_parameterisation"),
        ("prior.schedule.name=cosine", "schedule"),
    ],
)
def test_another_kind_is_refused(
    setting: str, named: str, prior_run: Path, some_embeddings: Path, tmp_path: Path
):
    found = ("train-prior", some_embeddings, "--out", tmp_path / "run", "--init", prior_run)
    outcome = run_command(*found, *TINY_PRIOR, "--set", setting)
    assert outcome.code == 2
    assert named in outcome.err
    assert not (tmp_path / "run").exists()


def test_another_clip_is_refused(prior_run: Path, tmp_path: Path):
    cone = tmp_path / "cone"
    succeed("dataset", "cone", "--out", cone, "--names", "60")
    outcome = run_command(
        "train-prior", cone, "--out", tmp_path / "run", "--init", prior_run, *TINY_PRIOR
    )
    assert outcome.code == 2
    assert "same CLIP" in outcome.err


def test_a_folder_without_a_prior_is_refused(some_embeddings: Path, tmp_path: Path):
    config = PRIOR_PRESETS["tiny"].prior
    with pytest.raises(InputError, match="prior"):
        PriorStart.of(tmp_path, tmp_path / "run", config, EmbeddingSet(some_embeddings).encoder_id)
