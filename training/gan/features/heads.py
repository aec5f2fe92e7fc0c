"""Small discriminators on the maps of a frozen network (arXiv:2111.01007, section 3;
arXiv:2112.09130), each with the logit of the discriminator of pixels: f_d + <f_s, h> / sqrt(D).

Shape letters: N batch, C H W activation, D embedding, S heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lafite_shifted.decoder.layers import EqualConv2d, EqualLinear

HALVED_FROM = 12  # pixels of a map: larger ones cost most, and tell least of a whole object


class Head(nn.Module):
    """A map [N, C, H, W] -> realness [N] and feature [N, D], float32: three convolutions, then the
    mean over the map.
    """

    def __init__(self, num_inputs: int, channels: int, *, size: int, condition_dim: int):
        super().__init__()
        self.mix = EqualConv2d(num_inputs, channels, kernel=1)
        self.first = EqualConv2d(channels, channels, kernel=3, down=size >= HALVED_FROM)
        self.second = EqualConv2d(channels, channels, kernel=3, down=size >= 2 * HALVED_FROM)
        self.to_realness = EqualLinear(channels, 1)
        self.to_feature = EqualLinear(channels, condition_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] of unit second moment -> [N], [N, D]."""
        x = self.second(self.first(self.mix(x)))
        pooled = x.float().mean(dim=(2, 3))  # [N, C]
        return self.to_realness(pooled).squeeze(1), self.to_feature(pooled)


class FeatureDiscriminator(nn.Module):
    """Maps of S stages -> realness [S, N] and features [S, N, D], float32."""

    def __init__(
        self, num_inputs: Sequence[int], sizes: Sequence[int], *, channels: int, condition_dim: int
    ):
        """`num_inputs` channels and `sizes` pixels of the maps."""
        super().__init__()
        self.compute_dtype = torch.float32
        self.heads = nn.ModuleList(
            Head(inputs, channels, size=size, condition_dim=condition_dim)
            for inputs, size in zip(num_inputs, sizes, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """S maps [N, C, H, W] of unit second moment -> [S, N], [S, N, D]."""
        found = [head(x.to(self.compute_dtype)) for head, x in zip(self.heads, maps, strict=True)]
        realness, features = zip(*found, strict=True)
        return torch.stack(realness), torch.stack(features)
