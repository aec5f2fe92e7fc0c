"""What a prior costs: parameters, memory, and time from a short probe. Shape letters: N batch, D
embedding.
"""

import dataclasses
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.prior.network import PriorConfig, PriorNetwork
from lafite_shifted.prior.prior import Prior
from torch_utils.autograd import saved_bytes
from torch_utils.device import pick_dtype
from training.prior.config import PriorTrainConfig

PROBE_BATCH = 32
# float32 weights, gradients, two moments of AdamW, and the EMA
BYTES_PER_PARAMETER = 20


@dataclass(frozen=True)
class PriorCost:
    """What one configuration costs on one device."""

    parameters: int
    training_gib: float
    seconds_per_kimg: float


def measure_prior(config: PriorTrainConfig, *, device: torch.device) -> PriorCost:
    """Steps of the network at its full width with one block and with two: the others cost what the
    second does.
    """
    with torch.device("meta"):
        parameters = sum(p.numel() for p in PriorNetwork(config.prior).parameters())
    batch = min(config.batch, PROBE_BATCH)
    first, second = (_probe(config, depth, batch, device) for depth in (1, 2))
    more = config.prior.depth - 1

    def total(one: float, two: float) -> float:
        return one + more * max(two - one, 0.0)

    activations = total(first[1], second[1]) / batch * config.batch
    return PriorCost(
        parameters,
        (parameters * BYTES_PER_PARAMETER + activations) / 2**30,
        total(first[0], second[0]) / batch * 1000,
    )


def _probe(
    config: PriorTrainConfig, depth: int, batch: int, device: torch.device
) -> tuple[float, float]:
    """(seconds, bytes that autograd keeps) of a step on made-up texts of full length; AdamW, which
    costs little beside it, is left out.
    """
    shape: PriorConfig = dataclasses.replace(config.prior, depth=depth, process="baseline")
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    dim, length = shape.embed_dim, shape.context_length
    stats = EmbeddingStats.of(normal(2, dim))  # made up too: what it holds costs nothing
    prior = Prior(shape, stats).to_device(device)
    prior.compute_dtype = pick_dtype(config.dtype, device)
    z0 = F.normalize(normal(batch, dim), dim=1).to(device)
    lengths = torch.full((batch,), length)
    tokens = normal(batch, length, shape.token_width)
    text = TextFeatures(F.normalize(normal(batch, dim), dim=1), tokens, lengths).to(device)
    is_energy = shape.objective == "energy"
    num_times = 1 if is_energy else config.timesteps_per_pair
    t = torch.full((batch, num_times), shape.schedule.num_steps // 2, device=device)
    noise = normal(batch, num_times, dim).to(device)
    sample_noise = (
        normal(batch, 1, config.timesteps_per_pair, dim).to(device) if is_energy else None
    )
    has_text = torch.ones(batch, dtype=torch.bool)

    def loss() -> torch.Tensor:
        return prior.loss(
            z0, text, t=t, noise=noise, has_text=has_text, sample_noise=sample_noise
        ).mean()

    kept = saved_bytes(loss)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        loss().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds), kept
