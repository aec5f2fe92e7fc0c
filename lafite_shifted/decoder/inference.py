"""A generator that is no longer trained: kernels are prepared once, and everything between two
convolutions is one call (`SynthesisTail`).

Same weights, same images as `Generator` to rounding. Shape letters as there.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lafite_shifted.decoder.generator import Generator, GeneratorConfig, Mapping, SynthesisLayer
from lafite_shifted.decoder.layers import clamp_of, convolve, demodulation
from torch_utils.ops import SynthesisTail
from torch_utils.ops.upfirdn2d import upsample


class PreparedLayer(NamedTuple):
    """A layer and all that it computes without the activations."""

    kernel: Tensor
    up: bool
    tail: SynthesisTail

    def run(self, x: Tensor, lower: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [N, I, H, W], scaled by the layer's style already -> what SynthesisTail gives."""
        return self.tail(convolve(x, self.kernel, up=self.up), lower)


class FrozenLayer(nn.Module):
    """The kernel of a synthesis layer and the squares of its weight, prepared."""

    kernel: Tensor
    squares: Tensor

    def __init__(self, layer: SynthesisLayer, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.register_buffer("kernel", layer.conv.kernel(dtype), persistent=False)
        self.register_buffer("squares", layer.conv.squares(), persistent=False)

    def forward(
        self,
        layer: SynthesisLayer,
        scale: Tensor,
        noise: Tensor | None,
        *,
        rgb: tuple[Tensor, Tensor] | None,
        after: Tensor | None,
    ) -> PreparedLayer:
        """`layer` is the one that this was prepared of; scale [N, I] of its input; `rgb` and
        `after` as SynthesisTail takes them.
        """
        tail = SynthesisTail(
            demodulation(scale, self.squares),
            layer.noise_buffer if noise is None else noise,
            layer.noise_strength,
            layer.bias,
            dtype=self.dtype,
            filtered=layer.conv.up,
            clamp=clamp_of(self.dtype, layer.clamp),
            rgb=rgb,
            after=after,
        )
        return PreparedLayer(self.kernel, layer.conv.up, tail)


class InferenceGenerator(nn.Module):
    """`generator` with its weights frozen; called as it is. Later changes of the weights are not
    seen by what was prepared: freeze again.
    """

    def __init__(self, generator: Generator, dtype: torch.dtype):
        super().__init__()
        self.generator = generator.eval().requires_grad_(False)
        self.compute_dtype = dtype
        self.layers = nn.ModuleList(FrozenLayer(layer, dtype) for layer in generator.layers)  # type: ignore[arg-type]

    @property
    def config(self) -> GeneratorConfig:
        """That of the generator."""
        return self.generator.config

    @property
    def mapping(self) -> Mapping:
        """That of the generator."""
        return self.generator.mapping

    def forward(
        self, z: Tensor, condition: Tensor, *, noise: Tensor | None = None, truncation: float = 1.0
    ) -> Tensor:
        """As `Generator`."""
        w = self.generator.mapping(z, truncation=truncation)  # [N, V]
        return self.synthesise(w, condition, noise=noise)

    def synthesise(self, w: Tensor, condition: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """As `Generator.synthesise`. What does not need the activations comes first: between two
        convolutions, which leave nothing of it in the caches, a call costs several times as much.
        """
        generator = self.generator
        styles = generator.styles(w, condition).unbind()  # of the layers, then of the to_rgbs
        count = len(self.layers)
        scales = [
            layer.conv.to_scale(style)  # type: ignore[operator, union-attr]
            for layer, style in zip(generator.layers, styles[:count], strict=True)
        ]
        rgbs = [
            (to_rgb.scaled_weight(style), to_rgb.bias)  # type: ignore[operator]
            for to_rgb, style in zip(generator.to_rgbs, styles[count:], strict=True)
        ]
        noises = generator.split_noise(noise)
        layers = [
            self.layers[number](
                layer,
                scales[number],
                noises[number],
                rgb=None if number % 2 else rgbs[number // 2],
                after=scales[number + 1] if number + 1 < count else None,
            )
            for number, layer in enumerate(generator.layers)
        ]
        x = generator.first_map(styles[0]).to(self.compute_dtype)
        x = x * scales[0].to(self.compute_dtype)[:, :, None, None]
        x, rgb = layers[0].run(x.contiguous(memory_format=torch.channels_last))
        clamped = generator.config.clamp is not None  # then each image before it is added
        rgb = generator.to_rgbs[0].clamped(rgb)  # type: ignore[operator]
        for number, (first, second) in enumerate(zip(layers[1::2], layers[2::2], strict=True), 1):
            x, _ = first.run(x)
            if clamped:
                x, own = second.run(x)
                rgb = upsample(rgb, add=generator.to_rgbs[number].clamped(own))  # type: ignore[operator]
            else:
                x, rgb = second.run(x, rgb)
        return rgb


def freeze_for_inference(
    generator: Generator, *, dtype: torch.dtype = torch.float32
) -> InferenceGenerator:
    """`generator`, frozen in place, with activations of `dtype`."""
    return InferenceGenerator(generator, dtype)
