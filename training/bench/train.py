"""Benchmark of training: seconds for 1000 images, beside the step's own convolutions and the
reference in float32, and where a step's time goes.

Contenders take their steps in turn, and a ratio is the median over rounds of one round's times, so
that a busy machine slows both.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from lafite_shifted.encoders.clip import ClipEncoder
from torch_utils import memory
from torch_utils.ops import native
from training.bench.ops import seconds_of
from training.bench.step_profile import StepProfile, convolution_of
from training.gan.config import GanTrainConfig
from training.gan.features.backbone import Backbone
from training.gan.probe import Kind, probe_trainer, step_kinds
from training.gan.trainer import GanTrainer

WARM_UP = 2  # rounds
TRAINED, REFERENCE, CONVOLUTIONS = "as trained", "float32 reference", "its convolutions alone"
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}  # of the product that tells what the hardware can do
RETURNED = "freed memory returned"  # to the kernel, as glibc does by itself


@dataclass(frozen=True)
class MeasuredTraining:
    """Seconds for 1000 images, by contender and by part of a step; R1 and path lengths count as
    often as they come.
    """

    dtype: str  # of activations
    batch: int
    augment_probability: float
    seconds_per_kimg: dict[str, float]  # median over rounds
    over_convolutions: float  # the step over its convolutions alone
    reference_over_trained: float
    returned_over_kept: float | None  # None where the C library gives no choice
    gflop_an_image: float  # of convolutions and products, counted by PyTorch: a MAC is two
    matrix_gflop_a_second: float  # of one large product in `dtype`, median over rounds
    share_of_matrix_rate: float  # of the step's, over that product's, in one round
    parts: dict[str, float]  # operations; the rest is Python's and PyTorch's own


def bench_train(
    config: GanTrainConfig,
    encoder: ClipEncoder,
    *,
    device: torch.device,
    rounds: int,
    backbone: Backbone | None = None,
) -> MeasuredTraining:
    """Steps of a training of `config` on made-up images in memory; `backbone` is what
    `config.features` names.
    """
    plain = dataclasses.replace(config, dtype="float32")
    trainers = {
        name: probe_trainer(of, encoder, device=device, backbone=backbone)
        for name, of in ((TRAINED, config), (REFERENCE, plain))
    }
    timer = _Timer(config, device)
    profiles = {
        kind: _profile(trainers[TRAINED], number, device)
        for kind, (number, _) in timer.kinds.items()
    }
    gives_choice = device.type == "cpu" and memory.keep_freed_memory()
    found: dict[str, list[float]] = {name: [] for name in (TRAINED, REFERENCE, CONVOLUTIONS)}
    ratio_of_memory: list[float] = []
    rates: list[float] = []
    alone = {kind: _convolutions(profile, device) for kind, profile in profiles.items()}
    dtype = trainers[TRAINED].generator.compute_dtype
    gflop = timer.gflop_an_image(trainers[TRAINED])
    for number in range(rounds + WARM_UP):
        seconds = _seconds(timer, trainers, alone)
        if number < WARM_UP:
            continue
        for name, value in seconds.items():
            found[name].append(value)
        rates.append(_matrix_rate(dtype, device))
        if gives_choice:
            ratio_of_memory.append(_returned_over_kept(timer, trainers[TRAINED]))

    def ratio_of(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))

    return MeasuredTraining(
        dtype=str(dtype).removeprefix("torch."),
        batch=config.batch,
        augment_probability=trainers[TRAINED].augment.probability,
        seconds_per_kimg={name: statistics.median(values) for name, values in found.items()},
        over_convolutions=ratio_of(TRAINED, CONVOLUTIONS),
        reference_over_trained=ratio_of(REFERENCE, TRAINED),
        returned_over_kept=statistics.median(ratio_of_memory) if ratio_of_memory else None,
        gflop_an_image=gflop,
        matrix_gflop_a_second=statistics.median(rates),
        share_of_matrix_rate=statistics.median(
            1000 * gflop / seconds / rate
            for seconds, rate in zip(found[TRAINED], rates, strict=True)
        ),
        parts=timer.parts(profiles),
    )


def _seconds(
    timer: "_Timer", trainers: Mapping[str, GanTrainer], alone: Mapping[Kind, Callable[[], None]]
) -> dict[str, float]:
    """For 1000 images, of each kind that is compared."""
    seconds = {TRAINED: timer.steps(trainers[TRAINED])}
    seconds[CONVOLUTIONS] = timer.mean(lambda kind: alone[kind])
    before = native.mode()
    try:
        native.choose("reference")
        seconds[REFERENCE] = timer.steps(trainers[REFERENCE])
    finally:
        native.choose(before)
    return seconds


class _Timer:
    """Means over the kinds of steps, each as often as it comes, in seconds for 1000 images."""

    def __init__(self, config: GanTrainConfig, device: torch.device):
        self.kinds, self.batch, self.device = step_kinds(config), config.batch, device

    def mean(self, run_of: Callable[[Kind], Callable[[], object]]) -> float:
        total = sum(
            share * seconds_of(run_of(kind), self.device) for kind, (_, share) in self.kinds.items()
        )
        return total / self.batch * 1000

    def steps(self, trainer: GanTrainer) -> float:
        """One step of each kind."""

        def step_of(kind: Kind) -> Callable[[], object]:
            number, _ = self.kinds[kind]
            return lambda: trainer.step(number * self.batch)

        return self.mean(step_of)

    def gflop_an_image(self, trainer: GanTrainer) -> float:
        """Of steps of a trainer."""
        total = 0.0
        for number, share in self.kinds.values():
            with FlopCounterMode(display=False) as counter:
                trainer.step(number * self.batch)
            total += share * counter.get_total_flops()
        return total / self.batch / 1e9

    def parts(self, profiles: dict[Kind, StepProfile]) -> dict[str, float]:
        """By part of a step, largest first."""
        names = {name for profile in profiles.values() for name in profile.seconds}
        means = {
            name: sum(
                share * profiles[kind].seconds.get(name, 0.0)
                for kind, (_, share) in self.kinds.items()
            )
            for name in names
        }
        ordered = sorted(means.items(), key=lambda item: -item[1])
        return {name: value / self.batch * 1000 for name, value in ordered}


def _profile(trainer: GanTrainer, number: int, device: torch.device) -> StepProfile:
    """Of the step `number`, after one that sets up what is set up once."""
    trainer.step(number * trainer.batch)
    with StepProfile(device).parts() as profile:
        trainer.step(number * trainer.batch)
    return profile


def _convolutions(profile: StepProfile, device: torch.device) -> Callable[[], None]:
    """All of a step's convolutions, one after another."""
    calls = [(convolution_of(call, device), n) for call, n in profile.convolutions.items()]

    def run() -> None:
        for convolve, count in calls:
            for _ in range(count):
                convolve()

    return run


def _matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP a second of a large square product."""
    size = MATRIX_SIZE[device.type]
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    torch.matmul(a, b)  # what the first one sets up
    return 2 * size**3 / 1e9 / seconds_of(lambda: torch.matmul(a, b), device)


def _returned_over_kept(timer: _Timer, trainer: GanTrainer) -> float:
    """A step's time where freed memory goes back to the kernel, over its time where it is kept."""
    seconds = {}
    for name, choose in ((RETURNED, memory.return_freed_memory), ("", memory.keep_freed_memory)):
        choose()
        timer.steps(trainer)  # until what is kept is there, and what is not is gone
        seconds[name] = timer.steps(trainer)
    return seconds[RETURNED] / seconds[""]
