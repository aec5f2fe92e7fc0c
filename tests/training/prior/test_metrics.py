"""Metrics of a prior's samples against loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.metrics.distances import kernel_distance, set_distance
from training.prior.metrics import measure

DIM = 16


def rows_of(count: int, *, seed: int = 0) -> Tensor:
    sampled = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return F.normalize(sampled + 0.5, dim=1)


def test_metrics_match_loops():
    predicted, true = rows_of(60), F.normalize(rows_of(60) + 0.6 * rows_of(60, seed=1), dim=1)
    found = measure(predicted, true, bootstrap=3)
    similarity = (predicted @ true.T).numpy()
    ranks = [sum(other >= row[i] for other in row) for i, row in enumerate(similarity)]
    assert found.clip_i_sim == pytest.approx(np.mean(np.diag(similarity)), rel=1e-5)
    assert found.retrieval_1 == pytest.approx(np.mean([rank <= 1 for rank in ranks]))
    assert found.retrieval_10 == pytest.approx(np.mean([rank <= 10 for rank in ranks]))
    assert found.fd_clip == set_distance(predicted, true)
    pairs = [float(a @ b) for i, a in enumerate(predicted) for b in predicted[:i]]
    assert found.intra_set_cosine == pytest.approx(np.mean(pairs), rel=1e-4)
    assert (found.same_text_cosine, found.energy) == (None, None)


def test_two_samples_give_the_same_text_cosine_and_the_energy_score():
    """A mean is the right answer on average, and no sample of what is true given the text."""
    generator = torch.Generator().manual_seed(7)
    centroid = rows_of(300)

    def sampled() -> Tensor:
        return F.normalize(centroid + 0.2 * torch.randn(centroid.shape, generator=generator), dim=1)

    true, right = sampled(), measure(sampled(), sampled(), sampled(), bootstrap=2)
    mean = measure(centroid, true, centroid, bootstrap=2)
    assert mean.same_text_cosine == pytest.approx(1)
    assert right.same_text_cosine == pytest.approx(
        measure(sampled(), true, bootstrap=2).clip_i_sim, abs=0.02
    )
    assert mean.clip_i_sim > right.clip_i_sim
    assert mean.energy == pytest.approx(float((true - centroid).norm(dim=1).mean()), rel=1e-5)
    assert right.energy is not None
    assert mean.energy is not None
    assert right.energy < 0.8 * mean.energy


def sets_of(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings predicted, true and predicted again, of a distribution each."""
    predicted, again = rows_of(400, seed=3 * number), rows_of(400, seed=3 * number + 1)
    true = rows_of(400, seed=3 * number + 2)
    return predicted, F.normalize(true + torch.linspace(-0.5, 0.5, DIM), dim=1), again


def test_errors_are_those_of_resampling_captions():
    """Of a mean of independent cosines the standard error is known; of the others, the scatter of
    many sets of captions is.
    """
    predicted, true = rows_of(400), rows_of(400, seed=1)
    found = measure(predicted, true, predicted, bootstrap=200)
    cosine = (predicted * true).sum(dim=1)
    assert found.errors["clip_i_sim"] == pytest.approx(float(cosine.std()) / 20, rel=0.2)
    for key in ("retrieval_1", "retrieval_10"):
        share = getattr(found, key)
        known = (share * (1 - share) / 400) ** 0.5
        assert found.errors[key] == pytest.approx(known, rel=0.25)
    many = [measure(*sets_of(i), bootstrap=0) for i in range(1, 60)]
    found = measure(*sets_of(0), bootstrap=200)
    for key in ("kid_clip", "intra_set_cosine", "fd_clip", "energy"):
        scatter = np.std([getattr(one, key) for one in many])
        assert found.errors[key] == pytest.approx(scatter, rel=0.4), key
    assert many[0].errors == {}


def test_kernel_distance_matches_its_loop_and_is_unbiased():
    a, b = rows_of(20).double(), rows_of(30, seed=1).double()

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((1 + x @ y) ** 3)

    within = [np.mean([kernel(x, y) for x in s for y in s if x is not y]) for s in ([*a], [*b])]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within[0] + within[1] - 2 * across, rel=1e-9)
    same = [kernel_distance(rows_of(50, seed=i), rows_of(50, seed=i + 50)) for i in range(50)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 50**0.5
