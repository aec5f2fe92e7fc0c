"""The held-out captions that priors are evaluated on, and embeddings that no prior predicts.

Shape letters: m captions, D embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.stored_rows import BATCH, Batches, Rows
from torch_utils import seeds
from training.data.embeddings.embedding_set import EmbeddingSet
from training.metrics.distances import nearest

UNRELATED = "real images of other names"
COPY = 0.9995  # cosine of embeddings from which on two images are one


@dataclass(frozen=True)
class EvalSet:
    """The held-out captions of a set of embeddings, and what is known of them."""

    data: EmbeddingSet
    captions: Tensor  # [m]
    true: Tensor  # [m, D]
    training: Tensor  # caption indices of the other side of the split
    copies: int  # held-out captions left out, whose image is among those trained on

    @staticmethod
    def of(data: EmbeddingSet, *, limit: int | None = None) -> "EvalSet":
        """All held-out captions, one a name, at most `limit`, without those whose image a name of
        the training side has too; InputError below 20.
        """
        held_out = data.held_out[data.caption_image]
        captions = one_a_name(data, torch.nonzero(held_out).flatten())
        training = torch.nonzero(~held_out).flatten()
        copied = _are_among(
            data.image[data.caption_image[captions]],
            data.image.take(data.caption_image[training]),
        )
        captions = captions[~copied][:limit]
        if len(captions) < 20 or len(one_a_name(data, training)) < len(captions):
            raise InputError(
                f"{len(captions)} held-out captions and {len(training)} others are too few to "
                "evaluate on: at least 20 are needed, and as many other names. Embed more "
                "captioned images."
            )
        true = data.image[data.caption_image[captions]]
        return EvalSet(data, captions, true, training, int(copied.sum()))

    def first(self, count: int) -> "EvalSet":
        """The first `count` of the captions."""
        return replace(self, captions=self.captions[:count], true=self.true[:count])


def _are_among(images: Tensor, others: Rows) -> Tensor:
    """Which of the unit rows [m, D] have a copy among `others`: booleans [m]."""
    found = torch.zeros(len(images), dtype=torch.bool)
    for _, part in Batches(others):
        found |= (images @ part.T >= COPY).any(dim=1)
    return found


def references(eval_set: EvalSet) -> Iterator[tuple[str, Tensor]]:
    """Names, and embeddings [m, D] that no prior has predicted, to compare with."""
    data, m = eval_set.data, len(eval_set.captions)
    text = data.text[eval_set.captions]
    yield "text itself (no prior)", text
    closest = eval_set.training[nearest(text, data.text.take(eval_set.training))]
    yield "nearest training caption's image", data.image[data.caption_image[closest]]
    yield UNRELATED, data.image[data.caption_image[one_a_name(data, eval_set.training)[:m]]]


def same_name(eval_set: EvalSet) -> tuple[Tensor, Tensor]:
    """Another real image [n, D] of each held-out name that has several different ones, and the
    true one: what a perfect prior would sample.
    """
    data, others = eval_set.data, dict[str, int]()
    images = data.caption_image[eval_set.captions].tolist()
    own = dict(zip((data.captions[i] for i in eval_set.captions.tolist()), images, strict=True))
    held_out = torch.nonzero(data.held_out[data.caption_image]).flatten()
    pairs = zip(held_out.tolist(), data.caption_image[held_out].tolist(), strict=True)
    named = [(data.captions[caption], image) for caption, image in pairs]
    candidates = [(name, image) for name, image in named if own.get(name, image) != image]
    for start in range(0, len(candidates), BATCH):
        part = candidates[start : start + BATCH]
        true = data.image[[own[name] for name, _ in part]]
        cosines = (data.image[[image for _, image in part]] * true).sum(dim=1)
        for (name, image), cosine in zip(part, cosines.tolist(), strict=True):
            if cosine < COPY:
                others.setdefault(name, image)
    names = sorted(others)
    return data.image[[others[n] for n in names]], data.image[[own[n] for n in names]]


def one_a_name(data: EmbeddingSet, captions: Tensor, *, most: int | None = None) -> Tensor:
    """One of the given captions of every name, chosen by a hash (the first would be of one style),
    in a fixed shuffled order, at most `most`.
    """
    texts, files = data.captions, data.names
    ranks = torch.tensor(
        [
            seeds.seed_of("held out", texts[caption], files[int(data.caption_image[caption])])
            for caption in map(int, captions.numpy())  # a tensor would be one object a row
        ],
        dtype=torch.long,
    )
    chosen: dict[str, int] = {}
    for caption in map(int, captions[ranks.argsort(stable=True)].numpy()):
        if most is not None and len(chosen) == most:
            break
        chosen.setdefault(texts[caption], caption)
    return torch.tensor(list(chosen.values()), dtype=torch.long)
