"""How good a trained generator is: its figures beside those of real images, as JSON, as a table
and as a grid. Figures of another reference are not set beside them. Shape letters: N images
asked, D embedding, R resolution.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import atomic_file, read_json, write_bytes, write_json
from lafite_shifted.pipeline import TextToImage
from training.config import differences
from training.gan.evaluate import (
    Asked,
    Reference,
    embed_uint8,
    gan_figures,
    grid,
    nearest_square_cosine,
    others_of,
)
from training.metrics.distances import pairwise_cosine
from training.metrics.inception import Inception

GENERATOR, SAME = "generator", "the same images"
NEAREST, OTHERS = "nearest training images", "other training images"
COLUMNS = (
    *("images", "Frechet distance", "kernel distance", "cosine", "recall@1 / @10 %"),
    *("precision / manifold recall %", "pairwise cosine", "nearest training square"),
)
SHOWN = (
    *("frechet", "kernel", "cosine", "recall_1", "recall_10"),
    *("precision", "manifold_recall", "pairwise_cosine"),
)
Figures = Mapping[str, float]


@dataclass(frozen=True)
class GanReport:
    """Figures in CLIP space by line: the generator's, and those of real images in its place."""

    model: str
    training: Mapping[str, object]  # what the model tells of its training
    asked: str  # "held_out" or "training"
    resolution: int  # of what is made, and of "the same images"; the others are the files
    references: Mapping[str, Reference]  # by the space that figures are taken in
    lines: Mapping[str, Figures]
    real_pairwise_cosine: float
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


def references_of(asked: Asked, inception: Inception | None) -> dict[str, Reference]:
    """What the figures in each space are measured against."""
    found = {"clip": asked.reference}
    return found | ({"inception": inception.reference(asked.pixels)} if inception else {})


def evaluate_gan(
    model: TextToImage, asked: Asked, *, inception: Inception | None, name: str, command: str
) -> tuple[GanReport, Image.Image]:
    """The figures of the model's generator, and a grid of its images."""
    render = renderer(model)

    def embed(images: Tensor) -> Tensor:
        return embed_uint8(model.clip, images)

    lines: dict[str, dict[str, float]] = {}
    made = render(asked.embeddings)
    for line, images in ((GENERATOR, made), (SAME, asked.squares)):
        seen = embed(images)
        lines[line] = gan_figures(asked, seen)
        if asked.where == "held_out":
            lines[line]["nearest_square_cosine"] = nearest_square_cosine(asked, seen, embed)
    others = others_of(asked)
    if others:
        for line, kind in ((NEAREST, "nearest"), (OTHERS, "unrelated")):
            lines[line] = gan_figures(asked, asked.training_embeddings[others[kind]])
            lines[line].pop("nearest_training_cosine", None)  # of itself
    if inception:  # slow: no line of the nearest ones
        shown = {GENERATOR: made.permute(0, 3, 1, 2)}
        if others:
            shown[OTHERS] = asked.training_images.take(others["unrelated"].tolist()).pixels
        for line, images in shown.items():
            lines[line]["inception_frechet"] = inception.distance(images, asked.pixels)
    report = GanReport(
        model=name,
        training=model.generator.training,
        asked=asked.where,
        resolution=asked.pixels.shape[-1],
        references=references_of(asked, inception),
        lines=lines,
        real_pairwise_cosine=pairwise_cosine(asked.embeddings),
        command=command,
    )
    return report, grid(asked, render, embed)


def read_figures(path: Path, references: Mapping[str, Reference]) -> Figures:
    """The generator's figures in the report.json of another evaluation; InputError unless they were
    measured against the same `references`.
    """
    record = read_json(path)
    try:
        line = record["lines"][GENERATOR]
        figures = {name: line[name] for name in SHOWN} | line
        known = {space: dict(record["references"][space]) for space in references}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no report.json of `evaluate gan` with these figures (it lacks {error}). "
            "Make it again with the same options."
        ) from error
    changed = differences(known, {space: dict(found) for space, found in references.items()})
    if changed:
        raise InputError(
            f"{path} was measured against other real images, or seen otherwise: "
            f"{'; '.join(changed)}. Such figures are not compared: evaluate both models on the "
            "same images, with the same --count and CLIP."
        )
    return figures


def write_gan_report(
    folder: Path, report: GanReport, image: Image.Image, *, against: Mapping[str, Figures]
) -> None:
    """report.json, report.md and grid.png in `folder`."""
    write_json(folder / "report.json", asdict(report))
    write_bytes(folder / "report.md", markdown(report, against=against).encode())
    with atomic_file(folder / "grid.png") as file:
        image.save(file, format="PNG")


def markdown(report: GanReport, *, against: Mapping[str, Figures]) -> str:
    """The report as a table, with the generators of `against` below."""
    clip = report.references["clip"]
    lines = dict(report.lines) | dict(against)
    inception, seen = report.references.get("inception"), ""
    if inception is not None:
        seen = "Inception: reference {hash}, network {encoder}, {filter}.\n\n".format(**inception)
    columns = [*COLUMNS, *(["Inception Frechet distance"] if inception else [])]
    head = (
        f"`{report.model}`, asked for {clip['images']} {report.asked.replace('_', '-')} images "
        f"(reference {clip['hash']}; CLIP {clip['encoder']}, {clip['filter']}), made at "
        f"{report.resolution} px, as which {SAME} are shown below; the training images are the "
        f"files. Mean pairwise cosine of the real ones: {report.real_pairwise_cosine:.3f}.\n\n"
        f"{seen}    {report.command}\n\n"
        f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    )
    rows = ([name, *_cells(figures)][: len(columns)] for name, figures in lines.items())
    return head + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _cells(f: Figures) -> list[str]:
    copied, inception = f.get("nearest_square_cosine"), f.get("inception_frechet")
    return [
        f"{f['frechet']:.4f}",
        f"{f['kernel']:.5f}",
        f"{f['cosine']:.3f}",
        f"{100 * f['recall_1']:.1f} / {100 * f['recall_10']:.1f}",
        f"{100 * f['precision']:.1f} / {100 * f['manifold_recall']:.1f}",
        f"{f['pairwise_cosine']:.3f}",
        "" if copied is None else f"{copied:.3f}",
        "" if inception is None else f"{inception:.2f}",
    ]
