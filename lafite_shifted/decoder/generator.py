"""The decoder: StyleGAN2 synthesis (arXiv:1912.04958) conditioned on a CLIP image embedding as
Lafite does (arXiv:2111.13792, section 3.2): each layer's own two small FC layers see the condition,
their output joins w.

Shape letters: N batch, Z latent, V w space, D embedding, C H W activation.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lafite_shifted.decoder.layers import (
    EqualLinear,
    EqualLinears,
    ModulatedConv2d,
    ModulatedToRgb,
    checkpointed,
    clamp_of,
)
from torch_utils.host_reads import HostRead, on_host
from torch_utils.ops import synthesis_epilogue
from torch_utils.ops.upfirdn2d import upsample


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of the generator."""

    resolution: int = 64  # pixels, a power of two from 8
    condition_dim: int = 256  # D, by default that of the shipped CLIP
    channel_base: int = 16384  # channels at resolution r: min(channel_base / r, channel_max)
    channel_max: int = 512
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    condition_lr_multiplier: float = 0.01  # of the per-layer condition layers
    # the map of 4x4 that all begins with is of each image's condition and w, not the same for all
    conditional_start: bool = False
    noise: bool = True  # per pixel, of learned strength, in each layer; off for flat drawings
    clamp: float | None = None  # of activations and colours, in every dtype; None: see clamp_of

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        if not (self.mapping_lr_multiplier > 0 and self.condition_lr_multiplier > 0):
            raise ValueError("mapping_lr_multiplier and condition_lr_multiplier must be above 0")
        if min(self.channel_base // self.resolution, self.channel_max, self.z_dim, self.w_dim) < 1:
            raise ValueError(
                "channel_base / resolution, channel_max, z_dim and w_dim must be at least 1"
            )
        if self.clamp is not None and not self.clamp > 0:
            raise ValueError(f"clamp must be above 0, not {self.clamp}")

    def channels(self, resolution: int) -> int:
        """Channels of the activations at `resolution`."""
        return min(self.channel_base // resolution, self.channel_max)


def check_resolution(resolution: int) -> None:
    """ValueError unless `resolution` is a power of two from 8 to 4096."""
    if not (8 <= resolution <= 4096 and resolution & (resolution - 1) == 0):
        raise ValueError(f"resolution must be a power of two from 8 to 4096, not {resolution}")


class Mapping(nn.Module):
    """z [N, Z] -> w [N, V]; z is normalised to unit second moment. Tracks the average w for
    truncation.
    """

    w_average: Tensor

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        dims = [config.z_dim] + [config.w_dim] * config.mapping_layers
        rate = config.mapping_lr_multiplier
        self.layers = nn.ModuleList(
            EqualLinear(i, o, activation="leaky_relu", learning_rate_multiplier=rate)
            for i, o in pairwise(dims)
        )
        self.register_buffer("w_average", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, *, truncation: float = 1.0) -> Tensor:
        """`truncation` below 1 pulls w towards its average (arXiv:1912.04958, appendix)."""
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = layer(x)
        return x if truncation == 1.0 else self.w_average.lerp(x, truncation)

    @torch.no_grad()
    def track(self, w_mean: Tensor, *, decay: float = 0.995) -> None:
        """Move the average towards `w_mean` [V], the mean w of a batch."""
        assert w_mean.shape == self.w_average.shape, "w_mean is one w, not a batch of them"
        self.w_average.lerp_(w_mean, 1 - decay)


class Styles(nn.Module):
    """Joins w with each layer's own view of the condition: [N, V] and [N, D] -> [L, N, 2 V]."""

    def __init__(self, config: GeneratorConfig, num_layers: int):
        super().__init__()
        rate = config.condition_lr_multiplier
        hidden = (config.condition_dim + config.w_dim) // 2
        self.num_layers = num_layers
        self.first = EqualLinears(
            num_layers, config.condition_dim, hidden, learning_rate_multiplier=rate
        )
        self.second = EqualLinears(num_layers, hidden, config.w_dim, learning_rate_multiplier=rate)

    def forward(self, w: Tensor, condition: Tensor) -> Tensor:
        """w [N, V] or [L, N, V], condition [N, D] or [L, N, D] -> [L, N, 2 V]."""
        views = self.second(self.first(condition.expand(self.num_layers, -1, -1)))  # [L, N, V]
        return torch.cat([w.expand(self.num_layers, -1, -1), views], dim=2)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, demodulation, noise, bias, leaky ReLU."""

    noise_buffer: Tensor

    def __init__(self, config: GeneratorConfig, num_inputs: int, resolution: int, *, up: bool):
        super().__init__()
        num_outputs = config.channels(resolution)
        self.resolution, self.clamp = resolution, config.clamp
        self.conv = ModulatedConv2d(num_inputs, num_outputs, style_dim=2 * config.w_dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()), requires_grad=config.noise)
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self.register_buffer("noise_buffer", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        """x [N, I, H, W], style [N, S] -> [N, O, R, R]; `noise` [N, 1, R, R], or None for the
        fixed buffer.
        """
        y, demodulation = self.conv(x, style)
        noise = self.noise_buffer if noise is None else noise
        return synthesis_epilogue(
            *(y, demodulation, noise, self.noise_strength, self.bias),
            clamp=clamp_of(y.dtype, self.clamp),
        )


class Generator(nn.Module):
    """Latents z [N, Z] and standardised conditions [N, D] -> images [N, 3, R, R], about [-1, 1].

    A condition of zeros is "no condition" (the mean embedding). `compute_dtype` is the dtype of
    activations.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.activation_checkpointing = False  # activations again for the gradient
        self.mapping = Mapping(config)
        channels = config.channels(4)
        self.constant = nn.Parameter(torch.randn(1, channels, 4, 4))
        style_dim = 2 * config.w_dim
        self.start: EqualLinear | None = None  # added to the constant; nothing at first
        if config.conditional_start:
            self.start = EqualLinear(style_dim, channels * 16)
            nn.init.zeros_(self.start.weight)
        layers = [SynthesisLayer(config, channels, 4, up=False)]
        to_rgbs = [ModulatedToRgb(channels, style_dim=style_dim, clamp=config.clamp)]
        resolution = 8
        while resolution <= config.resolution:
            layers.append(SynthesisLayer(config, channels, resolution, up=True))
            channels = config.channels(resolution)
            layers.append(SynthesisLayer(config, channels, resolution, up=False))
            to_rgbs.append(ModulatedToRgb(channels, style_dim=style_dim, clamp=config.clamp))
            resolution *= 2
        self.layers = nn.ModuleList(layers)
        self.to_rgbs = nn.ModuleList(to_rgbs)  # a resolution's image, added to the lower ones'
        self.styles = Styles(config, len(layers) + len(to_rgbs))

    @property
    def num_noise(self) -> int:
        """Numbers of synthesis noise that one image takes."""
        if not self.config.noise:
            return 0
        return sum(layer.resolution**2 for layer in self.layers)  # type: ignore[misc, operator]

    def forward(
        self, z: Tensor, condition: Tensor, *, noise: Tensor | None = None, truncation: float = 1.0
    ) -> Tensor:
        """`noise` [N, num_noise] standard normal, or None for the fixed buffers; `truncation` pulls
        w to its mean.
        """
        w = self.mapping(z, truncation=truncation)  # [N, V]
        return self.synthesise(w, condition, noise=noise)

    def synthesise(self, w: Tensor, condition: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """The part after the mapping network; w and condition may be of each layer, [L, N, V] and
        [L, N, D].
        """
        styles = self.styles(w, condition).unbind()  # of the layers, then of the to_rgbs
        of_layers, of_rgbs = styles[: len(self.layers)], styles[len(self.layers) :]
        noises = self.split_noise(noise)
        x = self.first_map(of_layers[0]).to(self.compute_dtype)
        x = x.expand(of_layers[0].shape[0], -1, -1, -1)  # [N, C, 4, 4]
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.layers[0](x, of_layers[0], noises[0])
        rgb = self.to_rgbs[0](x, of_rgbs[0])
        for number, rgb_style in enumerate(of_rgbs[1:], start=1):
            pair = slice(2 * number - 1, 2 * number + 1)
            x, rgb = checkpointed(
                self._block,
                *(x, rgb, number, of_layers[pair], rgb_style, noises[pair]),
                when=self.activation_checkpointing,
            )
        return rgb

    def first_map(self, style: Tensor) -> Tensor:
        """What the first layer with style [N, S] takes: [N, C, 4, 4], or [1, C, 4, 4] for all."""
        if self.start is None:
            return self.constant
        return self.constant + self.start(style).unflatten(1, self.constant.shape[1:])

    def _block(
        self,
        x: Tensor,
        rgb: Tensor,
        number: int,
        styles: tuple[Tensor, ...],
        rgb_style: Tensor,
        noises: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """Both layers of a resolution; its image [N, 3, R, R] on top of the lower one, `rgb`."""
        x = self.layers[2 * number - 1](x, styles[0], noises[0])
        x = self.layers[2 * number](x, styles[1], noises[1])
        return x, upsample(rgb, add=self.to_rgbs[number](x, rgb_style))

    def split_noise(self, noise: Tensor | None) -> list[Tensor | None]:
        """[N, num_noise] -> [N, 1, R, R] for each layer; None stays None."""
        if noise is None or not self.config.noise:
            return [None] * len(self.layers)
        sizes = [layer.resolution for layer in self.layers]
        parts = noise.split([size**2 for size in sizes], dim=1)  # type: ignore[operator]
        return [part.view(-1, 1, size, size) for part, size in zip(parts, sizes, strict=True)]  # type: ignore


def to_uint8(images: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] -> [N, H, W, 3] uint8 on the CPU."""
    levels = (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return on_host(levels.permute(0, 2, 3, 1).contiguous(), HostRead.IMAGES)
