"""The comparison of processes at equal network, schedule, sampler and budget: trains what is
missing, then reports. A stopped study resumes where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lafite_shifted.encoders.encoder_id import check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.prior.diffusion import SamplerConfig
from torch_utils.device import DtypeName
from training.data.embeddings.embedding_set import EmbeddingSet
from training.loop import Progress, run_loop
from training.prior.eval_set import EvalSet
from training.prior.evaluate import Row, few, load_priors, reference_rows, report
from training.prior.presets import PRIOR_PRESETS
from training.prior.report import write_report
from training.prior.run import open_prior_run, prior_config

PROCESSES = {
    "full": ("shifted", "prior.covariance=full"),
    "diagonal": ("shifted", "prior.covariance=diagonal"),
    "clusters": ("clusters",),
    "baseline": ("baseline",),
    # each with the other network: that predicts z_0, or v
    "full-z0": ("shifted", "prior.covariance=full", "prior.v_parameterisation=false"),
    "diagonal-v": ("shifted", "prior.covariance=diagonal", "prior.v_parameterisation=true"),
    "baseline-v": ("baseline", "prior.v_parameterisation=true"),
}
ENERGY = ("shifted", "prior.covariance=full", "prior.objective=energy")
REGRESSION = (
    "shifted",
    "prior.covariance=full",
    "prior.step_budget=1",
)  # is conditioned on the text alone
TUNED = (*ENERGY, "prior.step_budget=1")  # from full, for a share of its length
TUNED_SHARE = 0.4
GUIDANCES = (1.5, 2.0, 4.0)  # of full and baseline
GUIDED = ("full-linear-0", "baseline-linear-0")
ENOUGH = 16  # steps of the solver, which ends there
LONG = (64, 1000)  # steps, with few texts
LONG_LIMIT = 100


@dataclass(frozen=True)
class StudyConfig:
    """How much is trained and evaluated."""

    kimg: float = 100.0
    num_seeds: int = 3  # of the linear schedule; the cosine one has one
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    limit: int | None = None  # of captions
    eval_embeddings: Path | None = None  # embeddings of the evaluation set, if not those trained on
    dtype: DtypeName = "auto"  # of activations, in training and after


@dataclass(frozen=True)
class Training:
    """One of a study: its run's name, its process and settings, and the run it starts from."""

    name: str
    settings: tuple[str, ...]
    seed: int
    kimg: float
    init: str | None = None


def trainings(config: StudyConfig) -> list[Training]:
    """The seeds one after another, then the other schedule."""
    found, kimg = [], config.kimg
    for seed in range(config.num_seeds):
        of_seed = PROCESSES | {"energy": ENERGY} | ({"regression": REGRESSION} if seed == 0 else {})
        found += [Training(f"{n}-linear-{seed}", given, seed, kimg) for n, given in of_seed.items()]
        full = f"full-linear-{seed}"
        found.append(Training(f"tuned-linear-{seed}", TUNED, seed, kimg * TUNED_SHARE, full))
    cosine = "prior.schedule.name=cosine"
    others = PROCESSES.items()
    return found + [Training(f"{n}-cosine-0", (*given, cosine), 0, kimg) for n, given in others]


def run_study(
    embeddings: Path,
    out: Path,
    config: StudyConfig,
    *,
    device: torch.device,
    command: str,
    show: Callable[[Iterator[Progress], str], object],
    progress: Callable[[int, int], None],
) -> list[Row]:
    """Train every prior into `out`, then write report.json, report.md and steps.png there."""
    data = EmbeddingSet(embeddings)
    held_out = EmbeddingSet(config.eval_embeddings) if config.eval_embeddings else data
    eval_set = EvalSet.of(
        held_out, limit=config.limit
    )  # refused before hours of training, not after
    what, remedy = "The evaluation set", "Give embeddings of the same CLIP."
    check_same_encoder(held_out.encoder_id, data.encoder_id, what=what, remedy=remedy)
    most = PRIOR_PRESETS["tiny"].prior.schedule.num_steps
    if max(config.steps) > most:
        raise InputError(f"{max(config.steps)} sampling steps: at most {most}. Give fewer.")
    for training in trainings(config):
        process, *settings = training.settings
        prior = prior_config(
            PRIOR_PRESETS["tiny"],
            process=process,
            kimg=training.kimg,
            batch=None,
            seed=training.seed,
            assignments=[
                *settings,
                f"run.evaluate_kimg={training.kimg}",
                f"dtype={config.dtype}",
            ],
        )
        init = out / training.init if training.init else None
        trainer, run = open_prior_run(prior, data, out / training.name, device=device, init=init)
        show(run_loop(trainer, prior.run, run()), training.name)
    start = time.monotonic()
    rows = _evaluate_all(out, data, eval_set, config, device, progress)
    write_report(out, rows, eval_set, command=command, seconds=time.monotonic() - start)
    return rows


def _evaluate_all(
    out: Path,
    data: EmbeddingSet,
    eval_set: EvalSet,
    config: StudyConfig,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> list[Row]:
    def priors(names: Sequence[str]) -> dict[str, list]:
        return load_priors([out / name for name in names], data, device, dtype=config.dtype)

    names = [training.name for training in trainings(config)]
    plain = [SamplerConfig(n, "ancestral") for n in config.steps]
    plain += [SamplerConfig(n, "dpm++") for n in config.steps if 1 < n <= ENOUGH]
    guided = [SamplerConfig(few(config.steps), "ancestral", guidance=scale) for scale in GUIDANCES]
    guided.append(replace(guided[-1], dynamic_threshold=True))
    solved = [SamplerConfig(n, "ddim") for n in config.steps if n > 1]
    rows = reference_rows(eval_set)
    rows += report(priors(names), eval_set, plain, progress=progress)
    rows += report(priors(GUIDED), eval_set, guided)
    rows += report(priors(GUIDED[:1]), eval_set, solved)
    if max(config.steps) >= min(LONG):
        few_texts = eval_set.first(LONG_LIMIT)
        long = report(priors(GUIDED), few_texts, [SamplerConfig(n, "ancestral") for n in LONG])
        rows += [replace(row, name=f"{row.name}, {LONG_LIMIT} texts") for row in long]
    return rows
