"""How good priors are, on held-out captions: closeness to the true embedding, and the distribution.

One step of a prior that predicts means is right on average, poor as a distribution. So cosine,
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

from lafite_shifted.clip import ClipEncoder
from lafite_shifted.diffusion import Sampler, Sampling
from lafite_shifted.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import LoadedGenerator, LoadedPrior, find_part, load_prior
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior import energy_score
from torch_utils import seeds
from training.embeddings import EmbeddingSet
from training.metrics import (
    kernel_distance,
    mean_cosine,
    nearest,
    pairwise_cosine,
    recall_at,
    set_distance,
)
from training.prior_loop import one_a_name

UNRELATED = "real pictures of other names"
PERFECT = "another real picture of the same name"
COPY = 0.9995  # cosine of embeddings from which on two pictures are one
CHUNK = 500  # captions a forward pass
BOOTSTRAP = 100  # draws of the captions, for the errors


Decode = Callable[[Tensor], Tensor]  # unit embeddings [m, D] -> those that are judged


def unchanged(embeddings: Tensor) -> Tensor:
    """Priors judged by what they make themselves."""
    return embeddings


def through(generator: LoadedGenerator, clip: ClipEncoder) -> Decode:
    """Priors judged by the pictures that a generator makes of their embeddings: each embedded
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
            pictures = pipeline.decode(rows, seeds=range(start, start + len(rows)))
            parts.append(clip.embed_images(pictures.permute(0, 3, 1, 2)).cpu())
        return torch.cat(parts)

    return decode


@dataclass(frozen=True)
class Figures:
    """Of m embeddings predicted for m held-out captions; errors are bootstrap standard errors over
    the captions.
    """

    cosine: float  # to the true image embedding
    cosine_error: float
    cosines: list[float]  # the same by each CLIP, where there are several
    frechet: float  # between the two sets
    frechet_error: float
    kernel: float  # the same by kernel_distance
    recall_1: float  # share that finds its own image among all m
    recall_10: float
    recall_10_error: float
    diversity: float  # mean pairwise cosine; `real` has its own
    same_text: float | None  # mean cosine of two draws for the same text; 1 has no diversity
    # of two draws, against the true one: smallest where they have its distribution given the text
    energy: float | None


@dataclass(frozen=True)
class Line:
    """A line of the report: one way to get from text to embedding."""

    name: str
    steps: int | None  # None: no sampling
    guidance: float
    seeds: int  # trainings behind it; figures are their mean
    figures: Figures
    spread: dict[str, float]  # standard deviation over the trainings, of cosine and distances
    milliseconds: float | None  # for one text of many, without the text tower


def measure(
    predicted: Tensor,
    true: Tensor,
    again: Tensor | None = None,
    *,
    encoder_id: EncoderId | None = None,
    bootstrap: int = BOOTSTRAP,
) -> Figures:
    """The figures of unit embeddings [m, D] predicted for captions whose images are `true`;
    `again` are other draws for the same captions (`predicted` itself where nothing is drawn).
    """
    by_clip = encoder_id.cosines(predicted, true) if encoder_id else []
    same_text = energy = None
    if again is not None:
        same_text = mean_cosine(predicted, again)
        energy = float(energy_score(torch.stack([predicted, again], dim=1), true).mean())
    similarity = predicted @ true.T
    found = similarity.diagonal()[:, None] > similarity
    rank = len(true) - found.sum(dim=1)  # 1 is the closest; ties count against it
    cosine = similarity.diagonal()
    errors: dict[str, list[float]] = {"cosine": [], "frechet": [], "recall": []}
    for number in range(bootstrap):
        generator = seeds.generator("bootstrap", number)
        rows = torch.randint(len(true), (len(true),), generator=generator)
        errors["cosine"].append(float(cosine[rows].mean()))
        errors["frechet"].append(set_distance(predicted[rows], true[rows]))
        errors["recall"].append(float((rank[rows] <= 10).double().mean()))
    error = {
        name: statistics.stdev(values) if bootstrap > 1 else 0.0 for name, values in errors.items()
    }
    return Figures(
        cosine=mean_cosine(predicted, true),
        cosine_error=error["cosine"],
        cosines=by_clip if len(by_clip) > 1 else [],
        frechet=set_distance(predicted, true),
        frechet_error=error["frechet"],
        kernel=kernel_distance(predicted, true, paired=True),
        recall_1=recall_at(similarity, 1),
        recall_10=recall_at(similarity, 10),
        recall_10_error=error["recall"],
        diversity=pairwise_cosine(predicted),
        same_text=same_text,
        energy=energy,
    )


