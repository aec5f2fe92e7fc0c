"""Metrics of generated images by judges, against a set of real images.

Shape letters: N images, R resolution, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lafite_shifted.encoders.encoder_id import weights_digest
from lafite_shifted.io.files import sha256_of
from training.metrics.distances import (
    feature_kernel_distance,
    intra_set_cosine,
    precision_and_recall,
    set_distance,
)
from training.metrics.judges import CLIP, IMAGE, Judges
from training.metrics.r_precision import CHOICES, SentenceChoice
from training.metrics.table import Column

JUDGE_COLUMNS = (
    Column("kid_judge", ("kid_judge",), space=IMAGE),
    Column("fd_judge", ("fd_judge",), 2, space=IMAGE),
    Column("precision_judge / recall_judge %", ("precision_judge", "recall_judge"), 1, 100, IMAGE),
    Column("kid_judge_clip", ("kid_judge_clip",), space=CLIP),
    Column("R-precision %", ("r_precision",), 1, 100, CLIP),
)
Features = Mapping[str, Tensor]  # [N, F] by feature space


@dataclass(frozen=True)
class JudgedSet:
    """Real images as the judges see them; images generated in their places are compared with
    them.
    """

    judges: Judges
    features: Features  # of the real images
    references: Mapping[str, Mapping[str, int | str]]  # by feature space, see `Reference`
    captioned: Tensor  # [M] indices of the images that have a sentence
    choice: SentenceChoice | None  # of those M; None without a judge CLIP, or sentences

    @staticmethod
    def of(judges: Judges, images: Tensor, texts: Sequence[str], *, seed: int = 0) -> "JudgedSet":
        """Of real images [N, R, R, 3] uint8 with their sentences, "" where there is none; `seed` is
        that of the sentences to choose from.
        """
        features = features_by(judges, images)
        captioned = [row for row, text in enumerate(texts) if text]
        choice = None
        if judges.clip is not None and captioned:
            own = [texts[row] for row in captioned]
            choice = SentenceChoice.of(own, judges.clip.embed_texts, seed=seed)
        references: dict[str, dict[str, int | str]] = {
            space: {
                "images": len(images),
                "dim": features[space].shape[1],
                "filter": f"{images.shape[1]} pixels, {judge.filter}",
                "name": judge.name,
                "encoder": judge.digest,
                "hash": weights_digest({"images": images}),
            }
            for space, judge in judges.spaces.items()
        }
        if choice is not None:
            references[CLIP]["captioned"], references[CLIP]["choices"] = choice.choices.shape
            told = repr([*map(str, texts), seed])
            references[CLIP]["sentences"] = sha256_of(told.encode())[:16]
        return JudgedSet(judges, features, references, torch.tensor(captioned), choice)

    def metrics_of(self, images: Tensor) -> dict[str, float]:
        """Metrics of images [N, R, R, 3] uint8, the i-th in the place of the i-th real one."""
        return self.metrics(features_by(self.judges, images))

    def metrics(self, features: Features) -> dict[str, float]:
        """The same, of features [N, F]. A Frechet distance is left out where there are no more
        images than features.
        """
        found: dict[str, float] = {}
        if IMAGE in features:
            real, made = self.features[IMAGE], features[IMAGE]
            precision, recall = precision_and_recall(real, made)
            found["kid_judge"] = feature_kernel_distance(made, real, paired=True)
            if len(made) > made.shape[1]:
                found["fd_judge"] = set_distance(made, real)
            found |= {"precision_judge": precision, "recall_judge": recall}
        if CLIP in features:
            real, made = self.features[CLIP], features[CLIP]
            found["kid_judge_clip"] = feature_kernel_distance(made, real, paired=True)
            if self.choice is not None:
                found["r_precision"] = self.choice.precision(made[self.captioned])
        return found

    def notes(self) -> list[str]:
        """What the metrics lack, and why."""
        found = []
        judge = self.references.get(IMAGE)
        if judge and int(judge["images"]) <= int(judge["dim"]):
            found.append(
                f"note: fd_judge is left out: {judge['images']} images are too few for a "
                f"covariance of {judge['dim']} features. Compare kid_judge, or evaluate on more "
                "images."
            )
        if CLIP in self.references and self.choice is None:
            found.append("note: r_precision is left out: the images have no different sentences.")
        choices = 0 if self.choice is None else self.choice.choices.shape[1]
        if 0 < choices < CHOICES:
            found.append(f"note: r_precision is among {choices} sentences, not {CHOICES}.")
        return found


def judge_lines(references: Mapping[str, Mapping[str, int | str]]) -> str:
    """What a report tells of its judges."""
    names = {IMAGE: "Judge of images", CLIP: "Judge CLIP"}
    found = [
        f"{name} (`{space}`): {{name}}, weights {{encoder}}, {{filter}}; reference {{hash}}".format(
            **references[space]
        )
        for space, name in names.items()
        if space in references
    ]
    if count := int(references.get(CLIP, {}).get("captioned", 0)):
        error = 50 / count**0.5  # of a share of 1 / 2
        found.append(f"Standard error of R-precision over the images: {error:.1f} % at most")
    return "".join(f"{line}.\n\n" for line in found)


def features_by(judges: Judges, images: Tensor) -> dict[str, Tensor]:
    """Features [N, F] of images [N, R, R, 3] uint8, by feature space."""
    return {space: judge.features(images) for space, judge in judges.spaces.items()}


def unit(features: Tensor) -> Tensor:
    """Rows [N, F] of norm 1, float64."""
    return normalize(features.double(), dim=1)


def mean_pair_distance(groups: Sequence[Tensor]) -> float:
    """Mean of 1 - cosine over pairs of different rows within each group [K, F], then over groups:
    high is diverse.
    """
    distances = [1 - intra_set_cosine(unit(group)) for group in groups]
    return sum(distances) / len(distances)
