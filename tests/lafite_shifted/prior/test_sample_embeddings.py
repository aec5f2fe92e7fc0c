"""Sampling from a prior: seeds, guidance, thresholding, clusters, and what is left open.

Shape letters: N batch, L text tokens, F width of the text tower, D embedding.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import resolve_sampler, sample_embeddings
from lafite_shifted.prior.samplers import SamplerConfig
from tests.lafite_shifted.prior.priors import (
    TIMES,
    TINY,
    YES,
    predict,
    random_images,
    random_text,
)
from torch_utils import seeds


@pytest.mark.parametrize("num_steps", [1, 8])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_samples_are_unit_float32(prior: Prior, num_steps: int, guidance: float):
    drawn = sample_embeddings(
        prior,
        random_text(),
        sample_seeds=range(8),
        sampling=SamplerConfig(num_steps, guidance=guidance),
    )
    assert drawn.shape == (8, 16)
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(8))


def test_one_step_is_the_prediction_from_the_start(prior: Prior):
    noise = seeds.normal_per_sample((16,), key=("prior", 0), indices=range(8))
    start, last = prior.gaussian.unwhiten(noise), torch.full((8,), 1000)
    expected = F.normalize(predict(prior, random_text(), z_t=start, t=last), dim=1)
    drawn = sample_embeddings(
        prior, random_text(), sample_seeds=range(8), sampling=SamplerConfig(1)
    )
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplerConfig(),
        SamplerConfig(guidance=2.0),
        SamplerConfig(4, "dpm++", best_of=3),
        SamplerConfig(4, "ddim", eta=0.5, dynamic_threshold=True),
    ],
)
@pytest.mark.parametrize("name", ["prior", "clustered"])
def test_a_sample_depends_on_its_text_and_seed_alone(
    request: pytest.FixtureRequest, name: str, sampling: SamplerConfig
):
    """Not on the batch, nor on its place in it."""
    prior: Prior = request.getfixturevalue(name)
    prior.threshold_quantile = 2.5
    text = random_text()
    together = sample_embeddings(prior, text, sample_seeds=range(10, 18), sampling=sampling)
    for i in (0, 5):
        alone = sample_embeddings(prior, text[i : i + 1], sample_seeds=[10 + i], sampling=sampling)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)
    turned = sample_embeddings(
        prior, text[torch.arange(7, -1, -1)], sample_seeds=range(17, 9, -1), sampling=sampling
    )
    torch.testing.assert_close(turned.flip(0), together, rtol=1e-4, atol=1e-5)


def test_seeds_repeat_and_differ(prior: Prior):
    text = random_text()
    first = sample_embeddings(prior, text, sample_seeds=range(8))
    assert sample_embeddings(prior, text, sample_seeds=range(8)).equal(first)
    assert (
        (sample_embeddings(prior, text, sample_seeds=range(8, 16)) - first).norm(dim=1) > 1e-3
    ).all()


def test_guidance_of_one_never_asks_for_the_prediction_without_text(prior: Prior):
    read, denoise, texts, evaluations = prior.cache_text, prior.denoise, [], []

    def recorded_read(text: TextFeatures, has_text: Tensor, cluster: Tensor):
        texts.append(has_text.tolist())
        return read(text, has_text, cluster)

    def recorded_denoise(*given):
        evaluations.append(given[1])
        return denoise(*given)

    prior.cache_text, prior.denoise = recorded_read, recorded_denoise
    sample_embeddings(prior, random_text(), sample_seeds=range(8), sampling=SamplerConfig(3))
    # a text is read once, however many steps
    assert (texts, len(evaluations)) == ([[True] * 8], 3)
    sample_embeddings(
        prior, random_text(), sample_seeds=range(8), sampling=SamplerConfig(3, guidance=2.0)
    )
    # with and without the text in one evaluation
    assert (texts[1:], len(evaluations)) == ([[True] * 8 + [False] * 8], 6)


def test_deterministic_samplers_take_noise_only_at_the_start(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
):
    keys = []
    draw = seeds.normal_per_sample

    def recorded(shape, *, key, indices):
        keys.append(key)
        return draw(shape, key=key, indices=indices)

    monkeypatch.setattr(seeds, "normal_per_sample", recorded)
    for sampling in (SamplerConfig(4, "ddim"), SamplerConfig(4, "dpm++")):
        sample_embeddings(prior, random_text(), sample_seeds=range(8), sampling=sampling)
    assert keys == [("prior", 0)] * 2


def test_best_of_returns_the_sample_closest_to_its_text(prior: Prior):
    text = random_text()

    def cosines(best_of: int) -> Tensor:
        drawn = sample_embeddings(
            prior, text, sample_seeds=range(8), sampling=SamplerConfig(2, best_of=best_of)
        )
        return (drawn * text.embedding).sum(dim=1)

    one, two, six = cosines(1), cosines(2), cosines(6)
    assert (two >= one).all()
    assert (six >= two).all()
    assert (six > one).any()


def test_thresholding_keeps_predictions_within_the_limit(prior: Prior):
    text = random_text()
    prior.threshold_quantile = 0.3
    tight = sample_embeddings(
        prior, text, sample_seeds=range(8), sampling=SamplerConfig(1, dynamic_threshold=True)
    )
    free = sample_embeddings(prior, text, sample_seeds=range(8), sampling=SamplerConfig(1))
    mean = F.normalize(prior.gaussian.mean, dim=0)
    assert (tight @ mean > free @ mean).all()  # drawn towards the mean
    prior.threshold_quantile = (
        1e3  # a limit that nothing reaches scales a prediction by 1, and clamps nothing
    )
    loose = sample_embeddings(
        prior, text, sample_seeds=range(8), sampling=SamplerConfig(1, dynamic_threshold=True)
    )
    torch.testing.assert_close(loose, free, rtol=1e-4, atol=1e-5)


def test_impossible_samplings_are_refused(prior: Prior):
    with pytest.raises(InputError, match="this prior allows 1000"):
        sample_embeddings(prior, random_text(), sample_seeds=range(8), sampling=SamplerConfig(1001))
    with pytest.raises(InputError, match="has no percentile"):
        sample_embeddings(
            prior,
            random_text(),
            sample_seeds=range(8),
            sampling=SamplerConfig(dynamic_threshold=True),
        )


# --- clusters


def test_each_text_starts_in_its_own_cluster(clustered: Prior):
    k = clustered.assign(random_text().embedding)
    process = clustered.gaussian_of(k)
    assert clustered.clusters is not None
    assert len(k.unique()) > 1
    for row, cluster in enumerate(k.tolist()):
        assert process.mean[row].equal(clustered.clusters.choose(torch.tensor([cluster])).mean[0])


def test_the_cluster_is_a_token_and_the_same_with_and_without_text(clustered: Prior):
    text = random_text()
    cluster = clustered.assign(text.embedding)
    process, told = clustered.gaussian_of(cluster), []
    for token in (cluster, (cluster + 1) % 4):
        with torch.no_grad():
            cache = clustered.cache_text(text, ~YES, token)
            told.append(clustered.predict(random_images(3), TIMES, process, cache))
    assert not told[0].equal(told[1])


def test_the_limit_is_the_percentile_of_the_whitened_data(prior: Prior):
    images, text = random_images(5), random_text().embedding
    y = prior.gaussian.whiten(images).abs().flatten()
    limit = prior.whitened_quantile(images, text)
    assert float((y <= limit).double().mean()) == pytest.approx(0.995, abs=0.01)


def test_cluster_statistics_belong_to_their_process():
    stats = EmbeddingStats.of(random_images(count=64))
    with pytest.raises(ValueError, match="belong to the process"):
        Prior(dataclasses.replace(TINY, process="clusters"), stats)


# --- predicting a draw


@pytest.mark.parametrize(
    ("changes", "steps", "sampler"),
    [
        ({}, 4, "dpm++"),
        ({"step_budget": 1}, 1, "ancestral"),
        ({"step_budget": 2, "objective": "energy"}, 2, "ancestral"),
        ({"v_parameterisation": False}, 4, "ancestral"),
        ({"process": "baseline"}, 4, "ancestral"),
        ({"process": "baseline", "v_parameterisation": True}, 4, "dpm++"),
    ],
)
def test_what_is_left_open_suits_the_prior(changes: dict, steps: int, sampler: str):
    """A prior of one step is sampled in one, without being told."""
    prior = Prior(dataclasses.replace(TINY, **changes), EmbeddingStats.of(random_images(count=64)))
    resolved = resolve_sampler(prior, SamplerConfig(guidance=2.0))
    assert (resolved.steps, resolved.sampler, resolved.guidance) == (steps, sampler, 2.0)
    assert resolve_sampler(prior, SamplerConfig(1, "ancestral")) == SamplerConfig(1, "ancestral")
    made = sample_embeddings(prior, random_text(), sample_seeds=range(8))
    same = sample_embeddings(
        prior, random_text(), sample_seeds=range(8), sampling=SamplerConfig(steps, sampler)
    )
    assert made.equal(same)
