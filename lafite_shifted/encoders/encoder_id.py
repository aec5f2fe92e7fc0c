"""Which CLIP made an embedding, and which encoder the token states of a text: the identities that
travel with everything made from them.

An embedding means nothing without the encoder that made it. An `EncoderId` is a list of blocks, one
per CLIP (several can be concatenated); each block names the model and pins its weights and its
preprocessing.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, on_host


@dataclass(frozen=True)
class EncoderBlock:
    """One CLIP. `model` is for people; `weights` and `preprocess` decide whether two blocks are the
    same.
    """

    model: str  # as given to --clip
    weights: str  # first 16 hexadecimal digits of the SHA-256 over all weights
    preprocess: str  # size, resize mode, interpolation, mean and standard deviation
    dim: int  # D, dimensions of the embedding

    @property
    def pinned(self) -> tuple[str, str, int]:
        """What must be the same for embeddings to be: not the name, which may be a path."""
        return self.weights, self.preprocess, self.dim


@dataclass(frozen=True)
class EncoderId:
    """The blocks whose embeddings are concatenated, in order."""

    blocks: tuple[EncoderBlock, ...]

    @property
    def dim(self) -> int:
        """D, over all blocks."""
        return sum(block.dim for block in self.blocks)

    @property
    def dims(self) -> list[int]:
        """D of each block."""
        return [block.dim for block in self.blocks]

    @property
    def model(self) -> str:
        """What `--clip` takes."""
        return ",".join(block.model for block in self.blocks)

    def normalise(self, x: Tensor) -> Tensor:
        """[N, D] of unit norm, to which all blocks contribute alike: each has norm B^{-1/2}."""
        parts = [F.normalize(part, dim=1) for part in x.split(self.dims, dim=1)]
        return torch.cat(parts, dim=1) / math.sqrt(len(parts))

    def cosines(self, a: Tensor, b: Tensor) -> list[float]:
        """Mean cosine of unit rows [N, D] that belong together, by each CLIP; their mean is the
        cosine of the whole.
        """
        pairs = zip(a.split(self.dims, dim=1), b.split(self.dims, dim=1), strict=True)
        return [float((x * y).sum(dim=1).mean()) * len(self.blocks) for x, y in pairs]

    def to_json(self) -> list[dict[str, Any]]:
        """What JSON files record: one object for each block."""
        return [asdict(block) for block in self.blocks]

    @staticmethod
    def from_json(value: Sequence[dict[str, Any]]) -> "EncoderId":
        """The inverse of `to_json`."""
        return EncoderId(tuple(EncoderBlock(**block) for block in value))


@dataclass(frozen=True)
class TextEncoderId:
    """Which encoder made token states. `model` is for people and for loading; `weights` decides
    whether two are the same.
    """

    model: str
    weights: str  # first 16 hexadecimal digits of the SHA-256 over all weights
    width: int  # F


def weights_digest(weights: Mapping[str, Tensor], *, also: bytes = b"") -> str:
    """First 16 hexadecimal digits of the SHA-256 over names and values, and what else matters."""
    digest = hashlib.sha256()
    for key, tensor in sorted(weights.items()):
        digest.update(key.encode())
        values = on_host(tensor, HostRead.FILE).contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy().tobytes())
    digest.update(also)
    return digest.hexdigest()[:16]


def check_same_encoder(found: EncoderId, expected: EncoderId, *, what: str, remedy: str) -> None:
    """InputError unless both ids pin the same weights and preprocessing.

    `what` names the thing that carries `found`; `remedy` says what to do.
    """
    if [block.pinned for block in found.blocks] == [block.pinned for block in expected.blocks]:
        return
    raise InputError(
        f"{what} was made with the CLIP {found.model} ({_describe(found)}), "
        f"but {expected.model} ({_describe(expected)}) is in use here. Embeddings of two CLIPs "
        f"cannot be mixed. {remedy}"
    )


def check_same_text_encoder(
    found: TextEncoderId | None, expected: TextEncoderId | None, *, what: str, remedy: str
) -> None:
    """InputError unless both are the same encoder, or both are the CLIP's own text tower."""
    pinned = [id and (id.weights, id.width) for id in (found, expected)]
    if pinned[0] != pinned[1]:
        names = [id.model if id else "the CLIP's own text tower" for id in (found, expected)]
        raise InputError(
            f"{what} was made with token states of {names[0]}, but {names[1]} is in use here. "
            f"{remedy}"
        )


def _describe(encoder_id: EncoderId) -> str:
    return ", ".join(
        f"weights {b.weights}, {b.dim} dimensions, {b.preprocess}" for b in encoder_id.blocks
    )
