"""R-precision (arXiv:1711.10485, section 4.1): is the right sentence, among 100, the nearest to the
image? By chance it is for 1 % of images.

Shape letters: N images, T different sentences, C sentences to choose from, D embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_utils import seeds

CHOICES = 100  # C: the right sentence, and others drawn at random


def plain(text: str) -> str:
    """By which two sentences are one."""
    return " ".join(text.lower().split())


@dataclass(frozen=True)
class SentenceChoice:
    """The sentences that each of N images is compared with."""

    texts: Tensor  # [T, D] unit embeddings
    choices: Tensor  # [N, C] indices of them, without repetition; the right one comes first

    @staticmethod
    def of(
        texts: Sequence[str], embed: Callable[[Sequence[str]], Tensor], *, seed: int = 0
    ) -> "SentenceChoice | None":
        """Of the sentences of N images; the others are sampled from those of all, fewer than 99
        where there are not so many different ones. None where all are the same.
        """
        distinct = {plain(text): text for text in texts}
        index = {key: number for number, key in enumerate(distinct)}
        most = min(CHOICES, len(distinct)) - 1
        if most < 1:
            return None
        rows = []
        for row, text in enumerate(texts):
            right = index[plain(text)]
            order = seeds.generator("r-precision", seed, row)
            others = torch.randperm(len(distinct) - 1, generator=order)[:most]
            others = others + (others >= right).long()  # the right one is skipped
            rows.append(torch.cat([torch.tensor([right]), others]))
        return SentenceChoice(embed(list(distinct.values())), torch.stack(rows))

    def precision(self, images: Tensor) -> float:
        """Share of embeddings [N, D] nearer to the right sentence than to all others; ties count
        against it.
        """
        similarity = (images @ self.texts.T).gather(1, self.choices)  # [N, C]
        nearest = (similarity[:, 1:] < similarity[:, :1]).all(dim=1)
        return float(nearest.float().mean())
