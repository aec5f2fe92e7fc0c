"""`evaluate curves`: what runs of `train-gan` measured while they trained, as a plot."""

from pathlib import Path

import click

from lafite_shifted.cli.argument_types import FolderPath


@click.command("curves")
@click.argument("runs", type=FolderPath, nargs=-1, required=True)
@click.option("--out", type=FolderPath, required=True, help="The figure, a PNG.")
def command(runs: tuple[Path, ...], out: Path) -> None:
    """Draw what the RUNS of `train-gan` measured while they trained: Frechet distance, cosine,
    recall and the nearest training image, beside real images.
    """
    from lafite_shifted.errors import InputError
    from lafite_shifted.io.files import read_json_lines
    from training.gan.curves import curves_figure
    from training.metrics.plots import save_figure

    logs = {}
    for run in runs:
        log = run / "log.jsonl"
        rows = read_json_lines(log) if log.is_file() else []
        if not any(name.endswith("_fd_clip") and "samples" in row for row in rows for name in row):
            raise InputError(
                f"{run} has measured nothing: it is no run of `train-gan` that has come to its "
                "first evaluation. Give another, or train on."
            )
        logs[str(run)] = rows
    save_figure(out, curves_figure(logs))
    click.echo(f"{out}")
