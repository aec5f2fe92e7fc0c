"""Evaluates priors on held-out captions: rows of metrics for every sampler configuration, beside
references.

Shape letters: m captions, D embedding.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import LoadedGenerator, LoadedPrior, find_part, load_prior
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.sample_embeddings import resolve_sampler, sample_embeddings
from lafite_shifted.prior.samplers import Sampler, SamplerConfig
from torch_utils.device import DtypeName
from torch_utils.host_reads import HostRead, on_host
from training.data.embeddings.embedding_set import EmbeddingSet
from training.prior.eval_set import EvalSet, references, same_name
from training.prior.metrics import BOOTSTRAP, Metrics, measure

PERFECT = "another real image of the same name"
CHUNK = 500  # captions a forward pass

Decode = Callable[[Tensor], Tensor]  # unit embeddings [m, D] -> those that are judged


def unchanged(embeddings: Tensor) -> Tensor:
    """Judges priors by the embeddings [m, D] that they sample."""
    return embeddings


def through(generator: LoadedGenerator, clip: ClipEncoder) -> Decode:
    """Judges priors by the images that a generator makes of their embeddings, each embedded again;
    z of row i is from seed i. InputError where `clip` is not the generator's.
    """
    check_same_encoder(
        generator.encoder_id, clip.id, what="The generator", remedy="Give its own CLIP."
    )
    pipeline = TextToImage(clip, generator, None)

    def decode(embeddings: Tensor) -> Tensor:
        parts = []
        for start in range(0, len(embeddings), 64):
            rows = embeddings[start : start + 64]
            images = pipeline.decode(rows, seeds=range(start, start + len(rows)))
            parts.append(clip.embed_images(images.permute(0, 3, 1, 2)))
        return on_host(torch.cat(parts), HostRead.EVALUATION)

    return decode


@dataclass(frozen=True)
class Row:
    """A row of the report: one sampler to get from text to embedding."""

    name: str
    steps: int | None  # None: no sampling
    guidance: float
    seeds: int  # trainings behind it; metrics are their mean
    metrics: Metrics
    spread: dict[str, float]  # standard deviation over the trainings, of the metrics
    milliseconds: float | None  # for one text of many, without the text tower


def reference_rows(eval_set: EvalSet, *, decode: Decode = unchanged) -> list[Row]:
    """Rows to compare priors with: the `references`, after `decode`, and images of the same name
    where at least 20 names have several.
    """
    by, rows = eval_set.data.encoder_id, []
    named = dict(references(eval_set))
    if decode is not unchanged:
        named["true embedding"] = eval_set.true
    for name, found in named.items():
        made = decode(found)
        metrics = measure(made, eval_set.true, made, encoder_id=by)
        rows.append(Row(name, None, 1.0, 1, metrics, {}, None))
    made, true = same_name(eval_set)
    if len(true) >= 20:
        name = f"{PERFECT} ({len(true)} names)"
        rows.append(Row(name, None, 1.0, 1, measure(made, true, encoder_id=by), {}, None))
    return rows


def sample_all(
    prior: LoadedPrior, eval_set: EvalSet, sampling: SamplerConfig
) -> tuple[Tensor, Tensor, float]:
    """Two sets of embeddings [m, D] on the CPU, text i with the seeds i and m + i, and the seconds
    that one set takes. A text is encoded once for both.
    """
    device = next(prior.prior.network.parameters()).device
    sampling, m = resolve_sampler(prior.prior, sampling), len(eval_set.captions)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    cache, drawing = 0.0, [0.0, 0.0]
    for start in range(0, m, CHUNK):
        rows = eval_set.captions[start : start + CHUNK]
        text = eval_set.data.text_features(rows).to(device)
        begin = time.perf_counter()
        encoded = prior.prior.encode_text(text, guided=sampling.guidance != 1.0)
        cache += time.perf_counter() - begin
        for number, parts in enumerate(found):
            first = number * m + start
            begin = time.perf_counter()
            seeds_of_rows = range(first, first + len(rows))
            made = sample_embeddings(
                prior.prior, encoded, sample_seeds=seeds_of_rows, sampling=sampling
            )
            parts.append(on_host(made, HostRead.EVALUATION))
            drawing[number] += time.perf_counter() - begin
    # the shorter: whatever else a machine does makes them longer
    return torch.cat(found[0]), torch.cat(found[1]), cache + min(drawing)


def label(prior: LoadedPrior) -> str:
    """What distinguishes a prior, its seed aside: such as "shifted full, linear"."""
    config = prior.prior.config
    process: str = config.process
    if process == "shifted":
        process = f"shifted {config.covariance}"
    elif process == "clusters":
        process = f"{config.num_clusters} {config.cluster_covariance} clusters"
    objective = ", energy" if config.objective == "energy" else ""
    steps = f", step budget {config.step_budget}" if config.step_budget else ""
    usual = dataclasses.replace(config, v_parameterisation=None).is_v_parameterised
    predicted = {True: ", v", False: ", z_0"}[config.is_v_parameterised]
    parameterisation = predicted if config.is_v_parameterised != usual else ""
    return f"{process}, {config.schedule.name}{objective}{steps}{parameterisation}"


def load_priors(
    runs: Sequence[Path],
    data: EmbeddingSet,
    device: torch.device,
    *,
    dtype: DtypeName = "auto",
) -> dict[str, list[LoadedPrior]]:
    """The priors of run or model folders by label, several seeds of one kind and length together;
    InputError for another CLIP's.
    """
    kinds: dict[tuple, list[LoadedPrior]] = {}
    for run in dict.fromkeys(runs):
        prior = load_prior(find_part(run, "prior"), device=device, dtype=dtype)
        check_same_encoder(
            prior.encoder_id,
            data.encoder_id,
            what=f"The prior {run}",
            remedy="Evaluate it on embeddings of its own CLIP.",
        )
        length = (prior.training.get("kimg"), prior.training.get("num_captions"))
        kinds.setdefault((prior.prior.config, *length), []).append(prior)
    labels = [label(group[0]) for group in kinds.values()]
    found = {}
    for (config, kimg, captions), group in kinds.items():
        name = label(group[0])
        if labels.count(name) > 1:
            name += f" ({config.width} x {config.depth}, {kimg} kimg of {captions} captions)"
        number = sum(known.startswith(name) for known in found)
        found[f"{name} {number + 1}" if number else name] = group
    return found


def report(
    priors: dict[str, list[LoadedPrior]],
    eval_set: EvalSet,
    sampler_configs: Sequence[SamplerConfig],
    *,
    decode: Decode = unchanged,
    bootstrap: int = BOOTSTRAP,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """A row for every group of priors and each of `sampler_configs` that the group allows, measured
    on `decode` of its samples.

    `priors` are trainings by label, as `load_priors` gives them. `progress` gets the number of
    samplings done and their total. InputError where a group allows none.
    """
    rows = []
    configs_of = {
        name: [w for w in sampler_configs if _can(group[0], w)] for name, group in priors.items()
    }
    for name, found in configs_of.items():
        if not found:
            raise InputError(
                f"The prior {name!r} was trained for none of these sampler configurations. Give "
                "fewer `--steps`, or `--sampler ancestral`."
            )
    total, done = sum(len(configs_of[name]) * len(group) for name, group in priors.items()), 0
    for name, group in priors.items():
        for sampler in configs_of[name]:
            measured, seconds = [], []
            for number, prior in enumerate(group):
                made, again, elapsed = sample_all(prior, eval_set, sampler)
                made, again = decode(made), decode(again)
                sampled = bootstrap if number == 0 else 0
                by = eval_set.data.encoder_id
                metrics = measure(made, eval_set.true, again, encoder_id=by, bootstrap=sampled)
                measured.append(metrics)
                seconds.append(elapsed)
                done += 1
                progress(done, total)
            milliseconds = min(seconds) / len(eval_set.captions) * 1e3
            rows.append(_joined(name, sampler, measured, milliseconds))
    return rows


def _can(prior: LoadedPrior, sampler: SamplerConfig) -> bool:
    """Whether its step budget and its objective allow the sampler configuration."""
    config = prior.prior.config
    if sampler.sampler not in (None, "ancestral") and config.objective == "energy":
        return False
    return config.step_budget is None or (sampler.steps or 1) <= config.step_budget


def _joined(name: str, sampler: SamplerConfig, measured: list[Metrics], milliseconds: float) -> Row:
    """Trainings of several seeds as one row: the means, with the first one's bootstrap errors."""
    values = {key: [asdict(one)[key] for one in measured] for key in asdict(measured[0])}
    errors = values.pop("errors")[0]
    by_clip = [statistics.mean(one) for one in zip(*values.pop("clip_i_sims"), strict=True)]
    means = {key: statistics.mean(one) for key, one in values.items()}
    spread = {}
    if len(measured) > 1:
        spread = {key: statistics.stdev(known) for key, known in values.items()}
    guided = "" if sampler.guidance == 1.0 else f", guidance {sampler.guidance:g}"
    guided += ", thresholded" if sampler.dynamic_threshold else ""
    guided += f", {sampler.sampler}" if sampler.sampler not in (None, "ancestral") else ""
    metrics = Metrics(**means, clip_i_sims=by_clip, errors=errors)
    return Row(
        name + guided, sampler.steps, sampler.guidance, len(measured), metrics, spread, milliseconds
    )


def few(steps: Sequence[int]) -> int:
    """The number of steps that guidance is tried with: the largest up to 8, or the smallest."""
    return max((n for n in steps if n <= 8), default=min(steps))


def sampler_configs_of(
    steps: Sequence[int], guidances: Sequence[float], sampler: Sampler
) -> list[SamplerConfig]:
    """Every number of steps without guidance, then `few` steps with each other scale."""
    guided = [SamplerConfig(few(steps), sampler, guidance=g) for g in guidances if g != 1.0]
    return [SamplerConfig(n, sampler) for n in steps] + guided
