"""The network of a prior: which inputs each output depends on, and its attention masks.

Shape letters: N batch, L text tokens, F width of the text tower, D embedding.
"""

import dataclasses
from typing import Literal

import pytest
import torch

from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.caches import (
    NUM_CONDITION_TOKENS,
    NUM_QUERY_TOKENS,
    query_mask,
    text_mask,
)
from lafite_shifted.prior.prior import Prior
from tests.lafite_shifted.prior.priors import (
    TIMES,
    TINY,
    YES,
    ask,
    predict,
    random_images,
    random_text,
)


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


@pytest.mark.parametrize("objective", ["mse", "energy"])
def test_steps_of_cached_times_match_the_whole_sequence(objective: Literal["mse", "energy"]):
    """What sampling computes once for all steps, against training's pass over every token."""
    stats = EmbeddingStats.of(random_images(count=64))
    prior = Prior(dataclasses.replace(TINY, objective=objective), stats).eval()
    for block in prior.network.blocks:  # branches as large as after training
        torch.nn.init.normal_(block.to_output.weight, std=0.2)  # type: ignore[arg-type, union-attr]
    text, times, repeats = random_text(), [1000, 400, 2], 3
    z_t, noise = random_images(3, count=24), None
    if objective == "energy":
        noise = torch.randn(24, 16, generator=torch.Generator().manual_seed(4))
    cluster = prior.assign(text.embedding)
    with torch.no_grad():
        cache = prior.cache_text(text, torch.tensor([True, False] * 4), cluster)
        steps = prior.cache_times(cache, times, repeats=repeats)
        for t in times:
            (found,) = prior.denoise(z_t, t, prior.gaussian, steps[t], noise)
            expected = prior.predict(z_t, torch.full((24,), t), prior.gaussian, cache, noise)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_attention_masks_match_their_rule_written_out():
    """The sequence as one: the text, then the timesteps one behind the other."""
    lengths, num_tokens, timesteps = torch.tensor([0, 2, 4]), 4, 2
    cached, queried = num_tokens + NUM_CONDITION_TOKENS, NUM_QUERY_TOKENS * timesteps
    index = torch.arange(cached)
    visible = (index < lengths[:, None]) | (index >= num_tokens)
    text, query = text_mask(visible), query_mask(visible, timesteps)
    assert text.shape == (3, 1, cached, cached)
    assert query.shape == (3, 1, queried, cached + queried)
    for n, length in enumerate(lengths.tolist()):
        for i in range(cached + queried):
            for j in range(cached + queried if i >= cached else cached):
                hidden = length <= j < num_tokens
                foreign = (
                    j >= cached
                    and (i - cached) // NUM_QUERY_TOKENS != (j - cached) // NUM_QUERY_TOKENS
                )
                expected = (j <= i and not hidden and not foreign) or i == j
                row = text[n, 0, i] if i < cached else query[n, 0, i - cached]
                assert bool(row[j]) == expected
