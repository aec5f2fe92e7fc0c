"""Augmentation of the inputs of the discriminator (arXiv:2006.06676, section 2 and appendix B).

Real and generated images pass it alike, so that a discriminator cannot memorise few images. Each
transformation happens with one probability p; below about .8 a generator can undo them in its
distribution and does not learn them. Randomness is an argument, all of it is twice differentiable,
and on a GPU nothing waits for what was computed before.

Shape letters: N batch, H image.
"""

from torch import Tensor

from training.gan.augment.colour import recolour
from training.gan.augment.config import AugmentConfig
from training.gan.augment.corruption import add_noise, cut_out, filter_bands
from training.gan.augment.geometry import move
from training.gan.augment.random_numbers import AugmentNumbers


def augment(
    images: Tensor,
    uniform: Tensor,
    *,
    config: AugmentConfig,
    probability: Tensor,
    noise: Tensor | None = None,
) -> Tensor:
    """Augment square images [N, 3, H, H] in about [-1, 1] with `uniform` [N, NUM_COLUMNS] in
    [0, 1).

    `probability` [N] is of each transformation; `noise` [N, 3, H, H], standard normal, is needed
    where config.noise is not 0.
    """
    if not config.is_on or (not images.is_cuda and not bool(probability.any())):
        return images
    numbers = AugmentNumbers(uniform, probability)
    coloured = recolour(move(images, numbers, config), numbers, config)
    noisy = add_noise(filter_bands(coloured, numbers, config), numbers, config, noise)
    return cut_out(noisy, numbers, config)
