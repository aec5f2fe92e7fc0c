"""`import`: a snapshot of StyleGAN2-ADA or Lafite as a model folder."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath


@click.command("import")
@click.argument("file", type=FolderPath)
@options.out_option("the model")
@options.clip_option
@click.option(
    "--class",
    "label",
    type=click.IntRange(min=0),
    help="Of a generator that has several: the one whose images the model shall make.",
)
def command(file: Path, out: Path, clip: str, label: int | None) -> None:
    """Read FILE, a network-snapshot-*.pkl of StyleGAN2-ADA (PyTorch) or Lafite, and write a model
    folder with the same generator. Nothing in FILE is run.

    Give the CLIP that it was trained with as --clip: Lafite's is ViT-B-32/openai. A generator that
    was trained without text takes any: that is what `train-gan --init` then conditions it on.
    """
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.legacy.importing import import_snapshot

    found = import_snapshot(file, out, encoder_id=lambda: load_clip(clip).id, label=label)
    if found.doubts:
        click.echo(
            f"warning: what it says that it was built with: {'; '.join(found.doubts[:8])}. Its "
            "images may differ from those of the program that wrote it.",
            err=True,
        )
    size = found.network.config.resolution
    click.echo(f"generator of {found.source}, {size} px, in {out}.")
    if found.uses_condition:
        click.echo(f'Try: lafite-shifted generate "a red apple" --model {out} --out images')
    else:
        click.echo(
            "It was trained without text: sentences have no effect until `lafite-shifted train-gan "
            f"IMAGES --init {out} --out runs/gan` has trained it on."
        )
