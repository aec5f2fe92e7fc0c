"""Benchmarks of the operators: time, bytes, and ratios to plain PyTorch, in paired runs.

A ratio is the median over rounds of (time of the one / time of the other), both measured in the
same round, so that a busy machine slows both. Shape letters: N batch, C channels, R resolution.
"""

import platform
import statistics
import tempfile
import time
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
from torch_utils.ops import bias_act, native, synthesis_epilogue, to_rgb, upfirdn2d
from torch_utils.ops.upfirdn2d import TAPS, upsample

SHAPES = ((4, 256, 64), (4, 64, 256))  # N, C, R
DTYPES = (torch.float32, torch.bfloat16)
WARM_UP = 4  # rounds of a generator until the memory that it needs is the process's


@dataclass(frozen=True)
class Case:
    """One operator on one shape."""

    name: str
    run: Callable[[], Tensor]
    minimum_bytes: int  # every input read once, every output written once


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds; ratios above 1 mean that the compiled operator is faster."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    milliseconds: float
    megabytes: float  # one read, one write
    gigabytes_per_second: float  # of those
    over_reference: float
    over_compiled_reference: float | None  # torch.compile of the reference


def machine(device: torch.device) -> str:
    """What the measurements were taken on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
        models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
        name = f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}; {platform.system()} {platform.machine()}"


def cases(
    n: int, channels: int, resolution: int, *, dtype: torch.dtype, device: torch.device
) -> list[Case]:
    """The operators as the networks use them, channels-last."""

    def make(*shape: int) -> Tensor:
        x = torch.randn(shape, device=device, dtype=dtype)
        return x.to(memory_format=torch.channels_last)

    x = make(n, channels, resolution, resolution)
    larger = make(n, channels, resolution + 1, resolution + 1)
    half = make(n, channels, resolution // 2, resolution // 2)
    bias = torch.randn(channels, device=device)
    scale = torch.rand(n, channels, device=device) + 0.5
    noise = torch.randn(n, 1, resolution, resolution, device=device)
    strength = torch.tensor(0.1, device=device)
    size = x.numel() * x.element_size()
    rgb = torch.randn(n, 3, resolution // 2, resolution // 2, device=device)
    skip = torch.randn(n, 3, resolution, resolution, device=device)
    rgb_size = skip.numel() * skip.element_size()
    to_rgb_weight = torch.randn(n, 3, channels, device=device)
    to_rgb_bias = torch.randn(3, device=device)
    return [
        Case("bias_act", lambda: bias_act(x, bias, activation="leaky_relu"), 2 * size),
        Case(
            "synthesis_epilogue",
            lambda: synthesis_epilogue(x, scale, noise, strength, bias),
            2 * size + noise.numel() * 4,
        ),
        Case(
            "upfirdn2d up 2",
            lambda: upfirdn2d(half, TAPS, up=2, padding=(2, 1), gain=4),
            size * 5 // 4,
        ),
        Case("upfirdn2d down 2", lambda: upfirdn2d(x, TAPS, down=2, padding=(1, 1)), size * 5 // 4),
        Case("upfirdn2d filter", lambda: upfirdn2d(larger, TAPS, padding=(1, 1), gain=4), 2 * size),
        Case(
            "upsample and add",
            lambda: upsample(rgb, add=skip),
            rgb_size * 9 // 4,
        ),
        Case("to_rgb", lambda: to_rgb(x, to_rgb_weight, to_rgb_bias), size + rgb_size),
    ]


def bench_ops(
    *, device: torch.device, rounds: int, compile_reference: bool, shapes=SHAPES, dtypes=DTYPES
) -> Iterator[Measured]:
    """Measure every case; needs the compiled operators."""
    for n, channels, resolution in shapes:
        for dtype in dtypes:
            for case in cases(n, channels, resolution, dtype=dtype, device=device):
                yield _measure(
                    case,
                    (n, channels, resolution, resolution),
                    dtype,
                    device,
                    rounds,
                    compile_reference,
                )


@torch.no_grad()
def _measure(
    case: Case,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    rounds: int,
    compile_reference: bool,
) -> Measured:
    contenders: dict[str, tuple[native.Mode, Callable[[], Tensor]]] = {
        "native": ("compiled", case.run),
        "reference": ("reference", case.run),
    }
    if compile_reference:
        torch._dynamo.reset()
        contenders["inductor"] = ("reference", torch.compile(case.run))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    before = native.mode()
    try:
        for number in range(rounds + 1):
            order = list(contenders) if number % 2 else list(reversed(contenders))
            for name in order:  # turned round each time: a cache is as the one before left it
                mode, run = contenders[name]
                native.choose(mode)
                elapsed = _timed(run, device)
                if number:  # the first round warms up, and compiles
                    times[name].append(elapsed)
    finally:
        native.choose(before)

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times["native"], strict=True))

    seconds = statistics.median(times["native"])
    return Measured(
        op=case.name,
        shape=shape,
        dtype=str(dtype).removeprefix("torch."),
        milliseconds=seconds * 1e3,
        megabytes=case.minimum_bytes / 1e6,
        gigabytes_per_second=case.minimum_bytes / seconds / 1e9,
        over_reference=ratio("reference"),
        over_compiled_reference=ratio("inductor") if compile_reference else None,
    )


def _timed(run: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one call, from the mean of as many as take 20 ms."""
    run()
    repeats, elapsed = 1, 0.0
    while True:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - start
        if elapsed > 0.02:
            return elapsed / repeats
        repeats *= max(2, round(0.025 / max(elapsed, 1e-5)))


@dataclass(frozen=True)
class MeasuredGeneration:
    """One forward pass of a generator; "outside" is what is not spent in convolutions."""

    batch: int
    dtype: str  # of activations
    milliseconds: dict[str, float]  # by implementation of the operators
    outside: dict[str, float]  # milliseconds outside convolutions
    outside_share_of_reference: float  # median over rounds of compiled / reference


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
    )


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


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, with all that it has begun on the device."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
