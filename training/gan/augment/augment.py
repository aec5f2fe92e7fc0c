"""Augmentation of the inputs of the discriminator (arXiv:2006.06676, section 2 and appendix B).

Real and generated images pass it alike, so that a discriminator cannot memorise few images. Each
transformation happens with one probability p; below about .8 a generator can undo them in its
distribution and does not learn them. Randomness is an argument, all of it is twice differentiable,
and on a GPU nothing waits for what was computed before.

Shape letters: N batch, H image.
"""

from torch import Tensor

from training.gan.augment.colour import recolour
from training.gan.augment.corruption import add_noise, cut_out, filter_bands
from training.gan.augment.geometry import move
from training.gan.augment.plan import AugmentPlan


def augment(images: Tensor, plan: AugmentPlan, noise: Tensor | None = None) -> Tensor:
    """Augment square images [N, 3, H, H] in about [-1, 1] as `plan` says; `noise` [N, 3, H, H],
    standard normal, is needed where the plan has a spread of it.
    """
    if len(plan.rows):
        images = move(images, plan.moved, plan.maps)
    if len(plan.colour):
        images = recolour(images, plan.colour)
    if len(plan.taps):
        images = filter_bands(images, plan.taps)
    if len(plan.spread):
        assert noise is not None
        images = add_noise(images, plan.spread, noise)
    return cut_out(images, plan.squares) if len(plan.squares) else images
