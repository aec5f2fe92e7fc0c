"""Benchmark of `embed`: images a second from files to shards, beside the tower's own speed on
images that are prepared already. Both take turns on batches of the same sizes; a ratio is the
median over rounds.

Shape letters: N batch, C H W image.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from torch_utils.host_reads import HostRead, on_host
from training.bench.ops import seconds_of
from training.data.embeddings.embed import embed_folder
from training.data.images import ImageSource


@dataclass(frozen=True)
class MeasuredEmbedding:
    """Medians over rounds."""

    images: int
    batch: int
    images_a_second: float  # from files to shards, captions not counted
    tower_images_a_second: float  # the image tower alone
    share_of_tower: float  # the one over the other
    cpu_ms_an_image: float  # of all threads, from files to shards
    tower_cpu_ms_an_image: float


def untrained_clip(architecture: str, *, device: torch.device) -> ClipEncoder:
    """A CLIP of an architecture of open_clip with random weights; InputError for another name."""
    if architecture not in open_clip.list_models():
        raise InputError(
            f"--architecture {architecture}: open_clip has none of that name. Choose one of "
            "open_clip.list_models(), such as ViT-B-32."
        )
    model = open_clip.create_model(architecture, require_pretrained=False)
    assert isinstance(model, CLIP | CustomTextCLIP)
    tokenizer = open_clip.get_tokenizer(architecture)
    return ClipEncoder(model, tokenizer, name=f"untrained {architecture}", device=device)


@torch.no_grad()
def bench_embed(
    source: ImageSource, clip: ClipEncoder, *, rounds: int, batch: int = 64
) -> MeasuredEmbedding:
    """`source` is embedded once a round, and so are as many prepared images by the tower alone. A
    first round warms up.
    """
    source.captions.clear()  # of images alone
    prepared = torch.zeros(min(batch, len(source)), 3, *clip.input_size, device=clip.device)
    batches = -(-len(source) // batch)
    sizes = [min(batch, len(source) - batch * number) for number in range(batches)]

    def tower() -> None:
        found = [clip.embed_prepared(prepared[:size]).half() for size in sizes]
        on_host(torch.cat(found), HostRead.EMBEDDINGS)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as out:
            report = embed_folder(source, Path(out), clip, batch=batch)
        assert report.num_embedded == len(source)

    found: list[tuple[float, float, float, float]] = []
    for _ in range(rounds + 1):
        with _cpu_time() as tower_cpu:
            tower_seconds = seconds_of(tower, clip.device)
        with _cpu_time() as cpu:
            seconds = seconds_of(whole, clip.device)
        found.append((seconds, tower_seconds, cpu[0], tower_cpu[0]))
    found = found[1:]
    count = len(source)
    return MeasuredEmbedding(
        images=count,
        batch=batch,
        images_a_second=count / statistics.median(row[0] for row in found),
        tower_images_a_second=count / statistics.median(row[1] for row in found),
        share_of_tower=statistics.median(row[1] / row[0] for row in found),
        cpu_ms_an_image=1e3 * statistics.median(row[2] for row in found) / count,
        tower_cpu_ms_an_image=1e3 * statistics.median(row[3] for row in found) / count,
    )


@contextmanager
def _cpu_time() -> Iterator[list[float]]:
    """Seconds of CPU time of this process within the block."""
    spent = [0.0]
    start = time.process_time()
    try:
        yield spent
    finally:
        spent[0] = time.process_time() - start
