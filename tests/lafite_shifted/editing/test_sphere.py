"""The great circle and the mean on it, against closed forms and scipy."""

import pytest
import torch
from scipy.spatial import geometric_slerp
from torch.nn.functional import normalize

from lafite_shifted.editing.sphere import angle, slerp, spherical_mean


def units(num: int, dim: int = 32) -> torch.Tensor:
    return normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(num)), dim=1)


def test_slerp_matches_scipy():
    a, b = units(2)
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    expected = geometric_slerp(
        normalize(a.double(), dim=0).numpy(), normalize(b.double(), dim=0).numpy(), times.numpy()
    )
    found = torch.stack([slerp(a.double(), b.double(), float(t)) for t in times])
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-7, rtol=0)


def test_ends_are_the_ends():
    a, b = units(4).split(2)
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-7)
    assert torch.allclose(slerp(a, b, 1.0), b, atol=1e-7)
    assert torch.allclose(slerp(a, b, 0.3), slerp(b, a, 0.7), atol=1e-7)


def test_steps_are_of_one_angle_and_one_length():
    a, b = units(2)
    t = torch.linspace(0, 1, 8)[:, None]
    path = slerp(a.expand(8, -1), b.expand(8, -1), t)
    torch.testing.assert_close(path.norm(dim=1), torch.ones(8))
    steps = angle(path[1:], path[:-1])
    torch.testing.assert_close(steps, steps.mean().expand(7), rtol=1e-4, atol=1e-6)


def test_lengths_are_on_a_line():
    a, b = units(2)
    assert float(slerp(2 * a, 6 * b, 0.5).norm()) == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("other", ["same", "opposite", "nearly"])
def test_nothing_breaks_where_no_circle_is_defined(other: str):
    a = units(1)[0]
    b = {"same": a, "opposite": -a, "nearly": normalize(a + 1e-7, dim=0)}[other]
    for t in (0.0, 0.25, 1.0):
        assert slerp(a, b, t).isfinite().all()
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-6)


def test_mean_of_two_is_their_slerp():
    a, b = units(6).split(3)
    found = spherical_mean(torch.stack([a, b]), torch.tensor([0.7, 0.3]))
    torch.testing.assert_close(found, slerp(a, b, 0.3), atol=1e-6, rtol=0)


def test_mean_knows_no_order_and_no_scale_of_weights():
    points, weights = units(4)[:, None], torch.tensor([1.0, 2.0, 3.0, 4.0])
    order = torch.tensor([2, 0, 3, 1])
    expected = spherical_mean(points, weights)
    torch.testing.assert_close(spherical_mean(points[order], weights[order]), expected)
    torch.testing.assert_close(spherical_mean(points, 5 * weights), expected)
    alone = spherical_mean(points, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(alone, points[1])
