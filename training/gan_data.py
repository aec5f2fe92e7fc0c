"""Pictures and embeddings of a GAN's training set, in memory. Shape letters: M pictures, m
captions, R resolution, D embedding.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lafite_shifted.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from training.decoding import (
    DEFAULT_MAX_MEGAPIXELS,
    DEFAULT_SQUARES,
    SquareConfig,
    to_square,
)
from training.embeddings import EmbeddingSet
from training.images import ImageSource
from training.picture_files import UnreadablePictureError


@dataclass(frozen=True)
class GanData:
    """Training pictures with their embeddings, and the held-out ones."""

    pixels: Tensor  # [M, 3, R, R] uint8
    embeddings: Tensor  # [M, D] unit float32
    held_out_pixels: Tensor
    held_out_embeddings: Tensor
    encoder_id: EncoderId
    fingerprint: str  # of the files, see EmbeddingSet
    captions: Tensor  # [m, D], embeddings of the training pictures' captions, in their order
    first_caption: Tensor  # [M + 1], where those of each picture begin

    def describe(self) -> dict:
        """What config.json records of the data, to notice when it changes."""
        return {
            "num_training": len(self.pixels),
            "num_held_out": len(self.held_out_pixels),
            "fingerprint": self.fingerprint,
        }


def load_gan_data(
    source: ImageSource,
    embeddings: EmbeddingSet,
    *,
    resolution: int,
    hold_out: bool,
    squares: SquareConfig = DEFAULT_SQUARES,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
) -> GanData:
    """Decode every embedded picture to a square of `resolution`."""

    def read(name: str) -> np.ndarray:
        try:
            picture = source.decode(
                name, max_megapixels=max_megapixels, background=squares.colour
            ).image
            return to_square(picture, resolution, squares)
        except UnreadablePictureError as error:
            raise InputError(
                f"{source.where / name} was readable when it was embedded, but is not now: "
                f"{error}. Restore it, or remove it and run the same command again."
            ) from error

    pixels = torch.empty(len(embeddings.names), 3, resolution, resolution, dtype=torch.uint8)
    with ThreadPoolExecutor(max_workers=4) as pool:
        for index, array in enumerate(pool.map(read, embeddings.names)):
            pixels[index] = torch.from_numpy(array.copy()).permute(2, 0, 1)
    held_out = embeddings.held_out if hold_out else torch.zeros(len(pixels), dtype=torch.bool)
    if int((~held_out).sum()) < 2:
        remedy = "Add pictures."
        if int(held_out.sum()) > 0:
            remedy += (
                " Files that differ by a number alone are one name, which is held out whole: "
                "--set hold_out=false trains on all."
            )
        raise InputError(
            f"{source.where} leaves {int((~held_out).sum())} of {len(pixels)} pictures to train "
            f"on. {remedy}"
        )
    captioned = ~held_out[embeddings.caption_image]
    counts = torch.bincount(embeddings.caption_image, minlength=len(pixels))[~held_out]
    return GanData(
        pixels[~held_out],
        embeddings.image[~held_out],
        pixels[held_out],
        embeddings.image[held_out],
        embeddings.encoder_id,
        embeddings.fingerprint,
        embeddings.text[captioned],
        torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
    )
