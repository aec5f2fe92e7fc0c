"""The prior: what its network may and may not see, its loss, its sampling, and that it learns.

Shape letters: N batch, L text tokens, F width of the text tower, D embedding.
"""

import dataclasses
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.cluster_stats import ClusterStats
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.kmeans import find_centroids
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.diffusion import diffuse
from lafite_shifted.prior.energy_score import energy_score
from lafite_shifted.prior.network import (
    NUM_CONDITION_TOKENS,
    NUM_QUERY_TOKENS,
    PriorConfig,
    query_mask,
    text_mask,
)
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import resolve_sampler, sample_embeddings
from lafite_shifted.prior.samplers import SamplerConfig
from torch_utils import seeds

TINY = PriorConfig(
    embed_dim=16, token_width=8, context_length=5, width=64, depth=2, heads=4
)  # D, F, L
YES = torch.ones(8, dtype=torch.bool)
TIMES = torch.tensor([1, 2, 50, 200, 400, 600, 900, 1000])


def random_text(seed: int = 1) -> TextFeatures:
    """Eight texts; each embedding is shared by two, so that only the tokens tell them apart."""
    generator = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(4, 16, generator=generator), dim=1).repeat(2, 1)
    lengths = torch.tensor([5, 4, 3, 2, 1, 5, 3, 2])
    return TextFeatures(embedding, torch.randn(8, 5, 8, generator=generator), lengths)


def random_images(seed: int = 2, *, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 16, generator=generator) + 0.4, dim=1)


@pytest.fixture
def prior() -> Prior:
    """Untrained, with residual branches large enough for attention to matter."""
    torch.manual_seed(0)
    made = Prior(TINY, EmbeddingStats.of(random_images(count=64)))
    for block in made.network.blocks:
        torch.nn.init.normal_(block.to_output.weight, std=0.3)
        torch.nn.init.normal_(block.from_hidden.weight, std=0.3)
    return made


def ask(
    prior: Prior,
    text: TextFeatures,
    has_text: Tensor | None = None,
    t: Tensor | None = None,
    *,
    z_t: Tensor | None = None,
    cluster: Tensor | None = None,
) -> Tensor:
    """One question about each text."""
    cluster = prior.assign(text.embedding) if cluster is None else cluster
    cache = prior.cache_text(text, YES[: len(text)] if has_text is None else has_text, cluster)
    z_t = random_images(3, count=len(text)) if z_t is None else z_t
    t = TIMES[: len(text)] if t is None else t
    return prior.predict(z_t, t, prior.gaussian_of(cluster), cache)


def predict(prior: Prior, *args, **kwargs) -> Tensor:
    with torch.no_grad():
        return ask(prior, *args, **kwargs)


# --- what the network sees


def test_no_sample_depends_on_another_in_its_batch(prior: Prior):
    text = random_text()
    z_t = random_images(3).requires_grad_()
    inputs = dataclasses.replace(
        text,
        embedding=text.embedding.clone().requires_grad_(),
        tokens=text.tokens.clone().requires_grad_(),
    )
    picked = ask(prior, inputs, z_t=z_t)[1].sum()
    for gradient in torch.autograd.grad(picked, [z_t, inputs.embedding, inputs.tokens]):
        rows = gradient.flatten(1).abs().sum(dim=1)
        assert rows[1] > 0
        assert rows[[0, 2, 3, 4, 5, 6, 7]].count_nonzero() == 0


def test_tokens_beyond_the_length_do_not_matter(prior: Prior):
    text = random_text()
    beyond = torch.arange(5) >= text.lengths[:, None]  # [N, L]
    noisy = dataclasses.replace(text, tokens=text.tokens + 9 * beyond[..., None])
    assert predict(prior, noisy).equal(predict(prior, text))


def test_every_token_within_the_length_matters(prior: Prior):
    text = random_text()
    tokens = text.tokens.clone().requires_grad_()
    with_tokens = dataclasses.replace(text, tokens=tokens)
    total = ask(prior, with_tokens).square().sum()
    (gradient,) = torch.autograd.grad(total, tokens)
    within = torch.arange(5) < text.lengths[:, None]
    assert (gradient.abs().sum(dim=2) > 0).equal(within)


