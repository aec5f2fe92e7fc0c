"""Evaluates a trained generator: its metrics beside those of real images, as JSON, as a table
and as a grid. Metrics of another reference are not set beside them. Shape letters: N images
of the evaluation set, D embedding, R resolution.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json, write_bytes, write_json
from lafite_shifted.io.png import save_png
from lafite_shifted.pipeline import TextToImage
from training.config import differences
from training.gan.evaluate import (
    EvalSet,
    Reference,
    embed_uint8,
    gan_metrics,
    grid,
    nearest_training_similarity,
    others_of,
)
from training.metrics.distances import few_samples_note, intra_set_cosine
from training.metrics.inception import Inception
from training.metrics.judged import JUDGE_COLUMNS, JudgedSet, judge_lines
from training.metrics.judges import CLIP, IMAGE
from training.metrics.table import Column, markdown_table

GENERATOR, SAME = "generator", "the same images"
NEAREST, OTHERS = "nearest training images", "other training images"
COLUMNS = (  # judges first: the CLIP that conditions a generator is no judge of it
    *JUDGE_COLUMNS,
    Column("fd_clip", ("fd_clip",)),
    Column("kid_clip", ("kid_clip",), 5),
    Column("clip_i_sim", ("clip_i_sim",), 3),
    Column("retrieval@1 / @10 %", ("retrieval_1", "retrieval_10"), 1, 100),
    Column("precision / recall %", ("precision", "recall"), 1, 100),
    Column("intra-set cosine", ("intra_set_cosine",), 3),
    Column("nearest training clip_i_sim", ("nearest_training_clip_i_sim_resized",), 3),
    Column("FID", ("fid",), 2, space="inception"),
)
SHOWN = (
    *("fd_clip", "kid_clip", "clip_i_sim", "retrieval_1", "retrieval_10"),
    *("precision", "recall", "intra_set_cosine"),
)
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class GanReport:
    """Metrics by row: the generator's, and those of real images in its place."""

    model: str
    training: Mapping[str, object]  # what the model tells of its training
    eval_set: str  # "held_out" or "training"
    resolution: int  # of what is made, and of "the same images"; the others are the files
    references: Mapping[str, Reference]  # by feature space
    rows: Mapping[str, Metrics]
    real_intra_set_cosine: float
    notes: Sequence[str]  # what metrics are missing, or of few images
    command: str


def renderer(model: TextToImage):
    """Images [N, R, R, 3] uint8 of unit embeddings [N, D]; z of row i from seed
    `first_seed` + i.
    """

    def render(embeddings: Tensor, *, first_seed: int = 0) -> Tensor:
        parts = []
        for start in range(0, len(embeddings), 64):
            rows = embeddings[start : start + 64]
            first = first_seed + start
            parts.append(model.decode(rows, seeds=range(first, first + len(rows))))
        return torch.cat(parts)

    return render


def references_of(
    eval_set: EvalSet, inception: Inception | None, judged: JudgedSet
) -> dict[str, Reference]:
    """The reference of the metrics in each feature space."""
    found: dict[str, Reference] = {"clip": eval_set.reference, **judged.references}
    return found | ({"inception": inception.reference(eval_set.pixels)} if inception else {})


def evaluate_gan(
    model: TextToImage,
    eval_set: EvalSet,
    *,
    judged: JudgedSet,
    inception: Inception | None,
    name: str,
    command: str,
) -> tuple[GanReport, Image.Image]:
    """The metrics of the model's generator, and a grid of its images. `judged` are the images of
    the evaluation set.
    """
    render = renderer(model)

    def embed(images: Tensor) -> Tensor:
        return embed_uint8(model.clip, images)

    rows: dict[str, dict[str, float]] = {}
    made = render(eval_set.embeddings)
    by_judges = {GENERATOR: judged.metrics_of(made), SAME: judged.metrics(judged.features)}
    for row, images in ((GENERATOR, made), (SAME, eval_set.squares)):
        seen = embed(images)
        rows[row] = by_judges[row] | gan_metrics(eval_set, seen)
        if eval_set.where == "held_out":
            rows[row]["nearest_training_clip_i_sim_resized"] = nearest_training_similarity(
                eval_set, seen, embed
            )
    rows |= _other_rows(eval_set, judged, inception)
    if inception:
        rows[GENERATOR]["fid"] = inception.distance(made.permute(0, 3, 1, 2), eval_set.pixels)
    references = references_of(eval_set, inception, judged)
    report = GanReport(
        model=name,
        training=model.generator.training,
        eval_set=eval_set.where,
        resolution=eval_set.pixels.shape[-1],
        references=references,
        rows=rows,
        real_intra_set_cosine=intra_set_cosine(eval_set.embeddings),
        notes=[*judged.notes(), *few_notes(references)],
        command=command,
    )
    return report, grid(eval_set, render, embed)


