"""`pack`: join a generator and a prior into one model folder."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath


@click.command("pack")
@click.option(
    "--gan",
    required=True,
    type=FolderPath,
    help="Run folder of train-gan, or a model folder.",
)
@click.option("--prior", type=FolderPath, help="Run folder of train-prior, or a model folder.")
@options.out_option("the model")
def command(gan: Path, prior: Path | None, out: Path) -> None:
    """Make a model folder that `generate` and `TextToImage.from_pretrained` read."""
    from lafite_shifted.packing import pack_model

    pack_model(out, gan=gan, prior=prior)
    kind = "generator and prior" if prior else "generator without a prior"
    click.echo(
        f'{kind} in {out}. Try: lafite-shifted generate "a red apple" --model {out} --out images'
    )