def test_padding_is_free_to_be_shorter(prior: Prior):
    """Texts cut to the longest of a batch give what they give at the full context length."""
    text = random_text()[torch.tensor([2, 3, 4, 6])]
    short = dataclasses.replace(text, tokens=text.tokens[:, :3])
    torch.testing.assert_close(predict(prior, text), predict(prior, short), rtol=1e-5, atol=1e-6)


def test_dropped_text_has_no_influence(prior: Prior):
    assert predict(prior, random_text(1), ~YES).equal(predict(prior, random_text(9), ~YES))
    some = torch.tensor([True, False] * 4)
    mixed, full = predict(prior, random_text(), some), predict(prior, random_text())
    dropped = predict(prior, random_text(), ~YES)
    torch.testing.assert_close(mixed[some], full[some], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mixed[~some], dropped[~some], rtol=1e-5, atol=1e-6)


def test_text_and_time_and_noisy_embedding_matter(prior: Prior):
    reference = predict(prior, random_text())
    text, spread = random_text(), (1 - prior.schedule.abar[TIMES]).sqrt()
    other_embedding = dataclasses.replace(text, embedding=text.embedding.roll(1, 0))
    for changed in (
        predict(prior, other_embedding),
        predict(prior, text, ~YES),
        predict(prior, text, t=TIMES.roll(1)),
    ):
        assert ((changed - reference).norm(dim=1) > 1e-2 * spread).all()
    moved = predict(prior, text, z_t=random_images(4))
    assert ((moved - reference).norm(dim=1) > 1e-2).all()


def test_several_timesteps_of_a_text_are_evaluated_as_if_alone(prior: Prior):
    text, z_t = random_text(), random_images(3, count=24)
    t = torch.arange(1, 25) * 40
    together = predict(prior, text, z_t=z_t, t=t).view(8, 3, 16)
    for r in range(3):
        alone = predict(prior, text, z_t=z_t[r::3], t=t[r::3])
        torch.testing.assert_close(together[:, r], alone, rtol=1e-5, atol=1e-6)


def test_attention_masks_match_their_rule_written_out():
    """The sequence as one: the text, then the questions one behind the other."""
    lengths, num_tokens, questions = torch.tensor([0, 2, 4]), 4, 2
    read, eval_set = num_tokens + NUM_CONDITION_TOKENS, NUM_QUERY_TOKENS * questions
    index = torch.arange(read)
    visible = (index < lengths[:, None]) | (index >= num_tokens)
    text, question = text_mask(visible), query_mask(visible, questions)
    assert text.shape == (3, 1, read, read)
    assert question.shape == (3, 1, eval_set, read + eval_set)
    for n, length in enumerate(lengths.tolist()):
        for i in range(read + eval_set):
            for j in range(read + eval_set if i >= read else read):
                hidden = length <= j < num_tokens
                foreign = (
                    j >= read and (i - read) // NUM_QUERY_TOKENS != (j - read) // NUM_QUERY_TOKENS
                )
                expected = (j <= i and not hidden and not foreign) or i == j
                row = text[n, 0, i] if i < read else question[n, 0, i - read]
                assert bool(row[j]) == expected


def constant_network(prior: Prior) -> dict[str, Tensor]:
    """Let it say 4 everywhere, sqrt(D) times 1; what it sees."""
    seen = {}

    def network(y: Tensor, *_rest: Tensor) -> Tensor:
        seen["y"] = y
        return torch.full_like(y, 4.0)

    prior.network.forward = network
    return seen


