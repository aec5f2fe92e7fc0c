"""What is written of a report on priors: figures as JSON and as tables, and curves."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lafite_shifted.io.files import write_bytes, write_json
from training.metrics.distances import intra_set_cosine
from training.prior.evaluate import PERFECT, EvalSet, Line

INTERVAL = 1.96  # standard errors: half of a 95 % interval
SHOWN = {  # of each prior by its steps
    "fd_clip": "Frechet distance (less is better)",
    "energy": "Energy score (less is better)",
    "same_text_cosine": "Cosine of two draws for one text (1: no diversity)",
    "retrieval_10": "Recall@10 (more is better)",
}


def write_report(
    folder: Path, lines: Sequence[Line], eval_set: EvalSet, *, command: str, seconds: float
) -> None:
    """report.json, report.md and steps.png in `folder`; `seconds` the figures took."""
    record = {
        "held_out_captions": len(eval_set.captions),
        "copies_left_out": eval_set.copies,
        "training_captions": len(eval_set.training),
        "encoder": eval_set.data.encoder_id.to_json(),
        "real_intra_set_cosine": intra_set_cosine(eval_set.true),
        "command": command,
        "seconds": round(seconds),
        "lines": [asdict(line) for line in lines],
    }
    write_json(folder / "report.json", record)
    write_bytes(folder / "report.md", markdown(lines, eval_set, command=command).encode())
    from training.metrics.plots import save_figure, steps_figure

    if curves := _plain(lines):
        floor = next((line for line in lines if line.name.startswith(PERFECT)), None)
        save_figure(folder / "steps.png", steps_figure(curves, floor=floor))


def markdown(lines: Sequence[Line], eval_set: EvalSet, *, command: str) -> str:
    """The report: what priors are compared with, tables by steps, then every figure."""
    left_out = f" ({eval_set.copies} whose image is trained on too are left out)"
    copies = left_out if eval_set.copies else ""
    head = (
        f"{len(eval_set.captions)} held-out captions, one a name{copies}; "
        f"mean pairwise cosine of the real embeddings: {intra_set_cosine(eval_set.true):.3f}.\n\n"
        f"    {command}\n\n"
    )
    known = [line for line in lines if line.steps is None]
    parts = [head, _all_metrics(known)]
    for key, title in SHOWN.items():
        if table := _by_steps(_plain(lines), key):
            parts.append(
                f"\n{title}, by steps; in brackets the standard deviation over trainings:\n"
            )
            parts.append(f"\n{table}")
    if others := [line for line in lines if line.steps is not None]:
        text = "Every figure (`+-`: half of the 95 % bootstrap interval, of the first training):"
        parts += [f"\n{text}\n\n", _all_metrics(others)]
    return "".join(parts)


def _plain(lines: Sequence[Line]) -> list[Line]:
    """Of all captions, without guidance."""
    return [
        line
        for line in lines
        if line.steps and line.guidance == 1.0 and not line.name.endswith("texts")
    ]


def _by_steps(lines: Sequence[Line], key: str) -> str:
    steps = sorted({line.steps or 0 for line in lines})
    rows: dict[str, dict[int, str]] = {}
    for line in lines:
        value, spread = getattr(line.metrics, key), line.spread.get(key)
        shown = "" if value is None else f"{value:.4f}"
        shown += "" if spread is None else f" ({spread:.4f})"
        rows.setdefault(line.name, {})[line.steps or 0] = shown
    if not rows:
        return ""
    head = f"| way | {' | '.join(str(n) for n in steps)} |\n|{'---|' * (len(steps) + 1)}\n"
    return head + "".join(
        f"| {name} | {' | '.join(cells.get(n, '') for n in steps)} |\n"
        for name, cells in rows.items()
    )


def _all_metrics(lines: Sequence[Line]) -> str:
    head = (
        "| way | steps | seeds | cosine | Frechet distance | kernel distance | recall@1 % | "
        "recall@10 % | pairwise cosine | same-text cosine | energy score | ms a text |\n"
        f"|{'---|' * 12}\n"
    )
    return head + "".join(_table_row(line) for line in lines)


def _table_row(line: Line) -> str:
    f = line.metrics

    def cell(key: str, digits: int, scale: float = 1.0) -> str:
        value = getattr(f, key)
        if value is None:
            return ""
        shown = f"{scale * value:.{digits}f}"
        if key in f.errors:
            shown += f" +- {scale * INTERVAL * f.errors[key]:.{digits}f}"
        if key in line.spread:
            shown += f" ({scale * line.spread[key]:.{digits}f})"
        return shown

    by_clip = f" [{', '.join(f'{c:.3f}' for c in f.clip_i_sims)}]" if f.clip_i_sims else ""
    cells = [
        line.name,
        "" if line.steps is None else str(line.steps),
        str(line.seeds) if line.steps else "",
        cell("clip_i_sim", 3) + by_clip,
        cell("fd_clip", 4),
        cell("kid_clip", 4),
        cell("retrieval_1", 1, 100.0),
        cell("retrieval_10", 1, 100.0),
        cell("intra_set_cosine", 3),
        cell("same_text_cosine", 3),
        cell("energy", 4),
        "" if line.milliseconds is None else f"{line.milliseconds:.2f}",
    ]
    return "| " + " | ".join(cells) + " |\n"
