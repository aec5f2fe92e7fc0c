"""Metrics of predicted image embeddings: cosine, retrieval, distances of the sets, energy score.

One step of a prior of the mse objective is right on average, poor as a distribution. So cosine,
retrieval, distances of the sets and the energy score, which judges the distribution given the
text, stand beside each other. Shape letters: m captions, D embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.prior.energy_score import energy_score
from torch_utils import seeds
from training.metrics.distances import intra_set_cosine, kernel_distance, set_distance

BOOTSTRAP = 200  # resamplings of the captions, for the errors


@dataclass(frozen=True)
class Metrics:
    """Of m embeddings predicted for m held-out captions."""

    clip_i_sim: float  # to the true image embedding
    clip_i_sims: list[float]  # the same by each CLIP, where there are several
    fd_clip: float  # between the two sets
    kid_clip: float  # the same by kernel_distance
    retrieval_1: float  # share that finds its own image among all m
    retrieval_10: float
    intra_set_cosine: float  # mean pairwise cosine; `real` has its own
    same_text_cosine: float | None  # mean cosine of two samples for one text; 1 has no diversity
    # of two samples, against the true one: smallest where they have its distribution given the text
    energy: float | None
    errors: dict[str, float]  # bootstrap standard errors over the captions, of what is above


def measure(
    predicted: Tensor,
    true: Tensor,
    again: Tensor | None = None,
    *,
    encoder_id: EncoderId | None = None,
    bootstrap: int = BOOTSTRAP,
) -> Metrics:
    """Metrics of unit embeddings [m, D] predicted for captions whose images are `true` [m, D].

    `again` [m, D] are other samples for the same captions (`predicted` where nothing is sampled);
    without them there is no same-text cosine and no energy score. `encoder_id` adds the cosine by
    each CLIP. `bootstrap` counts resamplings of the captions; 0 leaves the errors out.
    """
    by_clip = encoder_id.cosines(predicted, true) if encoder_id else []
    similarity = predicted @ true.T
    found = similarity.diagonal()[:, None] > similarity
    rank = len(true) - found.sum(dim=1)  # 1 is the closest; ties count against it
    of_captions = {
        "clip_i_sim": similarity.diagonal(),
        "retrieval_1": (rank <= 1).float(),
        "retrieval_10": (rank <= 10).float(),
    }
    if again is not None:
        of_captions["same_text_cosine"] = (predicted * again).sum(dim=1)
        of_captions["energy"] = energy_score(torch.stack([predicted, again], dim=1), true)
    means = {name: float(values.double().mean()) for name, values in of_captions.items()}
    return Metrics(
        clip_i_sim=means["clip_i_sim"],
        clip_i_sims=by_clip if len(by_clip) > 1 else [],
        fd_clip=set_distance(predicted, true),
        kid_clip=kernel_distance(predicted, true, paired=True),
        retrieval_1=means["retrieval_1"],
        retrieval_10=means["retrieval_10"],
        intra_set_cosine=intra_set_cosine(predicted),
        same_text_cosine=means.get("same_text_cosine"),
        energy=means.get("energy"),
        errors=_errors(predicted, true, of_captions, bootstrap) if bootstrap > 1 else {},
    )


def _errors(
    predicted: Tensor, true: Tensor, of_captions: dict[str, Tensor], bootstrap: int
) -> dict[str, float]:
    """Bootstrap standard errors: of means over captions, of means over pairs of different captions,
    and of the Frechet distance.
    """
    m = len(true)
    rows = torch.stack(
        [
            torch.randint(m, (m,), generator=seeds.generator("bootstrap", n))
            for n in range(bootstrap)
        ]
    )
    times = torch.zeros(bootstrap, m, dtype=torch.float64)  # that a caption is sampled
    times.scatter_add_(1, rows, torch.ones_like(times))
    sampled = {name: times @ values.double() / m for name, values in of_captions.items()}
    a, b = predicted.double(), true.double()
    within, across = a @ a.T, a @ b.T
    of_pairs = {
        "intra_set_cosine": within,
        "kid_clip": (1 + within) ** 3
        + (1 + b @ b.T) ** 3
        - (1 + across) ** 3
        - (1 + across.T) ** 3,
    }
    for name, values in of_pairs.items():
        different = values.fill_diagonal_(0)
        sampled[name] = ((times @ different) * times).sum(dim=1) / (m * (m - 1))
    distances = [set_distance(predicted[own], true[own]) for own in rows]
    sampled["fd_clip"] = torch.tensor(distances, dtype=torch.float64)
    return {name: float(values.std()) for name, values in sampled.items()}
