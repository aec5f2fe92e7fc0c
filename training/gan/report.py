"""Evaluates a trained generator: its metrics beside those of real images, as JSON, as a table
and as a grid. Metrics of another reference are not set beside them. Shape letters: N images
of the evaluation set, D embedding, R resolution.
"""

from collections.abc import Mapping
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

GENERATOR, SAME = "generator", "the same images"
NEAREST, OTHERS = "nearest training images", "other training images"
COLUMNS = (
    *("images", "Frechet distance", "kernel distance", "clip_i_sim", "recall@1 / @10 %"),
    *("precision / manifold recall %", "intra-set cosine", "nearest training square"),
)
SHOWN = (
    *("fd_clip", "kid_clip", "clip_i_sim", "retrieval_1", "retrieval_10"),
    *("precision", "recall", "intra_set_cosine"),
)
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class GanReport:
    """Metrics in CLIP space by row: the generator's, and those of real images in its place."""

    model: str
    training: Mapping[str, object]  # what the model tells of its training
    eval_set: str  # "held_out" or "training"
    resolution: int  # of what is made, and of "the same images"; the others are the files
    references: Mapping[str, Reference]  # by feature space
    rows: Mapping[str, Metrics]
    real_intra_set_cosine: float
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


def references_of(eval_set: EvalSet, inception: Inception | None) -> dict[str, Reference]:
    """The reference of the metrics in each feature space."""
    found = {"clip": eval_set.reference}
    return found | ({"inception": inception.reference(eval_set.pixels)} if inception else {})


def evaluate_gan(
    model: TextToImage, eval_set: EvalSet, *, inception: Inception | None, name: str, command: str
) -> tuple[GanReport, Image.Image]:
    """The metrics of the model's generator, and a grid of its images."""
    render = renderer(model)

    def embed(images: Tensor) -> Tensor:
        return embed_uint8(model.clip, images)

    rows: dict[str, dict[str, float]] = {}
    made = render(eval_set.embeddings)
    for row, images in ((GENERATOR, made), (SAME, eval_set.squares)):
        seen = embed(images)
        rows[row] = gan_metrics(eval_set, seen)
        if eval_set.where == "held_out":
            rows[row]["nearest_training_clip_i_sim_resized"] = nearest_training_similarity(
                eval_set, seen, embed
            )
    others = others_of(eval_set)
    if others:
        for row, kind in ((NEAREST, "nearest"), (OTHERS, "unrelated")):
            rows[row] = gan_metrics(eval_set, eval_set.training_embeddings[others[kind]])
            rows[row].pop("nearest_training_clip_i_sim", None)  # of itself
    if inception:  # slow: no line of the nearest ones
        shown = {GENERATOR: made.permute(0, 3, 1, 2)}
        if others:
            shown[OTHERS] = eval_set.training_images.get_batch(others["unrelated"].tolist()).pixels
        for row, images in shown.items():
            rows[row]["fid"] = inception.distance(images, eval_set.pixels)
    report = GanReport(
        model=name,
        training=model.generator.training,
        eval_set=eval_set.where,
        resolution=eval_set.pixels.shape[-1],
        references=references_of(eval_set, inception),
        rows=rows,
        real_intra_set_cosine=intra_set_cosine(eval_set.embeddings),
        command=command,
    )
    return report, grid(eval_set, render, embed)


def read_metrics(path: Path, references: Mapping[str, Reference]) -> Metrics:
    """The generator's metrics in the report.json of another evaluation; InputError unless they were
    measured against the same `references`.
    """
    record = read_json(path)
    try:
        row = record["rows"][GENERATOR]
        metrics = {name: row[name] for name in SHOWN} | row
        known = {space: dict(record["references"][space]) for space in references}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no report.json of `evaluate gan` with these metrics (it lacks {error}). "
            "Make it again with the same options."
        ) from error
    changed = differences(known, {space: dict(found) for space, found in references.items()})
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
    rows = dict(report.rows) | dict(against)
    inception, seen = report.references.get("inception"), ""
    notes = "".join(f"{note}\n\n" for note in few_notes(report.references))
    if inception is not None:
        seen = "Inception: reference {hash}, network {encoder}, {filter}.\n\n".format(**inception)
    columns = [*COLUMNS, *(["FID"] if inception else [])]
    where = report.eval_set.replace("_", "-")
    head = (
        f"`{report.model}`, evaluated on {clip['images']} {where} images "
        f"(reference {clip['hash']}; CLIP {clip['encoder']}, {clip['filter']}), made at "
        f"{report.resolution} px, as which {SAME} are shown below; the training images are the "
        f"files. Intra-set cosine of the real ones: {report.real_intra_set_cosine:.3f}.\n\n"
        f"{seen}{notes}    {report.command}\n\n"
        f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    )
    cells = ([name, *_cells(metrics)][: len(columns)] for name, metrics in rows.items())
    return head + "".join(f"| {' | '.join(row)} |\n" for row in cells)


def few_notes(references: Mapping[str, Reference]) -> list[str]:
    """What to say of Frechet distances of few images."""
    found = [few_samples_note(int(r["images"]), int(r["dim"])) for r in references.values()]
    return [note for note in found if note]


def _cells(f: Metrics) -> list[str]:
    copied, inception = f.get("nearest_training_clip_i_sim_resized"), f.get("fid")
    return [
        f"{f['fd_clip']:.4f}",
        f"{f['kid_clip']:.5f}",
        f"{f['clip_i_sim']:.3f}",
        f"{100 * f['retrieval_1']:.1f} / {100 * f['retrieval_10']:.1f}",
        f"{100 * f['precision']:.1f} / {100 * f['recall']:.1f}",
        f"{f['intra_set_cosine']:.3f}",
        "" if copied is None else f"{copied:.3f}",
        "" if inception is None else f"{inception:.2f}",
    ]
