"""CLIP guidance of a GAN: the best of several seeds for a sentence, then gradient steps on w or z
towards it, inside a trust region, because far from where the generator was trained CLIP can be
pleased by what is no image.

Shape letters: N images, C candidates, D embedding, V w space, Z latent, R resolution.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.editing.latents import Latents
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from torch_utils import seeds
from torch_utils.host_reads import HostRead, numbers
from torch_utils.torch_defaults import plain_settings

SPREAD_SEEDS = 256  # that measure how far w usually lies from its mean


@dataclass(frozen=True)
class GuidanceConfig:
    """How images are guided."""

    best_of: int = 8  # seeds an image, the first being its own
    steps: int = 20  # of the gradient, after that
    space: Literal["w", "z"] = "w"  # that moves
    radius: float = (
        0.5  # of the trust region, in usual distances of w from its mean, or of z from 0
    )

    def __post_init__(self) -> None:
        if self.best_of < 1 or self.steps < 0 or not self.radius > 0:
            raise InputError(
                "Guidance needs best_of of at least 1, steps of at least 0 and a radius above 0, "
                f"not {self.best_of}, {self.steps} and {self.radius}."
            )


@dataclass(frozen=True)
class Guided:
    """Images, and the cosine [N] of each with the sentence, by the CLIP that guided them: of its
    own seed, of the best of several, and at the end. Only another CLIP can judge them.
    """

    latents: Latents
    of_seed: Tensor
    of_best: Tensor
    of_end: Tensor


Embed = Callable[[Sequence[int]], Tensor]  # seeds -> image embeddings [N, D]


@plain_settings()
def guide(
    generator: LoadedGenerator,
    clip: ClipEncoder,
    embed: Embed,
    wanted: Tensor,
    sample_seeds: Sequence[int],
    config: GuidanceConfig,
    *,
    truncation: float = 1.0,
    on_step: Callable[[], None] | None = None,
) -> Guided:
    """Images of N seeds; `wanted` [1, D] is the embedding of the sentence, `embed` gives the
    conditions. `on_step` is called after each gradient step of each image.
    """
    with torch.no_grad():
        start, scores = _best_of(
            generator, clip, embed, wanted, sample_seeds, config.best_of, truncation
        )
    best = scores.amax(dim=1)
    parts = [
        _climb(start[n : n + 1], generator, clip, wanted, config, truncation, on_step)
        for n in range(len(sample_seeds))
    ]
    moved = [part for part, _ in parts]
    assert all(part.z is not None for part in moved)
    found = Latents(
        start.embedding,
        torch.cat([part.w for part in moved]),
        torch.cat([part.z for part in moved if part.z is not None]),
    )
    return Guided(found, scores[:, 0], best, torch.cat([score for _, score in parts]))


def _best_of(
    generator: LoadedGenerator,
    clip: ClipEncoder,
    embed: Embed,
    wanted: Tensor,
    sample_seeds: Sequence[int],
    best_of: int,
    truncation: float,
) -> tuple[Latents, Tensor]:
    """The best latents of each seed's candidates, and the scores [N, C] of all."""
    chosen, scores = [], []
    for seed in sample_seeds:
        own = [seed] + [seeds.seed_of("guide", seed, number) for number in range(1, best_of)]
        candidates = Latents.of_seeds(generator, embed(own), own, truncation=truncation)
        # in the precision of the steps, so that scores can be compared
        images = generator.render_with_gradient(candidates.embedding, candidates.w)
        score = (clip.embed_images(images) * wanted).sum(dim=1)  # [C]
        place = int(numbers([score.argmax()], HostRead.EDIT)[0])
        chosen.append(candidates[place : place + 1])
        scores.append(score)
    z = torch.cat([part.z for part in chosen if part.z is not None])
    embedding = torch.cat([part.embedding for part in chosen])
    return Latents(embedding, torch.cat([part.w for part in chosen]), z), torch.stack(scores)


def _climb(
    start: Latents,
    generator: LoadedGenerator,
    clip: ClipEncoder,
    wanted: Tensor,
    config: GuidanceConfig,
    truncation: float,
    on_step: Callable[[], None] | None,
) -> tuple[Latents, Tensor]:
    """Steps of one length along the gradient of the cosine, each projected into the ball around the
    start; the best image on the way, and its cosine [1].
    """
    assert start.z is not None
    in_w = config.space == "w"
    first = start.w if in_w else F.normalize(start.z, dim=1) * start.z.shape[1] ** 0.5
    usual = _usual_distance(generator) if in_w else start.z.shape[1] ** 0.5
    radius = config.radius * usual
    length = 2 * radius / max(1, config.steps)  # far enough to reach the border and turn

    def score(point: Tensor) -> tuple[Tensor, Latents]:
        w = point if in_w else generator.network.mapping(point, truncation=truncation)
        image = generator.render_with_gradient(start.embedding, w)
        latents = Latents(start.embedding, w.detach(), start.z if in_w else point.detach())
        return (clip.embed_images(image) * wanted).sum(dim=1), latents

    point = first
    best, found = torch.full((1,), -2.0, device=first.device), start
    for step in range(config.steps + 1):
        point = point.detach().requires_grad_()
        with torch.enable_grad():
            cosine, here = score(point)
            last = step == config.steps
            gradient = None if last else torch.autograd.grad(cosine.sum(), point)[0]
        if numbers([(cosine.detach() > best).all()], HostRead.EDIT)[0]:
            best, found = cosine.detach(), here
        if gradient is not None:
            point = _inside(point + length * F.normalize(gradient, dim=1), first, radius)
            if on_step is not None:
                on_step()
    return found, best


def _inside(point: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The nearest point of the ball."""
    away = point - centre
    return centre + away * (radius / away.norm(dim=1, keepdim=True).clamp(min=radius))


@torch.no_grad()
def _usual_distance(generator: LoadedGenerator) -> float:
    """Root mean square distance of w from its mean, over seeds of their own."""
    z = generator.z(range(SPREAD_SEEDS))
    w = generator.network.mapping(z)
    (distance,) = numbers([(w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt()], HostRead.EDIT)
    return distance
