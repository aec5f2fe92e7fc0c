"""A prior's prediction and loss, and that it learns.

Shape letters: N batch, L text tokens, F width of the text tower, D embedding.
"""

import dataclasses
from typing import Literal

import pytest
import torch
from torch import Tensor

from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.diffusion import diffuse
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import sample_embeddings
from tests.lafite_shifted.prior.priors import (
    TIMES,
    TINY,
    YES,
    predict,
    random_images,
    random_text,
)


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
