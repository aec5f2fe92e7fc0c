"""Benchmark of a generator's forward pass, as users load it: the time outside convolutions, and the
bytes that pass between them.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.decoder import layers
from lafite_shifted.decoder.generator import Generator, GeneratorConfig
from lafite_shifted.decoder.inference import InferenceGenerator
from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.model_folder import load_generator, save_generator
from torch_utils.device import DtypeName
from torch_utils.ops import native
from training.bench.ops import seconds_of

WARM_UP = 4  # rounds of a generator until the memory that it needs is the process's


@dataclass(frozen=True)
class MeasuredGeneration:
    """One forward pass of a generator; "outside" is what is not spent in convolutions."""

    batch: int
    dtype: str  # of activations
    milliseconds: dict[str, float]  # by implementation of the operators
    outside: dict[str, float]  # milliseconds outside convolutions
    outside_share_of_reference: float  # median over rounds of compiled / reference
    megabytes: dict[str, float]  # an image's between convolutions, as `moved_megabytes` counts them


def untrained(
    config: GeneratorConfig, *, device: torch.device, dtype: DtypeName
) -> InferenceGenerator:
    """A generator of this size as users get one: saved, and loaded again."""
    block = EncoderBlock("untrained", "0" * 16, "{}", config.condition_dim)
    stats = EmbeddingStats.of(torch.randn(8, config.condition_dim), EncoderId((block,)))
    with tempfile.TemporaryDirectory() as folder:
        save_generator(Path(folder) / "generator", Generator(config), stats, training={})
        return load_generator(Path(folder) / "generator", device=device, dtype=dtype).network


@torch.no_grad()
def bench_generation(
    generator: InferenceGenerator, *, batch: int, device: torch.device, rounds: int
) -> MeasuredGeneration:
    """Images of a loaded generator, by the compiled operators and the reference in turn."""
    config = generator.config
    z = torch.randn(batch, config.z_dim, device=device)
    condition = torch.randn(batch, config.condition_dim, device=device)
    names: tuple[native.Mode, ...] = ("compiled", "reference")
    total: dict[str, list[float]] = {name: [] for name in names}
    outside: dict[str, list[float]] = {name: [] for name in names}
    before = native.mode()
    try:
        for number in range(rounds + WARM_UP):
            for name in names:
                native.choose(name)
                with _timed_convolutions(device) as convolutions:
                    elapsed = seconds_of(lambda: generator(z, condition), device)
                if number < WARM_UP:
                    continue
                total[name].append(elapsed)
                outside[name].append(elapsed - sum(convolutions))
    finally:
        native.choose(before)
    return MeasuredGeneration(
        batch=batch,
        dtype=str(generator.compute_dtype).removeprefix("torch."),
        milliseconds={name: statistics.median(total[name]) * 1e3 for name in names},
        outside={name: statistics.median(outside[name]) * 1e3 for name in names},
        outside_share_of_reference=statistics.median(
            a / b for a, b in zip(outside["compiled"], outside["reference"], strict=True)
        ),
        megabytes=moved_megabytes(config, generator.compute_dtype),
    )


def moved_megabytes(config: GeneratorConfig, dtype: torch.dtype) -> dict[str, float]:
    """What is read and written between the convolutions for one image, of activations in `dtype`
    and of images in float32: by one operator after another, and in one pass over what a
    convolution left, which is the least that there is. What an operator reads twice counts once;
    numbers of a channel or a pixel are left out.
    """
    chain = least = 0
    resolution, channels = 4, config.channels(4)
    image = 3 * 4
    while True:
        size = channels * resolution**2 * dtype.itemsize
        last = resolution == config.resolution
        if resolution > 4:  # the layer that upsamples: filter, epilogue
            unfiltered = channels * (resolution + 1) ** 2 * dtype.itemsize
            chain += unfiltered + 3 * size
            least += unfiltered + size
        # the other one: epilogue, image, sum with the lower one, scale of the next layer
        lower = image * (resolution // 2) ** 2 * (resolution > 4)
        whole = image * resolution**2
        chain += 3 * size + whole + (lower + 2 * whole if lower else 0) + 2 * size * (not last)
        least += size + lower + whole + size * (not last)
        if last:
            return {"by one operator after another": chain / 1e6, "in one pass": least / 1e6}
        resolution *= 2
        channels = config.channels(resolution)


@contextmanager
def _timed_convolutions(device: torch.device) -> Iterator[list[float]]:
    """The seconds of each convolution of the networks inside; on a GPU with one synchronisation
    before and after each. A profiler would charge its own time to what lies between them.
    """
    seconds: list[float] = []

    def timed(convolution: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*arguments: object, **options: object) -> Tensor:
            results: list[Tensor] = []
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(
                seconds_of(lambda: results.append(convolution(*arguments, **options)), device)
            )
            return results[0]

        return run

    before = layers.F.conv2d, layers.F.conv_transpose2d
    layers.F.conv2d, layers.F.conv_transpose2d = map(timed, before)
    try:
        yield seconds
    finally:
        layers.F.conv2d, layers.F.conv_transpose2d = before