@dataclass(frozen=True)
class Asked:
    """The held-out captions of a set of embeddings, and what is known of them."""

    data: EmbeddingSet
    captions: Tensor  # [m]
    true: Tensor  # [m, D]
    training: Tensor  # caption indices of the other side of the split

    @staticmethod
    def of(data: EmbeddingSet, *, limit: int | None = None) -> "Asked":
        """All held-out captions, one a name; InputError below 20."""
        held_out = data.held_out[data.caption_image]
        captions = one_a_name(data, torch.nonzero(held_out).flatten())[:limit]
        training = torch.nonzero(~held_out).flatten()
        if len(captions) < 20 or len(one_a_name(data, training)) < len(captions):
            raise InputError(
                f"{len(captions)} held-out captions and {len(training)} others are too few to "
                "evaluate on: at least 20 are needed, and as many other names. Embed more "
                "captioned pictures."
            )
        return Asked(data, captions, data.image[data.caption_image[captions]], training)

    def first(self, count: int) -> "Asked":
        """The first `count` of the captions."""
        return replace(self, captions=self.captions[:count], true=self.true[:count])


def references(asked: Asked) -> Iterator[tuple[str, Tensor]]:
    """Embeddings [m, D] that no prior has made, to compare with."""
    data, m = asked.data, len(asked.captions)
    text = data.text[asked.captions]
    yield "text itself (no prior)", text
    closest = asked.training[nearest(text, data.text[asked.training])]
    yield "nearest training caption's image", data.image[data.caption_image[closest]]
    yield UNRELATED, data.image[data.caption_image[one_a_name(data, asked.training)[:m]]]


def same_name(asked: Asked) -> tuple[Tensor, Tensor]:
    """Another real picture [n, D] of each held-out name that has several different ones, and the
    true one: what a perfect prior would make.
    """
    data, others = asked.data, dict[str, int]()
    images = data.caption_image[asked.captions].tolist()
    own = dict(zip((data.captions[i] for i in asked.captions.tolist()), images, strict=True))
    for caption in torch.nonzero(data.held_out[data.caption_image]).flatten().tolist():
        name, image = data.captions[caption], int(data.caption_image[caption])
        if name not in own or name in others or image == own[name]:
            continue
        if float(data.image[image] @ data.image[own[name]]) < COPY:
            others[name] = image
    names = sorted(others)
    return data.image[[others[n] for n in names]], data.image[[own[n] for n in names]]


def reference_lines(asked: Asked, *, decode: Decode = unchanged) -> list[Line]:
    """What priors must be compared with; the same name's pictures where there are enough."""
    by, lines = asked.data.encoder_id, []
    named = dict(references(asked))
    if decode is not unchanged:
        named["true embedding"] = asked.true
    for name, found in named.items():
        made = decode(found)
        figures = measure(made, asked.true, made, encoder_id=by)
        lines.append(Line(name, None, 1.0, 1, figures, {}, None))
    made, true = same_name(asked)
    if len(true) >= 20:
        name = f"{PERFECT} ({len(true)} names)"
        lines.append(Line(name, None, 1.0, 1, measure(made, true, encoder_id=by), {}, None))
    return lines


def draw(
    prior: LoadedPrior, asked: Asked, sampling: Sampling, *, first_seed: int = 0
) -> tuple[Tensor, float]:
    """Embeddings [m, D] on the CPU, text i with seed `first_seed` + i, and the seconds it took."""
    device = next(prior.prior.network.parameters()).device
    parts, elapsed = [], 0.0
    for start in range(0, len(asked.captions), CHUNK):
        rows = asked.captions[start : start + CHUNK]
        text = asked.data.text_features(rows).to(device)
        begin = time.perf_counter()
        indices = range(first_seed + start, first_seed + start + len(rows))
        parts.append(prior.prior.sample(text, sample_seeds=indices, sampling=sampling).cpu())
        elapsed += time.perf_counter() - begin
    return torch.cat(parts), elapsed


