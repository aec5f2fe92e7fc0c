"""What is written of a report on priors: metrics as JSON and as tables, and curves."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lafite_shifted.io.files import write_bytes, write_json
from training.metrics.distances import few_samples_note, intra_set_cosine
from training.prior.eval_set import EvalSet
from training.prior.evaluate import PERFECT, Row

INTERVAL = 1.96  # standard errors: half of a 95 % interval
SHOWN = {  # of each prior by its steps
    "fd_clip": "Frechet distance (less is better)",
    "energy": "Energy score (less is better)",
    "same_text_cosine": "Cosine of two samples for one text (1: no diversity)",
    "retrieval_10": "Retrieval@10 (more is better)",
}


def write_report(
    folder: Path, rows: Sequence[Row], eval_set: EvalSet, *, command: str, seconds: float
) -> None:
    """report.json, report.md and steps.png in `folder`; `seconds` the metrics took."""
    record = {
        "held_out_captions": len(eval_set.captions),
        "copies_left_out": eval_set.copies,
        "training_captions": len(eval_set.training),
        "encoder": eval_set.data.encoder_id.to_json(),
        "real_intra_set_cosine": intra_set_cosine(eval_set.true),
        "command": command,
        "seconds": round(seconds),
        "rows": [asdict(row) for row in rows],
    }
    write_json(folder / "report.json", record)
    write_bytes(folder / "report.md", markdown(rows, eval_set, command=command).encode())
    from training.metrics.plots import save_figure
    from training.prior.plots import steps_figure

    if curves := _plain(rows):
        floor = next((row for row in rows if row.name.startswith(PERFECT)), None)
        save_figure(folder / "steps.png", steps_figure(curves, floor=floor))


def markdown(rows: Sequence[Row], eval_set: EvalSet, *, command: str) -> str:
    """The report: what priors are compared with, tables by steps, then every metric."""
    left_out = f" ({eval_set.copies} whose image is trained on too are left out)"
    copies = left_out if eval_set.copies else ""
    few = few_samples_note(*eval_set.true.shape)
    head = (
        f"{len(eval_set.captions)} held-out captions, one a name{copies}; "
        f"intra-set cosine of the real embeddings: {intra_set_cosine(eval_set.true):.3f}.\n\n"
        f"{few + chr(10) * 2 if few else ''}    {command}\n\n"
    )
    known = [row for row in rows if row.steps is None]
    parts = [head, _all_metrics(known)]
    for key, title in SHOWN.items():
        if table := _by_steps(_plain(rows), key):
            parts.append(
                f"\n{title}, by steps; in brackets the standard deviation over trainings:\n"
            )
            parts.append(f"\n{table}")
    if others := [row for row in rows if row.steps is not None]:
        text = "Every metric (`+-`: half of the 95 % bootstrap interval, of the first training):"
        parts += [f"\n{text}\n\n", _all_metrics(others)]
    return "".join(parts)


def _plain(rows: Sequence[Row]) -> list[Row]:
    """Of all captions, without guidance."""
    return [
        row for row in rows if row.steps and row.guidance == 1.0 and not row.name.endswith("texts")
    ]


def _by_steps(rows: Sequence[Row], key: str) -> str:
    steps = sorted({row.steps or 0 for row in rows})
    cells_of: dict[str, dict[int, str]] = {}
    for row in rows:
        value, spread = getattr(row.metrics, key), row.spread.get(key)
        shown = "" if value is None else f"{value:.4f}"
        shown += "" if spread is None else f" ({spread:.4f})"
        cells_of.setdefault(row.name, {})[row.steps or 0] = shown
    if not cells_of:
        return ""
    columns = ["sampler configuration", *map(str, steps)]
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    return head + "".join(
        f"| {name} | {' | '.join(cells.get(n, '') for n in steps)} |\n"
        for name, cells in cells_of.items()
    )


def _all_metrics(rows: Sequence[Row]) -> str:
    head = (
        "| sampler configuration | steps | seeds | clip_i_sim | fd_clip | kid_clip | retrieval@1 % "
        "| retrieval@10 % | intra-set cosine | same-text cosine | energy score | ms a text |\n"
        f"|{'---|' * 12}\n"
    )
    return head + "".join(_table_row(row) for row in rows)


def _table_row(row: Row) -> str:
    f = row.metrics

    def cell(key: str, digits: int, scale: float = 1.0) -> str:
        value = getattr(f, key)
        if value is None:
            return ""
        shown = f"{scale * value:.{digits}f}"
        if key in f.errors:
            shown += f" +- {scale * INTERVAL * f.errors[key]:.{digits}f}"
        if key in row.spread:
            shown += f" ({scale * row.spread[key]:.{digits}f})"
        return shown

    by_clip = f" [{', '.join(f'{c:.3f}' for c in f.clip_i_sims)}]" if f.clip_i_sims else ""
    cells = [
        row.name,
        "" if row.steps is None else str(row.steps),
        str(row.seeds) if row.steps else "",
        cell("clip_i_sim", 3) + by_clip,
        cell("fd_clip", 4),
        cell("kid_clip", 4),
        cell("retrieval_1", 1, 100.0),
        cell("retrieval_10", 1, 100.0),
        cell("intra_set_cosine", 3),
        cell("same_text_cosine", 3),
        cell("energy", 4),
        "" if row.milliseconds is None else f"{row.milliseconds:.2f}",
    ]
    return "| " + " | ".join(cells) + " |\n"
