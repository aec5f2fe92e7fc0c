"""Geometry of unit embeddings: the great circle between two, the mean of several.

Shape letters: K points, N rows, D embedding. Computed in float64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.host_reads import HostRead, numbers
from torch_utils.sending import to_device

SMALLEST_ANGLE = 1e-6  # radians; below it, and as far from a half turn, a straight line is as good
ITERATIONS = 50


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """The point at share `t` of the way from a to b, [N, D] or what broadcasts to it: directions on
    the great circle, lengths on a line. t = 0 is a, t = 1 is b; `t` beyond them goes on.
    """
    x, y = a.double(), b.double()
    t = torch.as_tensor(t, dtype=torch.float64, device=a.device)
    from_x, from_y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    omega = angle(a, b)[..., None]
    sine = omega.sin()
    straight = sine < SMALLEST_ANGLE
    sine = torch.where(straight, torch.ones_like(sine), sine)
    on_x = torch.where(straight, 1 - t, ((1 - t) * omega).sin() / sine)
    on_y = torch.where(straight, t, (t * omega).sin() / sine)
    direction = F.normalize(on_x * from_x + on_y * from_y, dim=-1)
    length = x.norm(dim=-1, keepdim=True).lerp(y.norm(dim=-1, keepdim=True), t)
    return (direction * length).to(a.dtype)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Radians between vectors [..., D], float64; precise for small angles too, where an arc cosine
    is not.
    """
    x, y = F.normalize(a.double(), dim=-1), F.normalize(b.double(), dim=-1)
    return 2 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1))


def spherical_mean(points: Tensor, weights: Tensor) -> Tensor:
    """The point [N, D] of the least weighted sum of squared angles to unit `points` [K, N, D], with
    weights [K] (Buss and Fillmore, "Spherical averages and applications to spherical splines and
    interpolation", 2001, algorithm A1). Of two it is their `slerp`, and no order counts.
    """
    x = points.double()
    share = (weights.double() / weights.double().sum()).view(-1, 1, 1)
    share = to_device(share, x.device)
    mean = F.normalize((share * x).sum(dim=0), dim=-1)
    for _ in range(ITERATIONS):
        away = x - (x * mean).sum(dim=-1, keepdim=True) * mean  # in the tangent plane
        far = angle(x, mean.expand_as(x))[..., None]
        step = (share * F.normalize(away, dim=-1) * far).sum(dim=0)  # [N, D]
        length = step.norm(dim=-1, keepdim=True)
        mean = F.normalize(mean * length.cos() + F.normalize(step, dim=-1) * length.sin(), dim=-1)
        (longest,) = numbers([length.max()], HostRead.EDIT)
        if longest < 1e-12:
            break
    return mean.to(points.dtype)
