"""Edits by words (arXiv:2204.06125, section 3.3, "text diffs"): the embedding of an image turns
towards the difference of two sentences. Its w and noise stay.

Shape letters: N images, D embedding.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.editing.latents import Latents
from lafite_shifted.editing.sphere import angle, slerp
from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, numbers

LEAST_ANGLE = 1e-3  # radians between two sentences


def text_direction(source: Tensor, target: Tensor) -> Tensor:
    """Unit direction [1, D] from what is there to what is wanted, of their embeddings [1, D];
    InputError where they are the same.
    """
    (apart,) = numbers([angle(source, target).sum()], HostRead.EDIT)
    if apart < LEAST_ANGLE:
        raise InputError(
            "Both sentences mean the same to this CLIP: there is no direction from one to the "
            "other. Give two that differ in what is to change."
        )
    return F.normalize(target - source, dim=1)


def turn(
    latents: Latents, direction: Tensor, generator: LoadedGenerator, strengths: Tensor
) -> Latents:
    """One image at N strengths [N] from 0, the image, to 1, the direction itself."""
    count = len(strengths)
    if latents.embedding.ndim == 3:
        raise InputError("An image of several embeddings cannot be turned. Edit, then mix.")
    t = strengths.to(generator.device)[:, None]
    turned = slerp(latents.embedding.expand(count, -1), direction.expand(count, -1), t)
    embedding = generator.encoder_id.normalise(turned)
    w = latents.w.expand(*latents.w.shape[:-2], count, -1)
    z, noise = (None if x is None else x.expand(count, -1) for x in (latents.z, latents.noise))
    return replace(latents, embedding=embedding, w=w, z=z, noise=noise)


def strength_steps(strengths: float | Sequence[float]) -> Tensor:
    """[N] float64; InputError outside [0, 1]."""
    found = torch.tensor(
        [strengths] if isinstance(strengths, int | float) else list(strengths), dtype=torch.float64
    )
    if not len(found) or not bool(((found >= 0) & (found <= 1)).all()):
        raise InputError(
            f"The strength must lie between 0, the image, and 1, not {strengths}. "
            ".25 to .5 change one thing and leave the rest."
        )
    return found