def _other_rows(
    eval_set: EvalSet, judged: JudgedSet, inception: Inception | None
) -> dict[str, dict[str, float]]:
    """Metrics of training images in the place of generated ones: in CLIP space those of the files,
    for the others of images of R pixels.
    """
    rows: dict[str, dict[str, float]] = {}
    others = others_of(eval_set) or {}
    for row, kind in ((NEAREST, "nearest"), (OTHERS, "unrelated")):
        if kind not in others:
            continue
        metrics = gan_metrics(eval_set, eval_set.training_embeddings[others[kind]])
        metrics.pop("nearest_training_clip_i_sim", None)  # of itself
        pixels = eval_set.training_images.get_batch(others[kind].tolist()).pixels
        rows[row] = judged.metrics_of(pixels.permute(0, 2, 3, 1)) | metrics
        if inception and row == OTHERS:  # slow: no line of the nearest ones
            rows[row]["fid"] = inception.distance(pixels, eval_set.pixels)
    return rows


def read_metrics(path: Path, references: Mapping[str, Reference]) -> Metrics:
    """The generator's metrics in the report.json of another evaluation; InputError unless they were
    measured against the same `references`. It may have been made without judges, and has no metrics
    of them then.
    """
    record = read_json(path)
    try:
        row = record["rows"][GENERATOR]
        metrics = {name: row[name] for name in SHOWN} | row
        told = record["references"]
        spaces = [space for space in references if space in told or space not in (IMAGE, CLIP)]
        known = {space: dict(told[space]) for space in spaces}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no report.json of `evaluate gan` with these metrics (it lacks {error}). "
            "Make it again with the same options."
        ) from error
    changed = differences(known, {space: dict(references[space]) for space in spaces})
    if changed:
        raise InputError(
            f"{path} was measured against other real images, or seen otherwise: "
            f"{'; '.join(changed)}. Such metrics are not compared: evaluate both models on the "
            "same images, with the same --count and CLIP."
        )
    return metrics


def write_gan_report(
    folder: Path, report: GanReport, image: Image.Image, *, against: Mapping[str, Metrics]
) -> None:
    """report.json, report.md and grid.png in `folder`."""
    write_json(folder / "report.json", asdict(report))
    write_bytes(folder / "report.md", markdown(report, against=against).encode())
    save_png(folder / "grid.png", image, {"model": report.model})


def markdown(report: GanReport, *, against: Mapping[str, Metrics]) -> str:
    """The report as a table, with the generators of `against` below."""
    clip = report.references["clip"]
    inception, seen = report.references.get("inception"), judge_lines(report.references)
    if inception is not None:
        seen += "Inception: reference {hash}, network {encoder}, {filter}.\n\n".format(**inception)
    notes = "".join(f"{note}\n\n" for note in report.notes)
    where = report.eval_set.replace("_", "-")
    head = (
        f"`{report.model}`, evaluated on {clip['images']} {where} images "
        f"(reference {clip['hash']}; CLIP {clip['encoder']}, {clip['filter']}), made at "
        f"{report.resolution} px, as which {SAME} are shown below; the training images are the "
        "files, but for judges. Intra-set cosine of the real ones: "
        f"{report.real_intra_set_cosine:.3f}.\n\n"
        f"{seen}{notes}    {report.command}\n\n"
    )
    spaces = {"", *report.references}
    columns = [column for column in COLUMNS if column.space in spaces]
    return head + markdown_table("images", columns, dict(report.rows) | dict(against))


def few_notes(references: Mapping[str, Reference]) -> list[str]:
    """What to say of Frechet distances of few images; judges have none then."""
    known = [references[space] for space in ("clip", "inception") if space in references]
    found = [few_samples_note(int(r["images"]), int(r["dim"])) for r in known]
    return [note for note in found if note]