@pytest.mark.parametrize(
    "changes",
    [{}, {"covariance": "diagonal"}, {"covariance": "isotropic"}, {"process": "baseline"}],
    ids=["full", "diagonal", "isotropic", "baseline"],
)
def test_a_v_parameterised_network_adds_to_the_linear_denoiser(changes: dict):
    """Where it says nothing, z_0 is the mean of z_0 given z_t alone, by Gaussian conditioning,
    whatever noise the process adds.
    """
    config = dataclasses.replace(TINY, **changes, v_parameterisation=True)
    prior = Prior(config, EmbeddingStats.of(random_images(count=64)))
    seen = constant_network(prior)
    prediction, z_t = predict(prior, random_text()), random_images(3)
    abar = prior.schedule.abar[TIMES][:, None].double()
    data, process = Gaussian.from_stats(prior.stats), prior.gaussian
    sigma, noise, shift = data.covariance, process.covariance.double(), process.mean.double()
    expected = []
    for n in range(8):
        signal = abar[n].sqrt()
        gain = signal * sigma @ torch.linalg.inv(abar[n] * sigma + (1 - abar[n]) * noise)
        centre = signal * data.mean + (1 - signal) * shift  # of z_t
        known = data.mean + gain @ (z_t[n].double() - centre)
        expected.append(known + (1 - abar[n]).sqrt())
    torch.testing.assert_close(prediction.double(), torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert seen["y"].equal(process.whiten(z_t))


def test_any_other_network_predicts_z_0():
    """As DALL-E 2's does."""
    config = dataclasses.replace(TINY, process="baseline")
    prior = Prior(config, EmbeddingStats.of(random_images(count=64)))
    seen = constant_network(prior)
    assert predict(prior, random_text()).equal(torch.ones(8, 16))
    assert seen["y"].equal(prior.gaussian.whiten(random_images(3)))
    resolved = {"full": True, "diagonal": False, "isotropic": False}
    for kind, residual in resolved.items():
        assert dataclasses.replace(TINY, covariance=kind).is_v_parameterised == residual
    assert not dataclasses.replace(TINY, v_parameterisation=False).is_v_parameterised
    assert dataclasses.replace(config, v_parameterisation=True).is_v_parameterised
    with pytest.raises(ValueError, match="v_parameterisation needs a process of one Gaussian"):
        dataclasses.replace(TINY, process="clusters", v_parameterisation=True)


def test_reduced_precision_is_the_networks_alone(prior: Prior):
    """Whitening amplifies rounding, so it stays in float32 while the network computes in less."""
    inputs = []
    prior.network.from_noisy.register_forward_hook(
        lambda _module, given, result: inputs.append((given[0], result.dtype))
    )
    prior.compute_dtype = torch.bfloat16
    prediction = predict(prior, random_text())
    (y, dtype) = inputs[0]
    assert y.equal(prior.gaussian.whiten(random_images(3)))
    assert (dtype, prediction.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("process", ["shifted", "baseline"])
def test_the_chain_starts_where_the_process_says(process: Literal["shifted", "baseline"]):
    stats = EmbeddingStats.of(random_images(count=64))
    gaussian = dataclasses.replace(TINY, process=process).gaussian(stats)
    expected = Gaussian.standard(16) if process == "baseline" else Gaussian.from_stats(stats)
    assert gaussian.mean.equal(expected.mean)
    assert gaussian.covariance.equal(expected.covariance)


@pytest.mark.parametrize("changes", [{"heads": 3}, {"depth": 0}, {"heads": 0}])
def test_impossible_networks_are_refused(changes: dict[str, int]):
    with pytest.raises(ValueError, match="multiple of heads"):
        dataclasses.replace(TINY, **changes)


# --- learning


def test_loss_matches_its_definition_sample_by_sample(prior: Prior):
    z0, noise, text = random_images(), torch.randn(8, 2, 16), random_text()
    times = torch.stack([TIMES, TIMES.flip(0)], dim=1)  # [N, R]
    losses = prior.loss(z0, text, t=times, noise=noise, has_text=YES)
    for i in range(8):
        row, expected = slice(i, i + 1), 0.0
        for r in range(2):
            t = times[row, r]
            z_t = diffuse(z0[row], t, noise[row, r], prior.gaussian, prior.schedule)
            prediction = predict(prior, text[row], z_t=z_t, t=t)[0]
            error = sum(float(4 * a - 4 * b) ** 2 for a, b in zip(prediction, z0[i], strict=True))
            expected += error / 16 * (1 - float(prior.schedule.abar[t])) / 2
        assert float(losses[i].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", ["mse", "energy"])
def test_every_parameter_gets_a_gradient(objective: Literal["mse", "energy"]):
    stats = EmbeddingStats.of(random_images(count=64))
    prior = Prior(dataclasses.replace(TINY, objective=objective), stats)
    sample_noise = torch.randn(8, 1, 3, 16) if objective == "energy" else None
    has_text = torch.tensor([True] * 6 + [False] * 2)
    noise = torch.randn(8, 1, 16)
    prior.loss(
        random_images(),
        random_text(),
        t=TIMES[:, None],
        noise=noise,
        has_text=has_text,
        sample_noise=sample_noise,
    ).sum().backward()
    silent = [n for n, p in prior.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert prior.network.position.grad.any(dim=1).all()


@pytest.mark.parametrize("process", ["shifted", "baseline"])
def test_it_memorises_eight_pairs(process: Literal["shifted", "baseline"]):
    torch.manual_seed(0)
    images, text = random_images(), random_text()
    prior = Prior(dataclasses.replace(TINY, process=process), EmbeddingStats.of(images))
    optimizer = torch.optim.Adam(prior.network.parameters(), lr=3e-3)
    for _ in range(400):
        t, noise = torch.randint(1, 1001, (8, 8)), torch.randn(8, 8, 16)
        loss = prior.loss(images, text, t=t, noise=noise, has_text=YES).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = sample_embeddings(prior, text, sample_seeds=range(8))
    assert (drawn * images).sum(dim=1).min() > 0.9
    assert ((drawn @ images.T).argmax(dim=1) == torch.arange(8)).all()


# --- sampling


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


@pytest.fixture
def clustered() -> Prior:
    """A prior of four clusters, untrained."""
    torch.manual_seed(0)
    images = random_images(count=64)
    clusters = ClusterStats(None, find_centroids(images, 4), covariance_type="diagonal")
    clusters.update(images)
    config = dataclasses.replace(TINY, process="clusters", num_clusters=4)
    return Prior(config, EmbeddingStats.of(images), clusters, threshold_quantile=2.5)


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
    read, predict_plainly, texts, eval_set = prior.cache_text, prior.predict, [], []

    def recorded_read(text: TextFeatures, has_text: Tensor, cluster: Tensor):
        texts.append(bool(has_text.all()))
        return read(text, has_text, cluster)

    def recorded_predict(*given):
        eval_set.append(given[1].unique().item())
        return predict_plainly(*given)

    prior.cache_text, prior.predict = recorded_read, recorded_predict
    sample_embeddings(prior, random_text(), sample_seeds=range(8), sampling=SamplerConfig(3))
    assert (texts, len(eval_set)) == ([True], 3)  # a text is read once, however many steps
    sample_embeddings(
        prior, random_text(), sample_seeds=range(8), sampling=SamplerConfig(3, guidance=2.0)
    )
    assert (texts[1:], len(eval_set)) == ([True, False], 9)


def test_deterministic_samplers_take_noise_only_at_the_start(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
):
    eval_set = []
    draw = seeds.normal_per_sample

    def recorded(shape, *, key, indices):
        eval_set.append(key)
        return draw(shape, key=key, indices=indices)

    monkeypatch.setattr(seeds, "normal_per_sample", recorded)
    for sampling in (SamplerConfig(4, "ddim"), SamplerConfig(4, "dpm++")):
        sample_embeddings(prior, random_text(), sample_seeds=range(8), sampling=sampling)
    assert eval_set == [("prior", 0)] * 2


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
    with pytest.raises(ValueError, match="max_steps must be in"):
        dataclasses.replace(TINY, step_budget=0)


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
