"""Style mixing (arXiv:1812.04948, section 3.1): some layers of one image take what another one is
made of, the embedding and w, so that coarse things come from one and fine ones from the other.

Shape letters: N images, D embedding, V w space, L styles.
"""

from collections.abc import Collection
from itertools import pairwise

import torch

from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.editing.latents import Latents
from lafite_shifted.errors import InputError


def layer_table(generator: LoadedGenerator) -> str:
    """The layers and their resolutions, for people."""
    sizes: dict[int, list[int]] = {}
    for number, layer in enumerate(generator.network.generator.layers):
        sizes.setdefault(int(layer.resolution), []).append(number)  # type: ignore[arg-type]
    parts = (
        f"{numbers[0]}-{numbers[-1]}: {size} pixels" if len(numbers) > 1 else f"0: {size} pixels"
        for size, numbers in sizes.items()
    )
    return ", ".join(parts)


def thirds(generator: LoadedGenerator) -> list[tuple[int, ...]]:
    """The coarse, the middle and the fine layers."""
    count = len(generator.network.generator.layers)
    ends = [round(count * part / 3) for part in range(4)]
    return [tuple(range(a, b)) for a, b in pairwise(ends) if a < b]


def style_mix(
    a: Latents, b: Latents, generator: LoadedGenerator, layers: Collection[int]
) -> Latents:
    """a, with these convolution layers from b; the colours of a resolution, which its last layer
    gives, go with that layer. InputError for layers that are not there.
    """
    num_layers = len(generator.network.generator.layers)
    outside = sorted(set(layers) - set(range(num_layers)))
    if outside:
        raise InputError(
            f"There is no layer {outside[0]}. This model has {layer_table(generator)}."
        )
    # image n of a resolution stands behind layer 2 n
    behind = {num_layers + number // 2 for number in layers if number % 2 == 0}
    taken = torch.tensor(
        [style in behind or style in layers for style in range(generator.num_styles)]
    )
    taken = taken.to(generator.device)[:, None, None]  # [L, 1, 1]
    of_a, of_b = a.by_style(generator.num_styles), b.by_style(generator.num_styles)
    return Latents(
        torch.where(taken, of_b.embedding, of_a.embedding),
        torch.where(taken, of_b.w, of_a.w),
        noise=a.noise,
    )
