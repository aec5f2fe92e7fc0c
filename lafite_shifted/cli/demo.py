"""`demo`: the whole chain on the shipped images, in minutes, on a laptop."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, Number
from lafite_shifted.cli.messages import choose_ops, plain_warnings
from lafite_shifted.cli.progress import show_progress


@click.command("demo")
@click.option(
    "--out", default="demo", type=FolderPath, help="Folder for everything the demo makes."
)
@click.option(
    "--kimg",
    default=None,
    type=Number(0, above=True),
    help="Length of the GAN's training.  [default: about 6 minutes' worth]",
)
@options.seed_option
@options.device_option
@options.ops_option
def command(out: Path, kimg: float | None, seed: int, device: str, ops: str) -> None:
    """Embed 512 shipped images, train a tiny prior and a tiny GAN on them, and make images from
    8 sentences.

    The same command again resumes where it stopped.
    """
    from lafite_shifted.device import resolve_device
    from training.tools.demo import DemoConfig, run_demo

    chosen = resolve_device(device)
    choose_ops(ops, chosen)
    config = DemoConfig(seed=seed) if kimg is None else DemoConfig(seed=seed, gan_kimg=kimg)

    with plain_warnings():
        result = run_demo(out, config, device=chosen, say=click.echo, show=show_progress)
    click.echo("")
    for line in result.table:
        click.echo(line)
    click.echo(f"\nImages: {result.grid}")
    click.echo(
        "They are coloured shapes, few of them the right ones: minutes of training on 512 "
        "images, at 32 pixels. With hours, more of them and a larger preset it is another matter."
    )
    click.echo("\nGo on with your own images:")
    for line in result.next_commands:
        click.echo(f"    {line}")
