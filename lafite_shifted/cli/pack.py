"""`pack`: join a generator and a prior into one model folder."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import ModelFolder


@click.command("pack")
@click.option(
    "--gan",
    required=True,
    type=ModelFolder,
    help="Run folder of train-gan, a model folder, or starter.",
)
@click.option(
    "--prior", type=ModelFolder, help="Run folder of train-prior, a model folder, or starter."
)
@click.option(
    "--with-discriminator",
    is_flag=True,
    help="Also the discriminator of --gan, for `train-gan --init`.",
)
@click.option("--half", is_flag=True, help="Store weights in float16: half the size.")
@click.option("--clip", help="Where the model's CLIP lies, if not where it was trained with.")
@options.out_option("the model")
def command(
    gan: Path,
    prior: Path | None,
    with_discriminator: bool,
    half: bool,
    clip: str | None,
    out: Path,
) -> None:
    """Make a model folder that `generate` and `TextToImage.from_pretrained` read."""
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.packing import pack_model
    from training.gan.transfer import require_discriminator

    pack_model(
        out,
        gan=gan,
        prior=prior,
        discriminator=require_discriminator(gan) if with_discriminator else None,
        clip=load_clip(clip).id if clip else None,
        half=half,
    )
    kind = "generator and prior" if prior else "generator without a prior"
    also = ", with its discriminator," if with_discriminator else ""
    click.echo(
        f'{kind}{also} in {out}. Try: lafite-shifted generate "a red apple" --model {out} --out '
        "images"
    )
