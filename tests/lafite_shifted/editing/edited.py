"""The two sentences that edits are tried on, and the pixels of latents."""

import torch

from lafite_shifted.editing.latents import Latents
from lafite_shifted.pipeline import TextToImage

TEXT, OTHER = "a red apple", "a cat"


def pixels(model: TextToImage, latents: Latents) -> torch.Tensor:
    return torch.stack(list(latents.render(model.generator)))


def same(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-3) -> bool:
    return bool((a - b).abs().max() <= atol)
