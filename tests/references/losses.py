"""The GAN's losses by loops over plain numbers."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def relativistic(better: float, worse: float) -> float:
    """arXiv:2501.05441, eq. 2 with f(t) = -log(1 + e^-t), to be minimised: minus the log of the
    chance that the better one wins.
    """
    return -math.log(1 / (1 + math.exp(worse - better)))


def mismatch(wrong: Sequence[float], keep: Sequence[bool]) -> list[float]:
    """Minus log(1 - p) of real images under another's condition, p = sigmoid(logit); none where
    the condition is dropped.
    """
    losses = []
    for logit, is_kept in zip(wrong, keep, strict=True):
        p = 1 / (1 + math.exp(-logit))
        losses.append(-math.log(1 - p) if is_kept else 0.0)
    return losses


def cosine(a: Array, b: Array) -> float:
    return float(sum(a * b) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b)))


def info_nce(a: Array, b: Array, *, temperature: float, keep: Sequence[bool]) -> list[float]:
    """arXiv:1807.03748, eq. 4, both ways, among the kept rows only; 0 for the others."""
    kept = [i for i, is_kept in enumerate(keep) if is_kept]
    losses = []
    for i in range(len(a)):
        if not keep[i]:
            losses.append(0.0)
            continue
        own = math.exp(cosine(a[i], b[i]) / temperature)
        among_b = sum(math.exp(cosine(a[i], b[j]) / temperature) for j in kept)
        among_a = sum(math.exp(cosine(a[j], b[i]) / temperature) for j in kept)
        losses.append(-(math.log(own / among_b) + math.log(own / among_a)) / 2)
    return losses
