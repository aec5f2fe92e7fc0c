"""`demo`: what the model that ships does, in minutes, on a laptop."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, Number
from lafite_shifted.cli.messages import choose_ops, plain_warnings
from lafite_shifted.cli.progress import show_progress

if TYPE_CHECKING:
    import torch

    from training.tools.demo import DemoResult

SCRATCH_NOTE = (
    "They are coloured shapes, few of them the right ones: minutes of training on 512 images, at "
    "32 pixels. With hours, more of them and a larger preset it is another matter."
)


@click.command("demo")
@click.option(
    "--out",
    type=FolderPath,
    help="Folder for everything the demo makes.  [default: demo, or demo-from-scratch]",
)
@click.option(
    "--kimg",
    type=Number(0, above=True),
    help="Length of the training in thousands of images.  [default: minutes' worth]",
)
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Train a tiny prior and a tiny GAN from random weights instead, at 32 pixels.",
)
@options.seed_option
@options.device_option
@options.ops_option
def command(
    out: Path | None, kimg: float | None, from_scratch: bool, seed: int, device: str, ops: str
) -> None:
    """Make images of 8 sentences with the model that ships, adapt it to 512 drawings of another
    style without a caption, and make them again.

    With --from-scratch: embed 512 shipped images, train on them from nothing, and compare priors.
    The same command again resumes where it stopped.
    """
    from lafite_shifted.device import resolve_device

    chosen = resolve_device(device)
    choose_ops(ops, chosen)
    run = _train_from_scratch if from_scratch else _adapt
    with plain_warnings():
        result = run(out, kimg, seed=seed, device=chosen)
    click.echo("")
    for line in result.table:
        click.echo(line)
    click.echo(f"\nImages: {result.grid}")
    if from_scratch:
        click.echo(SCRATCH_NOTE)
    click.echo("\nGo on with your own images:")
    for line in result.next_commands:
        click.echo(f"    {line}")


def _adapt(
    out: Path | None, kimg: float | None, *, seed: int, device: "torch.device"
) -> "DemoResult":
    from training.tools.demo import DemoConfig, run_demo

    config = DemoConfig(seed=seed) if kimg is None else DemoConfig(seed=seed, adapt_kimg=kimg)
    folder = out or Path("demo")
    return run_demo(folder, config, device=device, say=click.echo, show=show_progress)


def _train_from_scratch(
    out: Path | None, kimg: float | None, *, seed: int, device: "torch.device"
) -> "DemoResult":
    from training.tools.demo_from_scratch import ScratchConfig, run_from_scratch

    config = ScratchConfig(seed=seed) if kimg is None else ScratchConfig(seed=seed, gan_kimg=kimg)
    folder = out or Path("demo-from-scratch")
    return run_from_scratch(folder, config, device=device, say=click.echo, show=show_progress)
