"""Judges of images: networks that neither trained nor conditioned what they judge.

An image judge gives features, whose kernel and Frechet distances compare sets of images. A judge
CLIP, of another training than the conditioning one, tells whether an image fits its sentence, and
gives features as well. Shape letters: N images, R resolution, F features, D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, on_host

BATCH = 64
IMAGE, CLIP = "judge", "judge_clip"  # feature spaces, as metrics are named by


class ImageJudge(Protocol):
    """A network whose features images are compared by."""

    @property
    def name(self) -> str:
        """Of the network."""
        ...

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of a hash of its weights."""
        ...

    @property
    def filter(self) -> str:
        """How an image comes to its input's size."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """[N, F] float32 on the CPU, of images [N, R, R, 3] uint8."""
        ...


@dataclass(frozen=True)
class ClipJudge:
    """A CLIP as a judge of images and of sentences; F = D."""

    clip: ClipEncoder

    @staticmethod
    def of(clip: ClipEncoder, *, conditioning: EncoderId) -> "ClipJudge":
        """InputError where one of its CLIPs is among the `conditioning` ones."""
        own = {block.weights for block in clip.id.blocks}
        shared = [block for block in conditioning.blocks if block.weights in own]
        if shared:
            raise InputError(
                f"--judge-clip {clip.id.model}: the model is conditioned on this CLIP (weights "
                f"{shared[0].weights}), which cannot judge it. Give another one, such as a CLIP "
                "that `train-clip` made with another seed and architecture."
            )
        return ClipJudge(clip)

    @property
    def name(self) -> str:
        """As of every CLIP."""
        return "CLIP"  # two folders may hold the same

    @property
    def digest(self) -> str:
        """As `ImageJudge.digest`."""
        return ", ".join(block.weights for block in self.clip.id.blocks)

    @property
    def filter(self) -> str:
        """As `ImageJudge.filter`."""
        return ", ".join(block.preprocess for block in self.clip.id.blocks)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Embeddings of norm sqrt(D), so that <x, y> / D, as the kernel takes it, is the cosine."""
        parts = [self.clip.embed_images(p.permute(0, 3, 1, 2)) for p in images.split(BATCH)]
        return on_host(torch.cat(parts), HostRead.EVALUATION) * math.sqrt(self.clip.id.dim)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [N, D] on the CPU."""
        parts = range(0, len(texts), BATCH)
        found = [self.clip.embed_texts(texts[i : i + BATCH]).embedding for i in parts]
        return on_host(torch.cat(found), HostRead.EVALUATION)


@dataclass(frozen=True)
class Judges:
    """The judges at hand."""

    image: ImageJudge | None = None
    clip: ClipJudge | None = None

    @property
    def spaces(self) -> dict[str, ImageJudge]:
        """The feature spaces by name."""
        found: dict[str, ImageJudge | None] = {IMAGE: self.image, CLIP: self.clip}
        return {space: judge for space, judge in found.items() if judge is not None}
