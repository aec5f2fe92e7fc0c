"""Variations of an image (arXiv:2204.06125, section 3.1): its embedding, with new z; with a spread,
embeddings around it, along the directions in which embeddings of images differ.

Shape letters: N images, D embedding.
"""

from collections.abc import Sequence

from torch import Tensor

from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.gaussian.gaussian import Gaussian
from torch_utils import seeds


def spread_embedding(
    embedding: Tensor, generator: LoadedGenerator, sample_seeds: Sequence[int], *, spread: float
) -> Tensor:
    """Embeddings [N, D] of N seeds: embedding [1, D] + spread Sigma^{1/2} n, of unit norm; Sigma of
    the training images. Spread 1 is about as far as an unrelated image; 0 is the embedding itself.
    A seed keeps its n, so that a growing spread goes one way.
    """
    if spread == 0:
        return embedding.expand(len(sample_seeds), -1)
    gaussian = Gaussian.from_stats(generator.stats).to(generator.device)
    noise = seeds.normal_per_sample((gaussian.dim,), key=("spread",), indices=sample_seeds)
    moved = embedding + spread * gaussian.color(noise.to(generator.device))
    return generator.encoder_id.normalise(moved)
