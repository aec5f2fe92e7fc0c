"""What is written of the evaluation of a whole model: metrics as JSON and as a table, and a grid of
sentences by rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from lafite_shifted.io.files import write_bytes, write_json
from lafite_shifted.io.png import save_png
from lafite_shifted.pipeline import TextToImage
from training.chain.evaluate import REAL, ChainConfig, ChainMetrics
from training.gan.evaluate import EvalSet, Reference
from training.gan.report import OTHERS
from training.metrics.grids import LabelledGrid, labelled_grid, with_column_titles
from training.metrics.judged import JUDGE_COLUMNS, JudgedSet, judge_lines
from training.metrics.judges import CLIP, IMAGE
from training.metrics.table import Column, markdown_table

SENTENCES = 8  # of the grid
CELL = 112  # pixels of its images
R_PRECISION = JUDGE_COLUMNS[-1]
COLUMNS = (
    R_PRECISION,
    *JUDGE_COLUMNS[:-1],
    Column("diversity_judge", ("diversity_judge",), 3, space=IMAGE),
    Column("diversity_judge_clip", ("diversity_judge_clip",), 3, space=CLIP),
    Column("ms an image", ("ms_per_image",), 1),
)


@dataclass(frozen=True)
class ChainReport:
    """Metrics by row: chains from sentence to image, then real images."""

    model: str
    training: Mapping[str, Mapping[str, object]]  # what the parts tell of their trainings
    eval_set: str  # "held_out" or "training"
    resolution: int
    references: Mapping[str, Reference]  # by feature space
    rows: Mapping[str, Mapping[str, float]]
    per_prompt: int
    num_prompts: int  # sentences that diversity is measured on
    num_names: int  # of real images that it is measured on beside them
    seed: int
    notes: Sequence[str]
    command: str


def chain_report(
    model: TextToImage,
    eval_set: EvalSet,
    judged: JudgedSet,
    config: ChainConfig,
    found: ChainMetrics,
    *,
    name: str,
    notes: Sequence[str],
    command: str,
) -> ChainReport:
    """The report of what was found; `notes` say which rows are left out."""
    training = {"generator": model.generator.training}
    if model.prior is not None:
        training["prior"] = model.prior.training
    return ChainReport(
        model=name,
        training=training,
        eval_set=eval_set.where,
        resolution=eval_set.pixels.shape[-1],
        references=judged.references,
        rows=found.rows,
        per_prompt=config.per_prompt,
        num_prompts=len(found.prompts),
        num_names=found.num_names,
        seed=config.seed,
        notes=[*notes, *judged.notes()],
        command=command,
    )


def chain_grid(eval_set: EvalSet, found: ChainMetrics) -> LabelledGrid:
    """Sentences as rows; the rows of the report as columns, and the real image."""
    shown = found.prompts[:SENTENCES]
    columns = {**found.images, "real": eval_set.squares[shown]}
    rows = [
        (eval_set.texts[row], [_cell(images[place]) for images in columns.values()])
        for place, row in enumerate(shown)
    ]
    grid = labelled_grid(rows)
    return LabelledGrid(with_column_titles(grid.image, list(columns), cell=CELL), grid.legend)


def _cell(square: Tensor) -> Image.Image:
    image = Image.fromarray(square.numpy())
    smaller = image.width > CELL
    method = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
    return image.resize((CELL, CELL), method)


def write_chain_report(folder: Path, report: ChainReport, grid: LabelledGrid) -> None:
    """report.json, report.md and grid.png in `folder`."""
    write_json(folder / "report.json", asdict(report))
    write_bytes(folder / "report.md", markdown(report).encode())
    save_png(folder / "grid.png", grid.image, {"model": report.model})


def markdown(report: ChainReport) -> str:
    """The report as a table."""
    reference = next(iter(report.references.values()))
    where = report.eval_set.replace("_", "-")
    notes = "".join(f"{note}\n\n" for note in report.notes)
    names = f"of {report.num_names} names with several images"
    head = (
        f"`{report.model}`, sentence to image, on {reference['images']} captioned {where} images "
        f"at {report.resolution} px, with seeds from {report.seed}.\n\n"
        f"{judge_lines(report.references)}{notes}"
        f"Diversity: mean 1 - cosine of the features of {report.per_prompt} images of one sentence "
        f"({report.num_prompts} sentences); of real ones (`{REAL}`), of images of one name "
        f"({names}); of `{OTHERS}`, of unrelated images.\n\n"
        f"    {report.command}\n\n"
    )
    columns = [column for column in COLUMNS if column.space in ("", *report.references)]
    return head + markdown_table("images of", columns, report.rows)
