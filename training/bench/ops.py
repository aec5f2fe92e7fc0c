"""Benchmarks of the operators: time, bytes, and ratios to plain PyTorch, in paired runs.

A ratio is the median over rounds of (time of the one / time of the other), both measured in the
same round, so that a busy machine slows both. Shape letters: N batch, C channels, R resolution.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torch_utils.ops import (
    SynthesisTail,
    bias_act,
    native,
    synthesis_epilogue,
    to_rgb,
    upfirdn2d,
)
from torch_utils.ops.upfirdn2d import TAPS, upsample

SHAPES = ((4, 256, 64), (4, 64, 256))  # N, C, R
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """One operator on one shape."""

    name: str
    run: Callable[[], object]
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
    image = torch.randn(n, 3, channels, device=device), torch.randn(3, device=device)
    lower = rgb.float()
    sides = scale, noise, strength, bias
    return [
        Case("bias_act", lambda: bias_act(x, bias, activation="leaky_relu"), 2 * size),
        Case(
            "synthesis_epilogue",
            lambda: synthesis_epilogue(x, *sides),
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
        Case("to_rgb", lambda: to_rgb(x, *image), size + rgb_size),
        Case(
            "synthesis_tail, first",
            lambda: SynthesisTail(*sides, dtype=dtype, filtered=True, after=scale)(larger),
            2 * size + noise.numel() * 4,
        ),
        Case(
            "synthesis_tail, second",
            lambda: SynthesisTail(*sides, dtype=dtype, rgb=image, after=scale)(x, lower),
            2 * size + noise.numel() * 4 + n * 3 * resolution**2 * 5,
        ),
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
    contenders: dict[str, tuple[native.Mode, Callable[[], object]]] = {
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


def _timed(run: Callable[[], object], device: torch.device) -> float:
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


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, with all that it has begun on the device."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
