"""How many images a second one core reads, decodes and embeds: what a web-scale set takes."""

import io
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from training.data.decoding.decode import decode, to_square
from training.data.images import ImageSource

BATCH = 16  # images of a forward pass of CLIP
STAGES = {
    "embedding": ("read", "decode", "prepare", "embed"),
    "training": ("read", "decode", "square"),
}


@dataclass(frozen=True)
class MeasuredData:
    """Milliseconds an image on one core, by stage: medians over batches."""

    images: int
    kilobytes: float  # of a file, mean
    megapixels: float  # of an image, mean
    milliseconds: dict[str, float]
    clip_gmac: float  # of the image tower, an image

    def images_a_second(self, what: str) -> float:
        """From file to "embedding", or to the square that "training" takes."""
        return 1000 / sum(self.milliseconds[stage] for stage in STAGES[what])


@torch.no_grad()
def bench_data(
    source: ImageSource, clip: ClipEncoder, *, resolution: int, images: int
) -> MeasuredData:
    """The stages on the first `images` of `source`, of which a batch warms up.

    InputError where there are fewer than two batches; UnreadableImageError for a broken one.
    """
    names = source.names[:images]
    if len(names) < 2 * BATCH:
        raise InputError(
            f"{source.where} holds {len(names)} images, and {2 * BATCH} are needed. Add some."
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(source, names, clip, resolution)
    finally:
        torch.set_num_threads(threads)


def _measured(
    source: ImageSource, names: list[str], clip: ClipEncoder, resolution: int
) -> MeasuredData:
    rounds, sizes, areas = list[dict[str, float]](), list[int](), list[float]()
    for start in range(0, len(names) - BATCH + 1, BATCH):
        part, spent = names[start : start + BATCH], dict[str, float]()
        with _timed("read", spent):
            files = [source.read(name) for name in part]
        with _timed("decode", spent):
            images = [decode(io.BytesIO(file)).image for file in files]
        with _timed("square", spent):
            for image in images:
                to_square(image, resolution)
        with _timed("prepare", spent):
            prepared = _prepared(images, clip)
        with _timed("embed", spent):
            clip.embed_prepared(prepared)
        rounds.append(spent)
        sizes += map(len, files)
        areas += [image.width * image.height / 1e6 for image in images]
    with FlopCounterMode(display=False) as counter:
        clip.embed_prepared(_prepared([decode(io.BytesIO(source.read(names[0]))).image], clip))
    return MeasuredData(
        len(sizes),
        statistics.mean(sizes) / 1e3,
        statistics.mean(areas),
        {stage: statistics.median(spent[stage] for spent in rounds[1:]) for stage in rounds[0]},
        counter.get_total_flops() / 2e9,
    )


def _prepared(images: list[Image.Image], clip: ClipEncoder) -> Tensor:
    """What the image tower takes, [N, 3, S, S]."""
    pixels = [torch.from_numpy(np.asarray(image).copy()) for image in images]
    return torch.cat([clip.preprocess(x.permute(2, 0, 1)[None]) for x in pixels])


@contextmanager
def _timed(stage: str, spent: dict[str, float]) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    spent[stage] = (time.perf_counter() - begin) * 1e3 / BATCH
