"""Images and embeddings of a GAN's training set. Shape letters: M images, m captions, D
embedding.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.io.stored_rows import Rows
from training.data.crop_cache import ReadySquares, square_of
from training.data.decoding.crop import DEFAULT_SQUARES, SquareConfig
from training.data.decoding.read_image import (
    DEFAULT_READ_OPTIONS,
    OpenImage,
    ReadOptions,
    read_image,
)
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.embeddings.index import Lazy
from training.data.image_cache import ImageLoader, plan_cache
from training.data.images import ImageSource
from training.data.remote_images import RemoteImages, ShardOrder, in_first_shards

EVAL_SET_SIZE = 512  # images at most that a generator is measured on while it trains


@dataclass(frozen=True)
class GanData:
    """Training images with their embeddings, and the held-out ones."""

    images: ImageLoader  # M
    embeddings: Rows  # [M, D] unit float32
    held_out_images: ImageLoader
    held_out_embeddings: Rows
    encoder_id: EncoderId
    fingerprint: str  # of the files, see EmbeddingSet
    captions: Rows  # [m, D], embeddings of the training images' captions, in their order
    first_caption: Tensor  # [M + 1], where those of each image begin
    cache: str = "held in main memory"  # where the images are, and why
    order: ShardOrder | None = None  # of images in shards that lie elsewhere
    # captions by file name, of all images; an evaluation has them, a training does not
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def describe(self) -> dict:
        """What config.json records of the data, to notice when it changes."""
        return {
            "num_training": len(self.images),
            "num_held_out": len(self.held_out_images),
            "fingerprint": self.fingerprint,
        }


def _captions_of(embeddings: EmbeddingSet, rows: Tensor) -> tuple[Rows, Tensor]:
    """Text embeddings [m, D] of the images in the mask `rows`, and where those of each begin."""
    counts = torch.bincount(embeddings.caption_image, minlength=len(rows))[rows]
    first = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    return embeddings.text.take(rows[embeddings.caption_image]), first


def _check_enough(held_out: Tensor, where: object) -> None:
    """InputError unless two images at least are left to train on."""
    left = int((~held_out).sum())
    if left >= 2:
        return
    remedy = "Add images."
    if left < len(held_out):
        remedy += (
            " Files that differ by a number alone are one name, which is held out whole: "
            "--set hold_out=false trains on all."
        )
    raise InputError(f"{where} leaves {left} of {len(held_out)} images to train on. {remedy}")


def _square_of_open(opened: OpenImage, *, resolution: int, squares: SquareConfig) -> Tensor:
    return square_of(opened.decoded.image, resolution, squares)


def load_gan_data(
    source: ImageSource | RemoteImages,
    embeddings: EmbeddingSet,
    *,
    resolution: int,
    hold_out: bool,
    seed: int = 0,
    squares: SquareConfig = DEFAULT_SQUARES,
    cache_gib: float | None = None,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
    ready: ReadySquares | None = None,
) -> GanData:
    """The embedded images, divided by the split; augmented copies of held-out ones are on neither
    side. InputError if fewer than two are left to train on. Decoded now where all fit into
    `cache_gib` (see `plan_cache`). `seed` is that of the order of remote ones; `ready` has squares
    of this kind that were made while embedding.

    An image that cannot be read any more is replaced, and listed in the embeddings' report;
    TooManyBadImagesError above a share `options.max_bad`.
    """
    held_out = embeddings.held_out if hold_out else torch.zeros_like(embeddings.held_out)
    _check_enough(held_out, source.where)

    square = functools.partial(_square_of_open, resolution=resolution, squares=squares)

    def images(mask: Tensor) -> ImageLoader:
        rows, every = mask.nonzero().flatten(), embeddings.names
        names = Lazy(len(rows), lambda number: every[int(rows[number])])

        def read(row: int) -> Tensor:
            name, background = names[row], squares.colour
            if ready is not None and (made := ready.get_batch(name)) is not None:
                return made
            return read_image(source, name, square, options=options, background=background)

        report = embeddings.folder / "report.jsonl"
        return ImageLoader(names, read, max_bad=options.max_bad, report=report)

    training, order = images(~held_out), None
    cache = plan_cache(len(training), resolution=resolution, limit_gib=cache_gib)
    if isinstance(source, RemoteImages):
        prefetch = None if cache.holds else source.prefetch
        order = ShardOrder(training.names, key=(seed, "images"), prefetch=prefetch)
    if cache.holds:
        training.preload()
        training.sync()
    few = held_out & ~embeddings.is_copy  # to measure on; of remote images those of a few shards
    if order is not None:
        few = in_first_shards(embeddings.names, few, count=EVAL_SET_SIZE)
    return GanData(
        training,
        embeddings.image.take(~held_out),
        images(few),
        embeddings.image.take(few),
        embeddings.encoder_id,
        embeddings.fingerprint,
        *_captions_of(embeddings, ~held_out),
        cache.reason,
        order,
    )
