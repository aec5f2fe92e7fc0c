"""What the tokens of the prior's network attend to: masks, and keys and values that are computed
once.

The sequence is [text tokens, text embedding, cluster, time, noisy embedding, query]. Shape letters
as in `network`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NUM_CONDITION_TOKENS = 2  # behind the tokens: text embedding, cluster (0 without)
NUM_QUERY_TOKENS = 3  # time, noisy embedding, query


@dataclass(frozen=True)
class TextCache:
    """Keys and values of the condition tokens of N texts."""

    blocks: list[Tensor]  # keys and values, [2, N, heads, P, W / heads]
    visible: Tensor  # [N, P] bool: not what is dropped or lies behind the end of a text

    def __getitem__(self, rows: Tensor) -> "TextCache":
        return TextCache([block[:, rows] for block in self.blocks], self.visible[rows])


@dataclass(frozen=True)
class StepCache:
    """The same with the token of a timestep, and the mask of what R samples add behind it."""

    blocks: list[Tensor]  # [2, N, heads, P + 1, W / heads]
    mask: Tensor  # [N, 1, 2 R, P + 1 + 2 R]

    @property
    def num_samples(self) -> int:
        """N R."""
        return self.mask.shape[0] * self.mask.shape[2] // (NUM_QUERY_TOKENS - 1)


def what_is_visible(lengths: Tensor, has_text: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Of texts of `lengths` [N], padded to `num_tokens`: what is neither dropped nor padding,
    [N, P] bool, and the numbers of those of its N P places. On the CPU.
    """
    visible = visible_places(torch.where(has_text, lengths, 0), num_tokens)
    return visible, visible.flatten().nonzero().flatten()


def visible_places(lengths: Tensor, num_tokens: int) -> Tensor:
    """[N, P] bool: what is no padding; of a text of length 0 only what stands behind the tokens."""
    index = torch.arange(num_tokens + NUM_CONDITION_TOKENS)
    return (index < lengths[:, None]) | (index >= num_tokens)


def text_mask(visible: Tensor) -> Tensor:
    """[N, 1, P, P] True where attention may look: causal, at what is visible [N, P] and itself."""
    size = visible.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=visible.device).tril()
    itself = torch.eye(size, dtype=torch.bool, device=visible.device)  # no row is empty
    return ((causal & visible[:, None, :]) | itself)[:, None]


def query_mask(visible: Tensor, repeats: int, num_tokens: int = NUM_QUERY_TOKENS) -> Tensor:
    """[N, 1, Q R, P + Q R] True where attention may look: at what is visible [N, P] of the text,
    and causally within its own timestep or sample, of Q = `num_tokens` tokens.
    """
    one = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=visible.device).tril()
    own = torch.block_diag(*[one] * repeats).bool()  # [Q R, Q R]
    text = visible[:, None, :].expand(-1, len(own), -1)
    return torch.cat([text, own.expand(visible.shape[0], -1, -1)], dim=2)[:, None]
