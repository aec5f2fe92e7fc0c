"""The losses, each against a slow loop."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lafite_shifted.decoder.generator import Generator, GeneratorConfig
from tests.references import losses as reference
from training.gan.losses import (
    discriminator_loss,
    generator_loss,
    info_nce,
    mean_kept,
    mismatch_loss,
    path_lengths,
    pixel_distance,
    r1_penalty,
    relativistic_loss,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_generator_loss_matches_its_formula():
    logit = 3 * normal(7)
    expected = [reference.softplus(-x) for x in logit.tolist()]
    np.testing.assert_allclose(generator_loss(logit), expected, rtol=1e-12)


def test_discriminator_loss_matches_its_formula():
    real, fake = 3 * normal(7), 3 * normal(7, seed=1)
    expected = [
        reference.softplus(-x) + reference.softplus(y)
        for x, y in zip(real.tolist(), fake.tolist(), strict=True)
    ]
    np.testing.assert_allclose(discriminator_loss(real, fake), expected, rtol=1e-12)


def test_relativistic_loss_matches_its_formula():
    better, worse = 3 * normal(7), 3 * normal(7, seed=1)
    expected = [
        reference.relativistic(x, y) for x, y in zip(better.tolist(), worse.tolist(), strict=True)
    ]
    np.testing.assert_allclose(relativistic_loss(better, worse), expected, rtol=1e-12)


def test_relativistic_loss_depends_on_the_difference_alone():
    """And pulls both ways: the better one up as much as the worse one down."""
    better, worse = (normal(7, seed=seed).requires_grad_() for seed in (0, 1))
    loss = relativistic_loss(better, worse)
    torch.testing.assert_close(relativistic_loss(better + 5, worse + 5), loss)
    by_better, by_worse = torch.autograd.grad(loss.sum(), [better, worse])
    torch.testing.assert_close(by_better, -by_worse)
    assert (by_better < 0).all()
    huge = torch.tensor([1e4, -1e4])
    assert relativistic_loss(huge, -huge).tolist() == [0.0, 2e4]


def test_pixel_distance_is_of_means_over_squares():
    a, b = normal(2, 3, 16, 8), normal(2, 3, 16, 8, seed=1)
    expected = []
    for gap in (a - b).numpy():
        of_sizes = []
        for side in (2, 4, 8):
            squares = gap.reshape(3, 16 // side, side, 8 // side, side).mean(axis=(2, 4))
            of_sizes.append(np.abs(squares).mean())
        expected.append(np.mean(of_sizes))
    np.testing.assert_allclose(pixel_distance(a.float(), b.float()), expected, rtol=1e-5)


def test_mismatch_loss_matches_a_loop():
    """No loss and no gradient where the condition is dropped."""
    logit, keep = (3 * normal(5)).requires_grad_(), [True, False, True, True, False]
    found = mismatch_loss(logit, torch.tensor(keep))
    np.testing.assert_allclose(
        found.detach(), reference.mismatch(logit.tolist(), keep), rtol=1e-9, atol=0
    )
    (gradient,) = torch.autograd.grad(found.sum(), logit)
    assert (gradient > 0).tolist() == keep


def test_losses_pull_the_right_way():
    """D lifts the real logit and lowers the fake one; G lifts the fake one."""
    real, fake = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    by_d = torch.autograd.grad(discriminator_loss(real, fake).sum(), [real, fake])
    by_g = torch.autograd.grad(generator_loss(fake).sum(), fake)
    assert [float(gradient) for gradient in (*by_d, *by_g)] == [-0.5, 0.5, -0.5]


def test_large_logits_stay_finite():
    logit = torch.tensor([-1e4, 1e4])
    assert generator_loss(logit).tolist() == [1e4, 0.0]
    assert discriminator_loss(logit, logit).tolist() == [1e4, 1e4]


def discriminator(images: Tensor, weight: Tensor) -> Tensor:
    """Not linear, and one sample does not see another."""
    return (torch.tanh(images) * weight).sum(dim=(1, 2, 3)) ** 2


def test_r1_penalty_matches_finite_differences():
    images, weight = normal(3, 2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1)
    found = r1_penalty(discriminator(images, weight), images)
    step = 1e-6
    for n in range(3):
        squared_norm = 0.0
        for index in np.ndindex(2, 3, 4):
            moved = torch.zeros(3, 2, 3, 4, dtype=torch.float64)
            moved[(n, *index)] = step
            with torch.no_grad():
                rise = (
                    discriminator(images + moved, weight)[n]
                    - discriminator(images - moved, weight)[n]
                )
            squared_norm += float(rise / (2 * step)) ** 2
        assert float(found[n].detach()) == pytest.approx(squared_norm, rel=1e-5)


def test_r1_penalty_matches_its_closed_form_and_has_a_gradient():
    """For f = w . x: |w|^2 a sample, whose gradient is 2 w."""
    images, weight = normal(3, 2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1).requires_grad_()
    found = r1_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    assert found.shape == (3,)
    np.testing.assert_allclose(
        found.detach(), [float(weight.detach().square().sum())] * 3, rtol=1e-6
    )
    (gradient,) = torch.autograd.grad(found.mean(), weight)
    torch.testing.assert_close(gradient, 2 * weight.detach(), rtol=1e-6, atol=1e-6)


def test_path_lengths_match_their_closed_form():
    """|J^T y| of a linear map."""
    jacobian, w = normal(3 * 4 * 4, 5), normal(2, 5, seed=1).requires_grad_()
    noise = normal(2, 3, 4, 4, seed=2)
    images = (w @ jacobian.T).view(2, 3, 4, 4)
    expected = (noise.flatten(1) / 4 @ jacobian).norm(dim=1)
    torch.testing.assert_close(path_lengths(images, w, noise), expected)


def test_path_lengths_match_finite_differences():
    """Of a generator, in float64, direction by direction of w."""
    config = GeneratorConfig(
        resolution=8, condition_dim=6, channel_base=64, channel_max=8, z_dim=5, w_dim=5
    )
    torch.manual_seed(0)
    generator = Generator(config).double()
    generator.compute_dtype = torch.float64
    w, condition = normal(3, 5).requires_grad_(), normal(3, 6, seed=1)
    noise = normal(3, 3, 8, 8, seed=2)
    found = path_lengths(generator.synthesise(w, condition), w, noise)
    assert found.requires_grad
    step, squared = 1e-6, torch.zeros(3, dtype=torch.float64)
    for axis in torch.eye(5, dtype=torch.float64):
        with torch.no_grad():
            up, down = (generator.synthesise(w + s * axis, condition) for s in (step, -step))
            slope = (up - down) / (2 * step)  # of each pixel
            squared += (slope * noise / 8).sum(dim=(1, 2, 3)).square()
    torch.testing.assert_close(found.detach(), squared.sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("keep", [None, [True, False, True, True, False], [False] * 4 + [True]])
def test_info_nce_matches_a_loop(temperature: float, keep: list[bool] | None):
    a, b = 3 * normal(5, 6), normal(5, 6, seed=1)
    mask = None if keep is None else torch.tensor(keep)
    found = info_nce(a, b, temperature=temperature, keep=mask)
    expected = reference.info_nce(
        a.numpy(), b.numpy(), temperature=temperature, keep=keep or [True] * 5
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_info_nce_of_orthogonal_pairs_matches_its_closed_form():
    """Own similarity 1, all others 0: log(1 + (N - 1) exp(-1 / tau))."""
    found = info_nce(torch.eye(4), torch.eye(4), temperature=0.5)
    expected = math.log(1 + 3 * math.exp(-2))
    torch.testing.assert_close(found, torch.full((4,), expected))


def test_info_nce_is_symmetric_and_blind_to_length():
    a, b = normal(5, 6), normal(5, 6, seed=1)
    found = info_nce(a, b, temperature=0.3)
    torch.testing.assert_close(info_nce(b, a, temperature=0.3), found)
    torch.testing.assert_close(info_nce(5 * a, b / 7, temperature=0.3), found)


@pytest.mark.parametrize("keep", [[True, False, True], [False, False, False]])
def test_dropped_rows_have_no_loss_and_no_gradient(keep: list[bool]):
    mask = torch.tensor(keep)
    a, b = normal(3, 6).requires_grad_(), normal(3, 6, seed=1)
    losses = info_nce(a, b * mask[:, None], temperature=0.3, keep=mask)
    losses.sum().backward()
    assert losses.detach()[~mask].count_nonzero() == 0
    assert a.grad.isfinite().all()
    assert (a.grad.norm(dim=1) > 0).tolist() == keep


def test_dropped_rows_do_not_weaken_a_mean():
    loss = torch.tensor([2.0, 7.0, 4.0])
    assert float(mean_kept(loss, torch.tensor([True, False, True]))) == 3.0
    assert float(mean_kept(loss, torch.tensor([False, False, False]))) == 0.0
