"""How good priors are, on held-out captions: closeness to the true embedding, and the distribution.

One step of a prior of the mse objective is right on average, poor as a distribution. So cosine,
recall, distances of the sets and the energy score, which judges the distribution given the text,
stand beside each other. Shape letters: m captions, D embedding.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import LoadedGenerator, LoadedPrior, find_part, load_prior
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.diffusion import Sampler, SamplerConfig
from lafite_shifted.prior.prior import energy_score
from torch_utils import seeds
from torch_utils.device import DtypeName
from training.data.embeddings.embedding_set import EmbeddingSet
from training.metrics.distances import (
    intra_set_cosine,
    kernel_distance,
    nearest,
    set_distance,
)
from training.prior.trainer import one_a_name

UNRELATED = "real images of other names"
PERFECT = "another real image of the same name"
COPY = 0.9995  # cosine of embeddings from which on two images are one
CHUNK = 500  # captions a forward pass
BOOTSTRAP = 200  # resamplings of the captions, for the errors


Decode = Callable[[Tensor], Tensor]  # unit embeddings [m, D] -> those that are judged


def unchanged(embeddings: Tensor) -> Tensor:
    """Priors judged by what they make themselves."""
    return embeddings


def through(generator: LoadedGenerator, clip: ClipEncoder) -> Decode:
    """Priors judged by the images that a generator makes of their embeddings: each embedded
    again; z of row i from seed i.
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
            parts.append(clip.embed_images(images.permute(0, 3, 1, 2)).cpu())
        return torch.cat(parts)

    return decode


@dataclass(frozen=True)
class Metrics:
    """Of m embeddings predicted for m held-out captions."""

    clip_i_sim: float  # to the true image embedding
    clip_i_sims: list[float]  # the same by each CLIP, where there are several
    fd_clip: float  # between the two sets
    kid_clip: float  # the same by kernel_distance
    retrieval_1: float  # share that finds its own image among all m
    retrieval_10: float
    intra_set_cosine: float  # mean pairwise cosine; `real` has its own
    same_text_cosine: float | None  # mean cosine of two samples for one text; 1 has no diversity
    # of two samples, against the true one: smallest where they have its distribution given the text
    energy: float | None
    errors: dict[str, float]  # bootstrap standard errors over the captions, of what is above


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


def measure(
    predicted: Tensor,
    true: Tensor,
    again: Tensor | None = None,
    *,
    encoder_id: EncoderId | None = None,
    bootstrap: int = BOOTSTRAP,
) -> Metrics:
    """The figures of unit embeddings [m, D] predicted for captions whose images are `true`;
    `again` are other samples for the same captions (`predicted` where nothing is sampled).
    """
    by_clip = encoder_id.cosines(predicted, true) if encoder_id else []
    similarity = predicted @ true.T
    found = similarity.diagonal()[:, None] > similarity
    rank = len(true) - found.sum(dim=1)  # 1 is the closest; ties count against it
    of_captions = {
        "clip_i_sim": similarity.diagonal(),
        "retrieval_1": (rank <= 1).float(),
        "retrieval_10": (rank <= 10).float(),
    }
    if again is not None:
        of_captions["same_text_cosine"] = (predicted * again).sum(dim=1)
        of_captions["energy"] = energy_score(torch.stack([predicted, again], dim=1), true)
    means = {name: float(values.double().mean()) for name, values in of_captions.items()}
    return Metrics(
        clip_i_sim=means["clip_i_sim"],
        clip_i_sims=by_clip if len(by_clip) > 1 else [],
        fd_clip=set_distance(predicted, true),
        kid_clip=kernel_distance(predicted, true, paired=True),
        retrieval_1=means["retrieval_1"],
        retrieval_10=means["retrieval_10"],
        intra_set_cosine=intra_set_cosine(predicted),
        same_text_cosine=means.get("same_text_cosine"),
        energy=means.get("energy"),
        errors=_errors(predicted, true, of_captions, bootstrap) if bootstrap > 1 else {},
    )


def _errors(
    predicted: Tensor, true: Tensor, of_captions: dict[str, Tensor], bootstrap: int
) -> dict[str, float]:
    """Bootstrap standard errors: of means over captions, of means over pairs of different captions,
    and of the Frechet distance.
    """
    m = len(true)
    rows = torch.stack(
        [
            torch.randint(m, (m,), generator=seeds.generator("bootstrap", n))
            for n in range(bootstrap)
        ]
    )
    times = torch.zeros(bootstrap, m, dtype=torch.float64)  # that a caption is sampled
    times.scatter_add_(1, rows, torch.ones_like(times))
    sampled = {name: times @ values.double() / m for name, values in of_captions.items()}
    a, b = predicted.double(), true.double()
    within, across = a @ a.T, a @ b.T
    of_pairs = {
        "intra_set_cosine": within,
        "kid_clip": (1 + within) ** 3
        + (1 + b @ b.T) ** 3
        - (1 + across) ** 3
        - (1 + across.T) ** 3,
    }
    for name, values in of_pairs.items():
        different = values.fill_diagonal_(0)
        sampled[name] = ((times @ different) * times).sum(dim=1) / (m * (m - 1))
    distances = [set_distance(predicted[own], true[own]) for own in rows]
    sampled["fd_clip"] = torch.tensor(distances, dtype=torch.float64)
    return {name: float(values.std()) for name, values in sampled.items()}


