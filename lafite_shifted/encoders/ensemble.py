"""Several CLIPs as one encoder: their unit embeddings side by side (arXiv:2211.15388, section 4.1,
takes three), scaled so that the whole is a unit vector too.

Shape letters: N batch, B CLIPs, L tokens, F width of a text tower, D embedding.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import InputError


class ClipEnsemble(ClipEncoder):
    """What `ClipEncoder` is, of B CLIPs.

    A prepared image is one flat row, because every CLIP has an input size of its own. The token
    states of the towers stand side by side, as wide as all together.
    """

    def __init__(self, clips: Sequence[ClipEncoder]):
        self.clips = list(clips)
        self.model = nn.ModuleList(clip.model for clip in clips)
        self.device = clips[0].device
        self.context_length = max(clip.context_length for clip in clips)
        self.id = EncoderId(tuple(clip.id.blocks[0] for clip in clips))

    def to(self, device: torch.device) -> None:
        """Move all models."""
        for clip in self.clips:
            clip.to(device)
        self.device = device

    def preprocess(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> the inputs of all CLIPs, flat, [N, sum of 3 S^2]."""
        return torch.cat([clip.preprocess(images).flatten(1) for clip in self.clips], dim=1)

    def embed_prepared(self, prepared: Tensor) -> Tensor:
        """Unit embeddings [N, D] float32 of what `preprocess` returned."""
        found = [clip.embed_prepared(part) for clip, part in self._parts(prepared)]
        return self.id.normalise(torch.cat(found, dim=1))

    def resize(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] uint8 -> what all CLIPs standardise, flat, uint8."""
        return torch.cat([clip.resize(images).flatten(1) for clip in self.clips], dim=1)

    def embed_resized(self, levels: Tensor) -> Tensor:
        """Unit embeddings [N, D] float32 of what `resize` returned."""
        found = [clip.embed_resized(part) for clip, part in self._parts(levels)]
        return self.id.normalise(torch.cat(found, dim=1))

    def _parts(self, flat: Tensor) -> Iterator[tuple[ClipEncoder, Tensor]]:
        """Each CLIP with its own [N, 3, S, S] of rows [N, sum of 3 S^2]."""
        shapes = [(3, *clip.input_size) for clip in self.clips]
        sizes = [channels * height * width for channels, height, width in shapes]
        for clip, part, shape in zip(self.clips, flat.split(sizes, dim=1), shapes, strict=True):
            yield clip, part.unflatten(1, shape)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> TextFeatures:
        """Features of N texts; a text has as many tokens as the tower with the longest context."""
        parts = [clip.embed_texts(texts) for clip in self.clips]
        longest = max(part.tokens.shape[1] for part in parts)
        tokens = [pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in parts]
        return TextFeatures(
            self.id.normalise(torch.cat([part.embedding for part in parts], dim=1)),
            torch.cat(tokens, dim=2),
            torch.stack([part.lengths for part in parts]).amax(dim=0),
        )


def load_clip(name: str, *, device: torch.device | str = "cpu") -> ClipEncoder:
    """The CLIP called `name` (see `ClipEncoder.load`), or several with commas between; InputError
    says what is wrong.
    """
    names = [part.strip() for part in name.split(",")]
    if len(names) == 1:
        return ClipEncoder.load(name, device=device)
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--clip {name}: give different CLIPs with commas between.")
    return ClipEnsemble([ClipEncoder.load(part, device=device) for part in names])
