"""Small priors, texts and images that the tests of priors share.

Shape letters: N batch, D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.prior.network import (
    PriorConfig,
)
from lafite_shifted.prior.prior import Prior

TINY = PriorConfig(
    embed_dim=16, token_width=8, context_length=5, width=64, depth=2, heads=4
)  # D, F, L
YES = torch.ones(8, dtype=torch.bool)
TIMES = torch.tensor([1, 2, 50, 200, 400, 600, 900, 1000])


def random_text(seed: int = 1) -> TextFeatures:
    """Eight texts; each embedding is shared by two, so that only the tokens tell them apart."""
    generator = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(4, 16, generator=generator), dim=1).repeat(2, 1)
    lengths = torch.tensor([5, 4, 3, 2, 1, 5, 3, 2])
    return TextFeatures(embedding, torch.randn(8, 5, 8, generator=generator), lengths)


def random_images(seed: int = 2, *, count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 16, generator=generator) + 0.4, dim=1)


def ask(
    prior: Prior,
    text: TextFeatures,
    has_text: Tensor | None = None,
    t: Tensor | None = None,
    *,
    z_t: Tensor | None = None,
    cluster: Tensor | None = None,
) -> Tensor:
    """One prediction for each text."""
    cluster = prior.assign(text.embedding) if cluster is None else cluster
    cache = prior.cache_text(text, YES[: len(text)] if has_text is None else has_text, cluster)
    z_t = random_images(3, count=len(text)) if z_t is None else z_t
    t = TIMES[: len(text)] if t is None else t
    return prior.predict(z_t, t, prior.gaussian_of(cluster), cache)


def predict(prior: Prior, *args, **kwargs) -> Tensor:
    with torch.no_grad():
        return ask(prior, *args, **kwargs)