@dataclass(frozen=True)
class EvalSet:
    """The held-out captions of a set of embeddings, and what is known of them."""

    data: EmbeddingSet
    captions: Tensor  # [m]
    true: Tensor  # [m, D]
    training: Tensor  # caption indices of the other side of the split
    copies: int  # held-out captions not eval_set, whose image is among those trained on

    @staticmethod
    def of(data: EmbeddingSet, *, limit: int | None = None) -> "EvalSet":
        """All held-out captions, one a name, without those of images that another name of the
        training side has too; InputError below 20.
        """
        held_out = data.held_out[data.caption_image]
        captions = one_a_name(data, torch.nonzero(held_out).flatten())
        training = torch.nonzero(~held_out).flatten()
        copied = _are_among(
            data.image[data.caption_image[captions]], data.image[data.caption_image[training]]
        )
        captions = captions[~copied][:limit]
        if len(captions) < 20 or len(one_a_name(data, training)) < len(captions):
            raise InputError(
                f"{len(captions)} held-out captions and {len(training)} others are too few to "
                "evaluate on: at least 20 are needed, and as many other names. Embed more "
                "captioned images."
            )
        true = data.image[data.caption_image[captions]]
        return EvalSet(data, captions, true, training, int(copied.sum()))

    def first(self, count: int) -> "EvalSet":
        """The first `count` of the captions."""
        return replace(self, captions=self.captions[:count], true=self.true[:count])


def _are_among(images: Tensor, others: Tensor) -> Tensor:
    """Which of the unit rows [m, D] have a copy among `others`: booleans [m]."""
    found = torch.zeros(len(images), dtype=torch.bool)
    for part in others.split(CHUNK * 100):
        found |= (images @ part.T >= COPY).any(dim=1)
    return found


def references(eval_set: EvalSet) -> Iterator[tuple[str, Tensor]]:
    """Embeddings [m, D] that no prior has made, to compare with."""
    data, m = eval_set.data, len(eval_set.captions)
    text = data.text[eval_set.captions]
    yield "text itself (no prior)", text
    closest = eval_set.training[nearest(text, data.text[eval_set.training])]
    yield "nearest training caption's image", data.image[data.caption_image[closest]]
    yield UNRELATED, data.image[data.caption_image[one_a_name(data, eval_set.training)[:m]]]


def same_name(eval_set: EvalSet) -> tuple[Tensor, Tensor]:
    """Another real image [n, D] of each held-out name that has several different ones, and the
    true one: what a perfect prior would make.
    """
    data, others = eval_set.data, dict[str, int]()
    images = data.caption_image[eval_set.captions].tolist()
    own = dict(zip((data.captions[i] for i in eval_set.captions.tolist()), images, strict=True))
    for caption in torch.nonzero(data.held_out[data.caption_image]).flatten().tolist():
        name, image = data.captions[caption], int(data.caption_image[caption])
        if name not in own or name in others or image == own[name]:
            continue
        if float(data.image[image] @ data.image[own[name]]) < COPY:
            others[name] = image
    names = sorted(others)
    return data.image[[others[n] for n in names]], data.image[[own[n] for n in names]]


def reference_rows(eval_set: EvalSet, *, decode: Decode = unchanged) -> list[Row]:
    """What priors must be compared with; the same name's images where there are enough."""
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
    """Two embeddings [m, D] of each text on the CPU, of text i with seeds i and m + i, and the
    seconds that one takes. A text is encoded once for both.
    """
    device = next(prior.prior.network.parameters()).device
    sampling, m = prior.prior.resolved(sampling), len(eval_set.captions)
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
            made = prior.prior.sample(encoded, sample_seeds=seeds_of_rows, sampling=sampling)
            parts.append(made.cpu())
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
    """Every prior sampled in all `sampler_configs`; what is judged is `decode` of what it makes."""
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
    """Trainings of several seeds as one row; the bootstrap errors are the first one's."""
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
    """8, or the most below it: where guidance is tried."""
    return max((n for n in steps if n <= 8), default=min(steps))


def sampler_configs_of(
    steps: Sequence[int], guidances: Sequence[float], sampler: Sampler
) -> list[SamplerConfig]:
    """Every number of steps without guidance, then a few steps with each."""
    guided = [SamplerConfig(few(steps), sampler, guidance=g) for g in guidances if g != 1.0]
    return [SamplerConfig(n, sampler) for n in steps] + guided
