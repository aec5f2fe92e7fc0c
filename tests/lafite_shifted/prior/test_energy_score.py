"""The energy score, and priors that are trained with it.

Shape letters: N batch, L text tokens, F width of the text tower, D embedding.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.energy_score import energy_score
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import sample_embeddings
from lafite_shifted.prior.samplers import SamplerConfig
from tests.lafite_shifted.prior.priors import (
    TINY,
    random_images,
    random_text,
)


def test_energy_score_matches_its_loops():
    draws, true = torch.randn(3, 4, 5), torch.randn(3, 5)
    for n in range(3):
        error = sum(float((draws[n, m] - true[n]).norm()) for m in range(4)) / 4
        apart = [float((draws[n, i] - draws[n, j]).norm()) for i in range(4) for j in range(i)]
        expected = error - sum(apart) / 6 / 2
        assert float(energy_score(draws, true)[n]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="at least 2"):
        energy_score(draws[:, :1], true)


@pytest.fixture(scope="module")
def two_answers() -> tuple[Prior, Prior, Tensor]:
    """One text whose image is one of two, learnt in one step: by a network that predicts the
    mean, by one that predicts a draw; and the two images.
    """
    answers = F.normalize(torch.eye(16)[:2] + 0.3, dim=1)
    text = random_text()[torch.zeros(32, dtype=torch.long)]
    yes, priors = torch.ones(32, dtype=torch.bool), []
    for objective in ("mse", "energy"):
        torch.manual_seed(0)
        config = dataclasses.replace(TINY, objective=objective, step_budget=1)
        prior = Prior(config, EmbeddingStats.of(torch.cat([answers, random_images()])))
        optimizer = torch.optim.Adam(prior.network.parameters(), lr=3e-3)
        for _ in range(150):
            sample_noise = torch.randn(32, 1, 4, 16) if objective == "energy" else None
            loss = prior.loss(
                answers[torch.randint(2, (32,))],
                text,
                t=torch.full((32, 1), 1000),
                noise=torch.randn(32, 1, 16),
                has_text=yes,
                sample_noise=sample_noise,
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        priors.append(prior)
    return *priors, answers


def test_one_step_of_the_energy_objective_has_both_answers_where_one_of_mse_has_neither(
    two_answers,
):
    """What a few-step prior is for: one step of means is between the answers."""
    means, draws, answers = two_answers
    text = random_text()[torch.zeros(200, dtype=torch.long)]
    between = F.normalize(answers.mean(dim=0), dim=0)

    def drawn(prior: Prior) -> Tensor:
        return sample_embeddings(prior, text, sample_seeds=range(200), sampling=SamplerConfig(1))

    assert (drawn(means) @ between).min() > 0.98
    closest = drawn(draws) @ answers.T  # [200, 2]
    assert float(closest.amax(dim=1).mean()) > 0.93
    share = (closest[:, 0] > closest[:, 1]).double().mean()
    assert 0.35 < float(share) < 0.65


def test_a_prior_of_few_steps_learns_their_times_and_refuses_others(two_answers):
    means, draws, _ = two_answers
    assert means.times == [1000]
    four = dataclasses.replace(TINY, step_budget=4)
    times = Prior(four, EmbeddingStats.of(random_images(count=64))).times
    assert times == [250, 333, 500, 667, 750, 1000]
    for sampling in (SamplerConfig(2), SamplerConfig(1, "ddim"), SamplerConfig(1, "dpm++")):
        with pytest.raises(InputError, match=r"Give fewer|--sampler ancestral"):
            sample_embeddings(draws, random_text(), sample_seeds=range(8), sampling=sampling)
    with pytest.raises(ValueError, match="step_budget must be in"):
        dataclasses.replace(TINY, step_budget=0)
