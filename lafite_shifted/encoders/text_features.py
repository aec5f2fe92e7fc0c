"""What a prior sees of a text. Shape letters: N texts, L tokens, F width of the text tower, D
embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextFeatures:
    """What a prior sees of N texts."""

    embedding: Tensor  # [N, D] unit float32
    tokens: Tensor  # [N, L, F] float32, states after the final norm, zero behind the end of text
    lengths: Tensor  # [N] int64, tokens up to and including end-of-text

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: slice | Tensor) -> "TextFeatures":
        return TextFeatures(self.embedding[index], self.tokens[index], self.lengths[index])

    def to(self, device: torch.device) -> "TextFeatures":
        return TextFeatures(
            self.embedding.to(device), self.tokens.to(device), self.lengths.to(device)
        )
