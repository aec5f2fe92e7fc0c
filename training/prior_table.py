"""What is written of a report on priors: figures as JSON and as a table, and curves."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lafite_shifted.files import write_bytes, write_json
from training.metrics import pairwise_cosine
from training.prior_report import PERFECT, Asked, Line


def write_report(folder: Path, lines: Sequence[Line], asked: Asked, *, command: str) -> None:
    """report.json, report.md and steps.png in `folder`."""
    record = {
        "held_out_captions": len(asked.captions),
        "training_captions": len(asked.training),
        "encoder": asked.data.encoder_id.to_json(),
        "real_diversity": pairwise_cosine(asked.true),
        "command": command,
        "lines": [asdict(line) for line in lines],
    }
    write_json(folder / "report.json", record)
    write_bytes(folder / "report.md", markdown(lines, asked, command=command).encode())
    from training.plots import save_figure, steps_figure

    curves = [
        line
        for line in lines
        if line.steps and line.guidance == 1.0 and not line.name.endswith("texts")
    ]
    if curves:
        floor = next((line for line in lines if line.name.startswith(PERFECT)), None)
        save_figure(folder / "steps.png", steps_figure(curves, floor=floor))


def markdown(lines: Sequence[Line], asked: Asked, *, command: str) -> str:
    """The report as a table."""
    head = (
        f"{len(asked.captions)} held-out captions, one a name; `+-` is the bootstrap standard "
        "error (of the first training), in brackets the standard deviation over trainings, in "
        "square ones the cosine by each CLIP where there are several. Mean "
        f"pairwise cosine of the real embeddings: {pairwise_cosine(asked.true):.3f}.\n\n"
        f"    {command}\n\n"
        "| way | steps | seeds | cosine | Frechet distance | kernel distance | recall@1 / @10 % | "
        "pairwise cosine | same-text cosine | energy score | ms a text |\n"
        f"|{'---|' * 11}\n"
    )
    return head + "".join(_table_row(line) for line in lines)


def _table_row(line: Line) -> str:
    f, spread = line.figures, line.spread

    def with_spread(key: str) -> str:
        return f" ({spread[key]:.4f})" if key in spread else ""

    by_clip = f" [{', '.join(f'{c:.3f}' for c in f.cosines)}]" if f.cosines else ""
    steps = "" if line.steps is None else str(line.steps)
    milliseconds = "" if line.milliseconds is None else f"{line.milliseconds:.2f}"
    cells = [
        line.name,
        steps,
        str(line.seeds) if line.steps else "",
        f"{f.cosine:.3f} +- {f.cosine_error:.3f}{with_spread('cosine')}{by_clip}",
        f"{f.frechet:.4f} +- {f.frechet_error:.4f}{with_spread('frechet')}",
        f"{f.kernel:.5f}{with_spread('kernel')}",
        f"{100 * f.recall_1:.1f} / {100 * f.recall_10:.1f} +- {100 * f.recall_10_error:.1f}",
        f"{f.diversity:.3f}",
        "" if f.same_text is None else f"{f.same_text:.3f}",
        "" if f.energy is None else f"{f.energy:.4f}{with_spread('energy')}",
        milliseconds,
    ]
    return "| " + " | ".join(cells) + " |\n"
