"""Projection: the w and noise with which the generator gives an image back, its CLIP embedding held
(the bipartite representation of arXiv:2204.06125, section 3; w as arXiv:1912.04958, section 5, one
for each style as arXiv:1904.03189).

Shape letters: N candidates, D embedding, V w space, L styles, R resolution.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.decoder.generator import to_uint8
from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.editing.latents import Latents
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, numbers
from torch_utils.torch_defaults import plain_settings

EDIT = HostRead.EDIT
DECAY_STEPS = 100  # the learning rate falls with 1 / sqrt(1 + step / this), however long the run


@dataclass(frozen=True)
class ProjectionConfig:
    """How w and noise are optimised."""

    learning_rate: float = 0.05  # of Adam, in standard deviations of w
    clip_weight: float = 0.1  # of 1 - cosine of the CLIP embeddings, beside the mean square error
    candidates: int = 32  # seeds, the best of which is where it begins
    per_style: bool = True  # a w for each style; one for all gives back less
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.clip_weight >= 0 and self.candidates >= 1):
            raise InputError(
                "A projection needs a learning rate above 0, a CLIP weight of at least 0 and one "
                f"candidate, not {self.learning_rate}, {self.clip_weight} and {self.candidates}."
            )


class Projection:
    """The state of one, which can be saved after any step: the same steps in two parts are the same
    bit for bit on a CPU.
    """

    def __init__(
        self,
        generator: LoadedGenerator,
        clip: ClipEncoder,
        target: Tensor,
        embedding: Tensor,
        config: ProjectionConfig,
    ):
        """`target` [1, 3, R, R] uint8, `embedding` [1, D] of the whole image."""
        self.generator, self.clip, self.config, self.embedding = generator, clip, config, embedding
        self.target_uint8 = target
        self.target = target.to(generator.device).float() / 127.5 - 1
        self.step = 0
        w, self.spread = self._best_candidate()
        if config.per_style:
            w = w.expand(generator.num_styles, -1, -1)
        self.w = w.clone().requires_grad_()
        size = generator.network.generator.num_noise
        buffers = _noise_buffers(generator) if size else torch.zeros(1, 0)
        self.noise = buffers.to(generator.device).clone().requires_grad_(size > 0)
        self.best_loss, self.best_w, self.best_noise = (
            math.inf,
            self.w.detach(),
            self.noise.detach(),
        )
        values = [self.w, self.noise] if size else [self.w]
        self.moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in values]

    @plain_settings()
    @torch.no_grad()
    def _best_candidate(self) -> tuple[Tensor, float]:
        """w [1, V] of the seed whose image is nearest, and the standard deviation of w."""
        config = self.config
        w = self.generator.w(range(config.seed, config.seed + max(config.candidates, 2)))
        losses = torch.cat([self._loss(row[None], None) for row in w[: config.candidates]])
        best, spread = numbers([losses.argmin(), w.std(dim=0).square().mean().sqrt()], EDIT)
        return w[int(best)][None], spread

    def _loss(self, w: Tensor, noise: Tensor | None) -> Tensor:
        """[1]: of pixels in [-1, 1], and of CLIP's features."""
        image = self.generator.render_with_gradient(self.embedding, w, noise)
        pixels = (image - self.target).square().mean(dim=(1, 2, 3))
        cosine = (self.clip.embed_images(image) * self.embedding).sum(dim=1)
        return pixels + self.config.clip_weight * (1 - cosine)

    @plain_settings()
    @torch.enable_grad()
    def advance(self) -> float:
        """One step of Adam; the loss before it."""
        values = [self.w, self.noise][: len(self.moments)]
        loss = self._loss(self.w, self.noise if len(values) == 2 else None).sum()
        gradients = torch.autograd.grad(loss, values)
        (found,) = numbers([loss.detach()], EDIT)
        if found < self.best_loss:
            self.best_loss = found
            self.best_w, self.best_noise = self.w.detach().clone(), self.noise.detach().clone()
        self.step += 1
        rate = self.config.learning_rate / math.sqrt(1 + self.step / DECAY_STEPS)
        scales = (self.spread, 1.0)
        with torch.no_grad():
            for value, gradient, moments, scale in zip(
                values, gradients, self.moments, scales, strict=False
            ):
                value.sub_(_adam(gradient, *moments, step=self.step) * (rate * scale))
            if len(values) == 2:  # noise stays noise: of unit variance
                self.noise.div_(self.noise.square().mean().sqrt().clamp(min=1e-6))
        return found

    def run(self, steps: int) -> Iterator[tuple[int, float]]:
        """(step, loss) up to `steps` in all."""
        while self.step < steps:
            loss = self.advance()
            yield self.step, loss

    @property
    def latents(self) -> Latents:
        """The best so far."""
        noise = self.best_noise if self.best_noise.shape[1] else None
        return Latents(self.embedding, self.best_w, noise=noise)

    @plain_settings()
    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """PSNR in dB of the rendered image against the target at the generator's resolution, and
        the cosine of their CLIP embeddings.
        """
        best = self.latents
        image = self.generator.render(best.embedding, best.w, best.noise)
        levels = to_uint8(image).permute(0, 3, 1, 2)  # as it is saved
        embedding = self.clip.embed_images(levels)
        (cosine,) = numbers([(embedding * self.clip.embed_images(self.target_uint8)).sum()], EDIT)
        return {"psnr": psnr(levels, self.target_uint8), "cosine": cosine}

    def state(self) -> dict[str, Tensor]:
        """All that a later process continues with."""
        found = {"w": self.w, "noise": self.noise, "best_w": self.best_w}
        found |= {"best_noise": self.best_noise, "target": self.target_uint8}
        for number, (mean, square) in enumerate(self.moments):
            found |= {f"mean_{number}": mean, f"square_{number}": square}
        found["numbers"] = torch.tensor([self.step, self.best_loss], dtype=torch.float64)
        return {name: tensor.detach() for name, tensor in found.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            for name in ("w", "noise"):
                getattr(self, name).copy_(tensors[name])
            for name in ("best_w", "best_noise"):
                setattr(self, name, tensors[name].to(self.generator.device))
            for number, (mean, square) in enumerate(self.moments):
                mean.copy_(tensors[f"mean_{number}"])
                square.copy_(tensors[f"square_{number}"])
        self.step, self.best_loss = int(tensors["numbers"][0]), float(tensors["numbers"][1])

    def record(self) -> dict[str, Any]:
        """What must be the same for the state to be used."""
        return asdict(self.config)

    @property
    def target_image(self) -> Image.Image:
        """What it is projected to."""
        return Image.fromarray(self.target_uint8[0].permute(1, 2, 0).contiguous().numpy())


def _adam(gradient: Tensor, mean: Tensor, square: Tensor, *, step: int) -> Tensor:
    """Adam's direction (arXiv:1412.6980, algorithm 1), moving its moments."""
    mean.lerp_(gradient, 0.1)
    square.lerp_(gradient.square(), 0.001)
    return (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)


def _noise_buffers(generator: LoadedGenerator) -> Tensor:
    layers = generator.network.generator.layers
    return torch.cat([layer.noise_buffer.flatten() for layer in layers])[None]  # type: ignore[union-attr, operator, misc]


def psnr(a: Tensor, b: Tensor) -> float:
    """dB between levels 0 to 255; 99 where they are equal."""
    error = float((a.double() - b.double().to(a.device)).square().mean())
    return min(99.0, 10 * math.log10(255**2 / error)) if error > 0 else 99.0
