"""`bench export`: the table of docs/export.md."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath
from lafite_shifted.cli.export_options import need_onnx


@click.command("export")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=FolderPath)
@options.positive_int("--rounds", default=15, help="The fastest counts.")
@options.json_option
def command(folders: tuple[Path, ...], rounds: int, as_json: bool) -> None:
    """Folders of `export onnx`, a row each: size by part, PSNR of the worst image to PyTorch's as
    it was tried, and milliseconds of one image on one thread, as generate.py makes it.
    """
    need_onnx()
    import json
    from dataclasses import asdict

    import onnxruntime
    import torch

    from training.bench.export import bench_export
    from training.bench.ops import machine

    found = {str(folder): bench_export(folder, rounds=rounds) for folder in folders}
    told = f"{machine(torch.device('cpu'))}; onnxruntime {onnxruntime.__version__}, one thread"
    if as_json:
        rows = {name: asdict(row) for name, row in found.items()}
        click.echo(json.dumps({"machine": told, "results": rows}, indent=2))
        return
    names = " / ".join(next(iter(found.values())).megabytes)
    click.echo(told)
    click.echo(f"\n| stored, {names} | MB | all, MB | worst image, PSNR | ms an image |")
    click.echo("|---|---|---|---|---|")
    for row in found.values():
        psnr = "equal" if row.psnr_db is None else f"{row.psnr_db:.1f} dB"
        megabytes = " / ".join(f"{value:.1f}" for value in row.megabytes.values())
        times = " / ".join(f"{value:.1f}" for value in row.milliseconds.values())
        stored = " / ".join(row.stored.values())
        click.echo(f"| {stored} | {megabytes} | {row.all_megabytes:.1f} | {psnr} | {times} |")
