"""What an image is made of, in two parts (the bipartite representation of arXiv:2204.06125, section
3): the embedding says what is seen, w and noise say how. Every edit moves one of them.

Shape letters: N images, D embedding, Z latent, V w space, L styles, R resolution.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.decoder.generator import to_uint8
from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.check_tensors import check_finite
from lafite_shifted.io.files import check_format, load_tensors, save_tensors
from torch_utils.torch_defaults import plain_settings

KIND, FORMAT = "latents", 1


@dataclass(frozen=True)
class Latents:
    """N images, before they are rendered."""

    embedding: Tensor  # [N, D] unit, or [L, N, D] where each style has its own
    w: Tensor  # [N, V], or [L, N, V]
    z: Tensor | None = None  # [N, Z] that w is mapped from, where it is
    noise: Tensor | None = None  # [N, num_noise]; None: the fixed buffers

    def __len__(self) -> int:
        return self.embedding.shape[-2]

    def __getitem__(self, rows: slice) -> "Latents":
        return Latents(
            self.embedding[..., rows, :],
            self.w[..., rows, :],
            None if self.z is None else self.z[rows],
            None if self.noise is None else self.noise[rows],
        )

    @staticmethod
    def of_seeds(
        generator: LoadedGenerator,
        embedding: Tensor,
        seeds: Sequence[int],
        *,
        truncation: float = 1.0,
    ) -> "Latents":
        """Embeddings [N, D], or one [1, D] for all, with the z of N seeds."""
        z = generator.z(seeds)
        w = generator.network.mapping(z, truncation=truncation)
        return Latents(embedding.expand(len(z), -1), w, z)

    @staticmethod
    def joined(parts: "Sequence[Latents]") -> "Latents":
        """Those of several, one after the other, without their z; all with an embedding and a w
        for each style where one has them, and none with noise of its own.
        """
        num_styles = max(len(x) if x.ndim == 3 else 0 for p in parts for x in (p.embedding, p.w))
        if num_styles:
            parts = [part.by_style(num_styles) for part in parts]
        return Latents(
            torch.cat([p.embedding for p in parts], dim=-2), torch.cat([p.w for p in parts], dim=-2)
        )

    def by_style(self, num_styles: int) -> "Latents":
        """The same, with an embedding and a w for each of L styles."""
        embedding = self.embedding.expand(num_styles, -1, -1)
        return Latents(embedding, self.w.expand(num_styles, -1, -1), self.z, self.noise)

    @plain_settings()
    @torch.no_grad()
    def render(self, generator: LoadedGenerator, *, batch: int = 16) -> Iterator[Tensor]:
        """Images [3, R, R], about [-1, 1], one after the other."""
        for first in range(0, len(self), batch):
            part = self[first : first + batch]
            yield from generator.render(part.embedding, part.w, part.noise)

    @plain_settings()
    @torch.no_grad()
    def levels(self, generator: LoadedGenerator, *, batch: int = 16) -> Iterator[Tensor]:
        """The same [R, R, 3] uint8 on the CPU, where they come a batch at a time."""
        for first in range(0, len(self), batch):
            part = self[first : first + batch]
            yield from to_uint8(generator.render(part.embedding, part.w, part.noise))

    def save(self, path: Path, *, encoder_id: EncoderId, model: str) -> None:
        """Write a file of ours, atomically; `model` is the hash of the weights."""
        found = {"embedding": self.embedding, "w": self.w, "z": self.z, "noise": self.noise}
        tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
        metadata = {"kind": KIND, "format": FORMAT, "encoder": encoder_id.to_json(), "model": model}
        save_tensors(path, tensors, metadata)

    @staticmethod
    def load(path: Path, generator: LoadedGenerator, *, model: str) -> "Latents":
        """What `save` has written; InputError unless it is of this model."""
        tensors, metadata = load_tensors(path)
        check_format(metadata, kind=KIND, version=FORMAT, path=path)
        check_same_encoder(
            EncoderId.from_json(metadata["encoder"]),
            generator.encoder_id,
            what=str(path),
            remedy="Project the image with this model.",
        )
        if metadata["model"] != model:
            raise InputError(
                f"{path} was made with the model {metadata['model']}, not {model}: its w means "
                "nothing here. Project the image with this model."
            )
        check_finite(tensors, path)
        moved = {name: tensor.to(generator.device) for name, tensor in tensors.items()}
        return Latents(moved["embedding"], moved["w"], moved.get("z"), moved.get("noise"))
