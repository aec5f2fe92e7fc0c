"""A generator ready to use, with what it must know of its training.

Shape letters: N batch, Z latent, V w space, D embedding, L layers, R resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lafite_shifted.decoder import graphs
from lafite_shifted.decoder.graphs import Graphed
from lafite_shifted.decoder.inference import InferenceGenerator, freeze_for_inference
from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from torch_utils import seeds
from torch_utils.sending import to_device


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator, and the statistics of the embeddings that it was trained on."""

    network: InferenceGenerator
    gaussian: Gaussian  # of its own training images; standardises conditions
    encoder_id: EncoderId
    training: dict[str, Any]  # kimg, number of images, cosine of the pseudo text
    stats: EmbeddingStats

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.mapping.w_average.device

    def to(self, device: torch.device, dtype: torch.dtype) -> "LoadedGenerator":
        """A copy there, with activations of `dtype`; the weights move."""
        network = freeze_for_inference(self.network.generator.to(device), dtype=dtype)
        return replace(self, network=network, gaussian=self.gaussian.to(device))

    def z(self, sample_seeds: Sequence[int]) -> Tensor:
        """z [N, Z] of each seed, on the device."""
        return to_device(latents(sample_seeds, self.network.config.z_dim), self.device)

    def w(self, sample_seeds: Sequence[int], *, truncation: float = 1.0) -> Tensor:
        """w [N, V] of the z of each seed."""
        return self.network.mapping(self.z(sample_seeds), truncation=truncation)

    @property
    def num_styles(self) -> int:
        """L: of the layers, then of the images of each resolution."""
        return self.network.generator.styles.num_layers

    def render(self, embeddings: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images [N, 3, R, R], about [-1, 1], of unit embeddings [N, D] or [L, N, D], and w [N, V]
        or [L, N, V], where each layer has its own; `noise` [N, num_noise], or None for the fixed
        buffers.
        """
        embeddings = to_device(embeddings, self.device)
        if self.device.type == "cuda" and noise is None and not torch.is_grad_enabled():
            return self.graphed(embeddings, w)
        condition = self.gaussian.standardise(embeddings)
        return self.network.synthesise(w, condition, noise=noise)

    @cached_property
    def graphed(self) -> Graphed:
        """`render` of embeddings and w that are on the device, by CUDA graphs."""

        def run(embeddings: Tensor, w: Tensor) -> Tensor:
            return self.network.synthesise(w, self.gaussian.standardise(embeddings))

        def reads() -> list[Tensor]:
            return [*self.network.parameters(), *self.network.buffers()]

        return Graphed(run, reads, capture=graphs.capture_on_cuda)

    def render_with_gradient(
        self, embeddings: Tensor, w: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The same in float32, differentiable."""
        condition = self.gaussian.standardise(to_device(embeddings, self.device))
        return self.network.generator.synthesise(w, condition, noise=noise)


def latents(sample_seeds: Sequence[int], dim: int) -> Tensor:
    """z [N, Z] whose row i depends on `sample_seeds[i]` alone."""
    return seeds.normal_per_sample((dim,), key=("z",), indices=sample_seeds)
