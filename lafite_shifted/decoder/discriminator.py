"""The discriminator: StyleGAN2's residual discriminator (arXiv:1912.04958) with Lafite's
conditional logit (arXiv:2111.13792, section 3.2): logit = f_d(x) + <f_s(x), h> / sqrt(D), per
sample.

Shape letters: N batch, C H W activation, D embedding, G group of the minibatch standard deviation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lafite_shifted.decoder.generator import check_resolution
from lafite_shifted.decoder.layers import EqualConv2d, EqualLinear, checkpointed


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of the discriminator."""

    resolution: int = 64  # pixels
    condition_dim: int = 256  # D, by default that of the shipped CLIP
    channel_base: int = 16384
    channel_max: int = 512
    group: int = 4  # samples of a minibatch standard deviation; 1 switches it off

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        if min(self.channel_base // self.resolution, self.channel_max, self.group) < 1:
            raise ValueError("channel_base / resolution, channel_max and group must be at least 1")

    @property
    def num_blocks(self) -> int:
        """Residual blocks: each halves the resolution, down to 4."""
        return int(math.log2(self.resolution)) - 2

    def channels(self, resolution: int) -> int:
        """Channels of the activations at `resolution`."""
        return min(self.channel_base // resolution, self.channel_max)


class ResidualBlock(nn.Module):
    """Halves the resolution; both branches are scaled by sqrt(1/2) so that their sum keeps its
    variance.
    """

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.first = EqualConv2d(num_inputs, num_inputs, kernel=3)
        self.second = EqualConv2d(num_inputs, num_outputs, kernel=3, down=True)
        self.skip = EqualConv2d(
            num_inputs, num_outputs, kernel=1, activation="linear", bias=False, down=True
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C', H / 2, W / 2]."""
        gain = math.sqrt(0.5)
        return self.second(self.first(x), gain=gain) + self.skip(x, gain=gain)


def minibatch_standard_deviation(x: Tensor, *, group: int) -> Tensor:
    """Append one channel: the mean standard deviation over groups of consecutive samples
    (arXiv:1710.10196, sec. 3).
    """
    n, _, height, width = x.shape
    size = math.gcd(n, group)
    groups = x.view(n // size, size, *x.shape[1:]).float()
    # not `var`, which takes thirty times as long on a CPU
    spread = (groups - groups.mean(dim=1, keepdim=True)).square().mean(dim=1)  # [N / G, C, H, W]
    statistic = (spread + 1e-8).sqrt().mean(dim=(1, 2, 3)).repeat_interleave(size)  # [N]
    return torch.cat([x, statistic.to(x.dtype).view(n, 1, 1, 1).expand(n, 1, height, width)], dim=1)


class Discriminator(nn.Module):
    """Images [N, 3, R, R] -> realness f_d [N] and semantic feature f_s [N, D], float32."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.activation_checkpointing = False  # activations again for the gradient
        self.from_rgb = EqualConv2d(3, config.channels(config.resolution), kernel=1)
        sizes = [config.resolution >> level for level in range(config.num_blocks)]
        self.blocks = nn.ModuleList(
            ResidualBlock(config.channels(size), config.channels(size // 2)) for size in sizes
        )
        channels = config.channels(4)
        self.last_conv = EqualConv2d(channels + (config.group > 1), channels, kernel=3)
        self.hidden = EqualLinear(channels * 16, channels, activation="leaky_relu")
        self.to_realness = EqualLinear(channels, 1)
        self.to_feature = EqualLinear(channels, config.condition_dim)

    def forward(self, images: Tensor, *, kinds: int = 1) -> tuple[Tensor, Tensor]:
        """Images [N, 3, R, R] in about [-1, 1] -> realness [N] and feature [N, D], float32. Of
        several `kinds`, as many images of each, one kind after another, none sees another's
        statistics.
        """
        assert len(images) % kinds == 0, "as many of each kind"
        # in two steps, which together take half as long on a CPU
        x = images.to(self.compute_dtype).contiguous(memory_format=torch.channels_last)
        x = self.from_rgb(x)
        for block in self.blocks:
            if self.activation_checkpointing:  # of one kind at a time is computed again
                x = torch.cat([checkpointed(block, part, when=True) for part in x.chunk(kinds)])
            else:
                x = block(x)
        if self.config.group > 1:
            group = math.gcd(len(images) // kinds, self.config.group)
            x = minibatch_standard_deviation(x, group=group)
        x = self.hidden(self.last_conv(x).float().flatten(1))  # [N, C]
        return self.to_realness(x).squeeze(1), self.to_feature(x)


def conditional_logit(realness: Tensor, feature: Tensor, condition: Tensor) -> Tensor:
    """f_d + <f_s, h> / sqrt(D), [..., N] of realness [..., N] and feature [..., N, D]; h is the
    standardised condition [N, D].
    """
    return realness + (feature * condition).sum(dim=-1) / math.sqrt(condition.shape[1])
