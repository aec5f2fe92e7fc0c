"""Which CLIP made an embedding: the identity that travels with everything made from it.

An embedding means nothing without the encoder that made it. An `EncoderId` is a list of blocks, one
per CLIP (several can be concatenated); each block names the model and pins its weights and its
preprocessing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lafite_shifted.errors import InputError


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
        return self.weights, self.preprocess, self.dim


@dataclass(frozen=True)
class EncoderId:
    """The blocks whose embeddings are concatenated, in order."""

    blocks: tuple[EncoderBlock, ...]

    @property
    def dim(self) -> int:
        return sum(block.dim for block in self.blocks)

    @property
    def model(self) -> str:
        return " + ".join(block.model for block in self.blocks)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(block) for block in self.blocks]

    @staticmethod
    def from_json(value: Sequence[dict[str, Any]]) -> "EncoderId":
        return EncoderId(tuple(EncoderBlock(**block) for block in value))


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


def _describe(encoder_id: EncoderId) -> str:
    return ", ".join(
        f"weights {b.weights}, {b.dim} dimensions, {b.preprocess}" for b in encoder_id.blocks
    )
