"""`bench embed`: how much of the image tower's speed reading and writing leave."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath


@click.command("embed")
@click.argument("images", type=FolderPath)
@options.clip_option
@click.option(
    "--architecture",
    metavar="NAME",
    help="An architecture of open_clip with random weights, such as ViT-B-32, not --clip.",
)
@options.batch_option(default=64, help="Images a forward pass.")
@options.device_option
@options.positive_int("--rounds", default=3, help="Paired rounds; the median counts.")
@options.json_option
def command(
    images: Path,
    clip: str,
    architecture: str | None,
    batch: int,
    device: str,
    rounds: int,
    as_json: bool,
) -> None:
    """`embed` on all IMAGES, from files to shards: images a second beside those of the image tower
    alone.
    """
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from torch_utils.threads import probe_threads
    from training.bench.embed import bench_embed, untrained_clip
    from training.bench.ops import machine
    from training.data.images import ImageSource

    chosen = resolve_device(device)
    probe_threads(chosen)  # as `embed` does
    if architecture:
        encoder = untrained_clip(architecture, device=chosen)
    else:
        encoder = load_clip(clip, device=chosen)
    found = bench_embed(ImageSource(images), encoder, rounds=rounds, batch=batch)
    if as_json:
        click.echo(json.dumps({"machine": machine(chosen), "results": asdict(found)}, indent=2))
        return
    click.echo(f"{machine(chosen)}; {found.images} images, batches of {found.batch}")
    click.echo(
        f"from files to shards {found.images_a_second:9.1f} images a second, "
        f"{found.cpu_ms_an_image:.2f} ms of CPU time an image"
    )
    click.echo(
        f"the tower alone      {found.tower_images_a_second:9.1f} images a second, "
        f"{found.tower_cpu_ms_an_image:.2f} ms of CPU time an image"
    )
    click.echo(f"{found.share_of_tower:.0%} of the tower's speed")
