"""Paths between images (arXiv:2204.06125, section 3.2): embeddings and z move on great circles; w
moves on a line where it has no z.

Shape letters: N images or steps, D embedding, Z latent, V w space, L styles.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.editing.latents import Latents
from lafite_shifted.editing.sphere import slerp
from lafite_shifted.errors import InputError


def interpolate(
    a: Latents, b: Latents, generator: LoadedGenerator, times: Tensor, *, truncation: float = 1.0
) -> Latents:
    """The images at shares `times` [N] of the way from a to b, one image each; 0 is a, 1 is b."""
    t = times.to(generator.device)[:, None]  # [N, 1]
    rows = generator.encoder_id.normalise
    if a.embedding.ndim == 3 or b.embedding.ndim == 3:
        num = generator.num_styles
        a, b = a.by_style(num), b.by_style(num)
        rows = _each_style(rows)
    count = len(times)
    embedding = rows(slerp(_repeat(a.embedding, count), _repeat(b.embedding, count), t))
    noise = None
    if a.noise is not None and b.noise is not None:
        noise = slerp(_repeat(a.noise, count), _repeat(b.noise, count), t)
    if a.z is not None and b.z is not None:
        z = slerp(_repeat(a.z, count), _repeat(b.z, count), t)
        w = generator.network.mapping(z, truncation=truncation)
        return Latents(embedding, w, z, noise)
    of_a, of_b = a.w, b.w
    if of_a.ndim != of_b.ndim:
        of_a, of_b = (w.expand(generator.num_styles, -1, -1) for w in (of_a, of_b))
    w = _repeat(of_a, count).lerp(_repeat(of_b, count), t.to(of_a.dtype))
    return Latents(embedding, w, noise=noise)


def _repeat(tensor: Tensor, count: int) -> Tensor:
    """One row as `count` of them, in the last but one dimension."""
    return tensor.expand(*tensor.shape[:-2], count, -1)


def _each_style(normalise):
    return lambda x: torch.stack([normalise(rows) for rows in x])


def strip_times(steps: int) -> Tensor:
    """Shares from 0 to 1, both ends included; InputError below 2."""
    if steps < 2:
        raise InputError(f"steps must be at least 2, the two ends, not {steps}.")
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def loop(
    stops: Sequence[Latents],
    generator: LoadedGenerator,
    *,
    frames: int,
    truncation: float = 1.0,
) -> list[Latents]:
    """A path through all stops and back to the first, `frames` images from each to the next, in
    parts of one way each; played again and again it has no jump.
    """
    if len(stops) < 2:
        raise InputError("A walk needs two stops at least. Give more prompts, or more seeds.")
    if frames < 1:
        raise InputError(f"frames must be at least 1, not {frames}.")
    times = torch.arange(frames, dtype=torch.float64) / frames
    onward = [*stops[1:], stops[0]]
    return [
        interpolate(a, b, generator, times, truncation=truncation)
        for a, b in zip(stops, onward, strict=True)
    ]
