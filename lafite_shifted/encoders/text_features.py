"""Features of a text that condition a prior. Shape letters: N texts, L tokens, F width of the text
tower, D embedding.
"""

import re
import threading
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.errors import InputError
from torch_utils.sending import to_device

# Hugging Face's fast tokenizers refuse a second thread
TOKENIZING = threading.Lock()


def clean_text(text: object) -> str:
    """The text as an encoder takes it: what is no character (bytes of another encoding on the
    command line, halves of one in Python) becomes U+FFFD. InputError for what is no text, or empty.
    """
    if not isinstance(text, str):
        raise InputError(
            f"{text!r:.60} is no text but {type(text).__name__}. Give a sentence, such as 'a red "
            "apple'."
        )
    text = re.sub("[\ud800-\udfff]", "\ufffd", text).replace("\0", "\ufffd")
    if not text.strip():
        raise InputError("A sentence is empty. Write one, such as: a red apple")
    return text


@dataclass(frozen=True)
class TextFeatures:
    """Features of N texts that condition a prior."""

    embedding: Tensor  # [N, D] unit float32
    # [N, L, F] float32, states after the final norm, zero behind the end of text; L is at least the
    # longest of `lengths`
    tokens: Tensor
    # [N] int64, tokens up to and including end-of-text; on the CPU: what is computed depends on it
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: slice | Tensor) -> "TextFeatures":
        """A tensor of rows is on the CPU."""
        there = to_device(index, self.tokens.device) if isinstance(index, Tensor) else index
        return TextFeatures(self.embedding[there], self.tokens[there], self.lengths[index])

    def to(self, device: torch.device) -> "TextFeatures":
        """`lengths` stay on the CPU; a GPU is not waited for."""
        embedding, tokens = (to_device(x, device) for x in (self.embedding, self.tokens))
        return TextFeatures(embedding, tokens, self.lengths)

    def joined(self, other: "TextFeatures") -> "TextFeatures":
        """These texts, then those of `other`."""
        longest = max(self.tokens.shape[1], other.tokens.shape[1])
        tokens = [
            F.pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in (self, other)
        ]
        return TextFeatures(
            torch.cat([self.embedding, other.embedding]),
            torch.cat(tokens),
            torch.cat([self.lengths, other.lengths]),
        )
