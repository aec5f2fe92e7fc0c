"""Evaluates a whole model, sentence to image, on held-out captioned images: rows of metrics by
judges for each way from the sentence to an image embedding, beside real images.

The images are generated as `generate` does it, in batches of the same size. Shape letters: N images
of the evaluation set, K images of one sentence, R resolution, F features.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lafite_shifted.pipeline import TextToImage
from torch_utils import seeds
from training.chain.rows import Sample
from training.gan.data import GanData
from training.gan.evaluate import EvalSet, others_of
from training.gan.report import OTHERS
from training.metrics.distances import intra_set_cosine
from training.metrics.judged import JudgedSet, features_by, mean_pair_distance, unit
from training.metrics.r_precision import plain

BATCH = 16  # images a forward pass, as `generate` has it
PROMPTS = 128  # sentences, and names of real images, at most that diversity is measured on
REAL = "held-out images"


@dataclass(frozen=True)
class ChainConfig:
    """How much is generated. Image n of a row has the seed `seed` + n."""

    per_prompt: int = 4  # K
    seed: int = 0


@dataclass(frozen=True)
class ChainMetrics:
    """Metrics by row, the images of each row, and what diversity is measured on."""

    rows: Mapping[str, Mapping[str, float]]
    images: Mapping[str, Tensor]  # [P, R, R, 3] uint8, of `prompts`
    prompts: Sequence[int]  # P rows of the evaluation set, whose sentences differ
    num_names: int  # of real images that several share


def generate(
    model: TextToImage, sample: Sample, rows: Sequence[int], sample_seeds: Sequence[int]
) -> Tensor:
    """Images [N, R, R, 3] uint8 of these rows of the evaluation set."""
    parts = []
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        embeddings = sample(rows[part], sample_seeds[part])
        parts.append(model.decode(embeddings, seeds=sample_seeds[part]))
    return torch.cat(parts)


def evaluate_chain(
    model: TextToImage,
    samples: Mapping[str, Sample],
    eval_set: EvalSet,
    data: GanData,
    judged: JudgedSet,
    config: ChainConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ChainMetrics:
    """Metrics of `samples` by name, then of real images. `judged` are the images of the evaluation
    set; `progress` gets the number of rows done and their total.
    """
    prompts = prompts_of(eval_set)
    rows, images = dict[str, Mapping[str, float]](), dict[str, Tensor]()
    for done, (name, sample) in enumerate(samples.items()):
        progress(done, len(samples))
        rows[name], images[name] = _row(model, sample, judged, prompts, config)
    progress(len(samples), len(samples))
    groups = same_name_images(data, most=config.per_prompt)
    diversity = _diversity(judged, groups)
    rows[REAL] = judged.metrics(judged.features) | diversity
    others = others_of(eval_set)
    if others is not None:
        pixels = data.images.get_batch(others["unrelated"].tolist()).pixels
        features = features_by(judged.judges, pixels.permute(0, 2, 3, 1))
        unrelated = {
            f"diversity_{space}": 1 - intra_set_cosine(unit(found))
            for space, found in features.items()
        }
        rows[OTHERS] = judged.metrics(features) | unrelated
    return ChainMetrics(rows, images, prompts, len(groups))


def _row(
    model: TextToImage,
    sample: Sample,
    judged: JudgedSet,
    prompts: Sequence[int],
    config: ChainConfig,
) -> tuple[dict[str, float], Tensor]:
    """Metrics of one row, and its images of the prompts."""
    count = len(next(iter(judged.features.values())))
    every, first = list(range(count)), config.seed
    generate(model, sample, every[:BATCH], every[:BATCH])  # what only a first call does
    start = time.perf_counter()
    made = generate(model, sample, every, [first + row for row in every])
    seconds = time.perf_counter() - start
    metrics = judged.metrics_of(made)
    chosen = made[torch.as_tensor(prompts)]
    takes = [chosen]  # the prompts' images of other seeds than all of the above
    for take in range(1, config.per_prompt):
        seeds_of_take = [first + take * count + row for row in prompts]
        takes.append(generate(model, sample, prompts, seeds_of_take))
    metrics |= _diversity(judged, list(torch.stack(takes, dim=1)))
    return metrics | {"ms_per_image": 1e3 * seconds / count}, chosen


def _diversity(judged: JudgedSet, groups: Sequence[Tensor]) -> dict[str, float]:
    """Mean distance of pairs within groups of images [K, R, R, 3], by feature space; nothing
    without groups of two.
    """
    if not groups or min(map(len, groups)) < 2:
        return {}
    features = features_by(judged.judges, torch.cat(list(groups)))
    sizes = [len(group) for group in groups]
    return {
        f"diversity_{space}": mean_pair_distance(found.split(sizes))
        for space, found in features.items()
    }


def prompts_of(eval_set: EvalSet) -> list[int]:
    """Rows of the evaluation set with different sentences, at most PROMPTS."""
    first: dict[str, int] = {}
    for row, text in enumerate(eval_set.texts):
        first.setdefault(plain(text), row)
    return list(first.values())[:PROMPTS]


def same_name_images(data: GanData, *, most: int) -> list[Tensor]:
    """Different images [K, R, R, 3] uint8 of one name (first caption), 2 to `most` of each name
    that has several, on whichever side of the split; of PROMPTS names at most, sampled.
    """
    named: dict[str, list[tuple[bool, int]]] = defaultdict(list)
    for held_out, images in ((False, data.images), (True, data.held_out_images)):
        for row, name in enumerate(images.names):
            if texts := data.texts.get(name):
                named[plain(texts[0])].append((held_out, row))
    several = [name for name in sorted(named) if len(named[name]) > 1]
    order = torch.randperm(len(several), generator=seeds.generator("names")).tolist()
    groups = []
    for index in order:
        found = list[Tensor]()
        for held_out, row in named[several[index]]:
            images = data.held_out_images if held_out else data.images
            square = images.get_batch([row]).pixels[0].permute(1, 2, 0)
            if len(found) < most and not any(square.equal(other) for other in found):
                found.append(square)
        if len(found) > 1:
            groups.append(torch.stack(found))
        if len(groups) == PROMPTS:
            break
    return groups