def label(prior: LoadedPrior) -> str:
    """What distinguishes a prior, its seed aside: such as "shifted full, linear"."""
    config = prior.prior.config
    process: str = config.process
    if process == "shifted":
        process = f"shifted {config.covariance}"
    elif process == "clusters":
        process = f"{config.num_clusters} {config.cluster_covariance} clusters"
    predicts = ", draws" if config.predicts == "draw" else ""
    steps = f", of at most {config.max_steps} steps" if config.max_steps else ""
    usual = dataclasses.replace(config, residual=None).is_residual
    residual = {True: ", residual", False: ", direct"}[config.is_residual]
    said = residual if config.is_residual != usual else ""
    return f"{process}, {config.schedule.name}{predicts}{steps}{said}"


def load_priors(
    runs: Sequence[Path], data: EmbeddingSet, device: torch.device
) -> dict[str, list[LoadedPrior]]:
    """The priors of run or model folders by label, several seeds of one kind and length together;
    InputError for another CLIP's.
    """
    kinds: dict[tuple, list[LoadedPrior]] = {}
    for run in dict.fromkeys(runs):
        prior = load_prior(find_part(run, "prior"), device=device)
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
    asked: Asked,
    ways: Sequence[Sampling],
    *,
    decode: Decode = unchanged,
    bootstrap: int = BOOTSTRAP,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Line]:
    """Every prior sampled in all `ways`; what is judged is `decode` of what it makes."""
    lines = []
    asked_ways = {name: [w for w in ways if _can(group[0], w)] for name, group in priors.items()}
    for name, found in asked_ways.items():
        if not found:
            raise InputError(
                f"The prior {name!r} has learnt none of these ways to sample. Give fewer "
                "`--steps`, or `--sampler ancestral`."
            )
    total, done = sum(len(asked_ways[name]) * len(group) for name, group in priors.items()), 0
    for name, group in priors.items():
        for way in asked_ways[name]:
            measured, seconds = [], []
            for number, prior in enumerate(group):
                made, elapsed = draw(prior, asked, way)
                again, later = draw(prior, asked, way, first_seed=len(asked.captions))
                made, again = decode(made), decode(again)
                drawn = bootstrap if number == 0 else 0
                by = asked.data.encoder_id
                figures = measure(made, asked.true, again, encoder_id=by, bootstrap=drawn)
                measured.append(figures)
                seconds += [elapsed, later]
                done += 1
                progress(done, total)
            # the shortest: whatever else a machine does makes them longer
            milliseconds = min(seconds) / len(asked.captions) * 1e3
            lines.append(_joined(name, way, measured, milliseconds))
    return lines


def _can(prior: LoadedPrior, way: Sampling) -> bool:
    """A prior that has learnt few steps is asked for no more, and one that draws in one way."""
    config = prior.prior.config
    if way.sampler not in (None, "ancestral") and config.predicts == "draw":
        return False
    return config.max_steps is None or (way.steps or 1) <= config.max_steps


def _joined(name: str, way: Sampling, measured: list[Figures], milliseconds: float) -> Line:
    """Trainings of several seeds as one line; the bootstrap errors are the first one's."""
    values = {key: [asdict(one)[key] for one in measured] for key in asdict(measured[0])}
    kept = ("cosine_error", "frechet_error", "recall_10_error")
    by_clip = [statistics.mean(one) for one in zip(*values.pop("cosines"), strict=True)]
    means = {key: one[0] if key in kept else statistics.mean(one) for key, one in values.items()}
    spread = {}
    if len(measured) > 1:
        keys = ("cosine", "frechet", "kernel", "recall_10", "energy")
        spread = {key: statistics.stdev(values[key]) for key in keys}
    guided = "" if way.guidance == 1.0 else f", guidance {way.guidance:g}"
    guided += ", thresholded" if way.threshold else ""
    guided += f", {way.sampler}" if way.sampler not in (None, "ancestral") else ""
    figures = Figures(**means, cosines=by_clip)
    return Line(
        name + guided, way.steps, way.guidance, len(measured), figures, spread, milliseconds
    )


def few(steps: Sequence[int]) -> int:
    """8, or the most below it: where guidance is tried."""
    return max((n for n in steps if n <= 8), default=min(steps))


def ways_of(steps: Sequence[int], guidances: Sequence[float], sampler: Sampler) -> list[Sampling]:
    """Every number of steps without guidance, then a few steps with each."""
    guided = [Sampling(few(steps), sampler, guidance=g) for g in guidances if g != 1.0]
    return [Sampling(n, sampler) for n in steps] + guided
