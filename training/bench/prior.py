"""How long a prior takes for one sentence, with the text tower, and what reading the text once is
worth.
"""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.model_folder import load_prior, save_prior
from lafite_shifted.prior.network import PriorConfig
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import sample_embeddings
from lafite_shifted.prior.samplers import SamplerConfig
from torch_utils.device import DtypeName
from training.bench.ops import seconds_of

SENTENCE = "a red apple on a wooden table"


@dataclass(frozen=True)
class MeasuredPrior:
    """Medians of one sentence, batch 1."""

    parameters: int
    dtype: str  # of the prior's activations
    tower_milliseconds: float  # tokenizer and text tower
    sampling_milliseconds: dict[int, float]  # by number of steps, without the tower
    encode_each_step_over_encode_once: float  # paired ratio of 8 steps, those that do the same work


def untrained(
    config: PriorConfig, clip: ClipEncoder, *, device: torch.device, dtype: DtypeName
) -> Prior:
    """A prior of this size for the CLIP's text tower as users get one: saved, and loaded again."""
    dim = clip.id.dim
    sized = dataclasses.replace(
        config,
        process="shifted",
        embed_dim=dim,
        token_width=clip.embed_texts([SENTENCE]).tokens.shape[2],
        context_length=clip.context_length,
    )
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(4 * dim, dim, generator=generator), dim=1)
    prior = Prior(sized, EmbeddingStats.of(rows, clip.id))
    with tempfile.TemporaryDirectory() as folder:
        save_prior(Path(folder) / "prior", prior, training={})
        return load_prior(Path(folder) / "prior", device=device, dtype=dtype).prior


@torch.no_grad()
def bench_prior(
    prior: Prior, clip: ClipEncoder, *, device: torch.device, rounds: int
) -> MeasuredPrior:
    """A loaded prior, for this CLIP's text tower."""
    text = clip.embed_texts([SENTENCE])

    def encode_again() -> None:
        for _ in range(7):
            prior.encode_text(text)

    def sample(steps: int) -> Callable[[], object]:
        return lambda: sample_embeddings(
            prior, text, sample_seeds=[0], sampling=SamplerConfig(steps)
        )

    work: dict[str | int, Callable[[], object]] = {
        "tower": lambda: clip.embed_texts([SENTENCE]),
        "read again": encode_again,
        1: sample(1),
        4: sample(4),
        8: sample(8),
    }
    times: dict[str | int, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            elapsed = seconds_of(run, device)
            if number:  # the first round warms up
                times[name].append(elapsed)
    milliseconds = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    return MeasuredPrior(
        parameters=sum(p.numel() for p in prior.network.parameters()),
        dtype=str(prior.compute_dtype).removeprefix("torch."),
        tower_milliseconds=milliseconds["tower"],
        sampling_milliseconds={n: milliseconds[n] for n in (1, 4, 8)},
        encode_each_step_over_encode_once=statistics.median(
            (more + one) / one for more, one in zip(times["read again"], times[8], strict=True)
        ),
    )
