"""How images are generated, as one object, and the forms in which users ask for them: seeds or
PyTorch's generators, images as PIL, tensors or arrays.

Shape letters: N images, D embedding, R resolution.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.decoder.generator import to_uint8
from lafite_shifted.errors import InputError
from lafite_shifted.prior.samplers import SamplerConfig
from torch_utils.host_reads import HostRead, on_host

OutputType = Literal["pil", "pt", "np"]
Output = list[Image.Image] | Tensor | np.ndarray
Seeds = int | Sequence[int]
# (model, step number, time t, {"latents": noisy embeddings [N, D]}) -> such a dict to continue
# with, or None: as diffusers' callback_on_step_end
Callback = Callable[..., "dict[str, Tensor] | None"]
NEGATIVE_GUIDANCE = 2.0  # where there is a negative prompt and no guidance is chosen


@dataclass(frozen=True)
class Generation:
    """What holds for all images of a call."""

    use_prior: bool = True
    sampling: SamplerConfig | None = None  # of the prior; None: what suits it
    truncation: float = 1.0  # pulls w towards its mean below 1
    negative_prompt: str | None = None  # what the prior's guidance leads away from
    callback_on_step_end: Callback | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.truncation):
            raise InputError(f"truncation must be finite, not {self.truncation}. Give 1 for none.")
        if self.negative_prompt is None:
            return
        if not self.use_prior:
            raise InputError(
                "A negative prompt acts through the guidance of the prior, which is not used. "
                "Use the prior, or leave the negative prompt out."
            )
        if self.sampling is not None and self.sampling.guidance == 1.0:
            raise InputError(
                "A negative prompt acts through guidance, and guidance 1 is none. Give one above "
                "1, such as 2."
            )

    @property
    def chosen_sampling(self) -> SamplerConfig:
        """`sampling`, or the default one; with a negative prompt it is guided."""
        if self.sampling is not None:
            return self.sampling
        return SamplerConfig(guidance=1.0 if self.negative_prompt is None else NEGATIVE_GUIDANCE)


def sampling_of(
    sampling: SamplerConfig | None,
    steps: int | None,
    guidance: float | None,
    negative_prompt: str | None,
) -> SamplerConfig | None:
    """`sampling`, or one of what else a caller says; None where nothing is said."""
    if steps is None and guidance is None:
        return sampling
    if sampling is not None:
        raise InputError("`sampling` holds steps and guidance too. Give them there.")
    usual = 1.0 if negative_prompt is None else NEGATIVE_GUIDANCE
    try:
        return SamplerConfig(steps, guidance=usual if guidance is None else guidance)
    except (TypeError, ValueError) as error:
        raise InputError(f"{error}. Give such as num_inference_steps=4.") from error


def seeds_of(
    num_prompts: int,
    num_images: int,
    *,
    seed: Seeds | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> list[Sequence[int]]:
    """The seeds of each prompt's images: seed, seed + 1, ...; or those of a sequence, for every
    prompt; or one drawn from `generator` for each image, or from each of as many generators as
    there are images.
    """
    if num_images < 1:
        raise InputError(f"num_images must be at least 1, not {num_images}.")
    if seed is not None and generator is not None:
        raise InputError("Give a seed or a generator, which draws seeds, one of the two.")
    if generator is None:
        seed = 0 if seed is None else seed
        if isinstance(seed, int | np.integer):
            return [range(int(seed), int(seed) + num_images)] * num_prompts
        is_list = isinstance(seed, Sequence | np.ndarray) and len(seed) > 0
        if not is_list or not all(isinstance(number, int | np.integer) for number in seed):
            raise InputError("Seeds are whole numbers, one an image. Give such as seed=[3, 7].")
        if num_images not in (1, len(seed)):
            raise InputError(
                f"{len(seed)} seeds are as many images of each prompt, not {num_images}. Leave "
                "num_images out."
            )
        return [[int(number) for number in seed]] * num_prompts
    total = num_prompts * num_images
    if isinstance(generator, torch.Generator):
        drawn = [_drawn(generator) for _ in range(total)]
    elif len(generator) == total:
        drawn = [_drawn(own) for own in generator]
    else:
        raise InputError(
            f"{len(generator)} generators for {total} images. Give one, or one an image."
        )
    return [drawn[n * num_images : (n + 1) * num_images] for n in range(num_prompts)]


def _drawn(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def batches(
    seeds: Sequence[Sequence[int]], batch: int
) -> Iterator[tuple[range, Iterator[list[Sequence[int]]]]]:
    """Prompts whose images share forward passes of at most `batch`, and for each pass the seeds of
    each of them: several prompts whole, or one in parts.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, not {batch}.")
    start = 0
    for length, group in groupby(seeds, key=len):
        end = start + len(list(group))
        together = max(1, batch // max(1, length))
        for first in range(start, end, together):
            prompts = range(first, min(first + together, end))
            if length:
                yield prompts, _passes([seeds[n] for n in prompts], batch)
        start = end


def _passes(seeds: list[Sequence[int]], batch: int) -> Iterator[list[Sequence[int]]]:
    size = max(1, batch // len(seeds))
    for first in range(0, len(seeds[0]), size):
        yield [own[first : first + size] for own in seeds]


def as_output(batches: Iterable[Tensor], output_type: OutputType) -> Output:
    """Images [n, 3, R, R], about [-1, 1], of several batches: as a list of PIL images; as "pt", a
    tensor [N, 3, R, R] in [0, 1]; as "np", such an array [N, R, R, 3].
    """
    if output_type == "pil":
        return [to_pil(levels) for images in batches for levels in to_uint8(images)]
    if output_type not in ("pt", "np"):
        raise InputError(f"output_type {output_type!r} is not known. Choose pil, pt or np.")
    unit = (torch.cat(list(batches)).float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return unit
    return on_host(unit.permute(0, 2, 3, 1), HostRead.IMAGES).numpy()


def to_pil(levels: Tensor) -> Image.Image:
    """[R, R, 3] uint8 on the CPU."""
    return Image.fromarray(levels.numpy())
