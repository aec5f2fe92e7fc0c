"""`bench train`: what a training step costs, and where its time goes."""

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.messages import choose_ops


@click.command("train")
@click.option("--preset", default="small", help="tiny, small, 256, 512 or 1024.")
@options.batch_option(default=None, help="Images a step.")
@click.option("--features", metavar="NAME", help="As in `train-gan`.")
@options.clip_option
@options.device_option
@options.set_option
@options.positive_int("--rounds", default=5, help="Paired rounds; the median counts.")
@options.json_option
def command(
    preset: str,
    batch: int | None,
    features: str | None,
    clip: str,
    device: str,
    assignments: tuple[str, ...],
    rounds: int,
    as_json: bool,
) -> None:
    """A training step on images in memory, augmented as in the middle of a run: seconds for 1000
    images, beside its convolutions alone and the reference in float32, and where its time goes.
    """
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from training.bench.ops import machine
    from training.bench.train import bench_train
    from training.config import choose
    from training.gan.presets import GAN_PRESETS
    from training.gan.run import for_encoder, gan_config, load_backbone

    chosen = resolve_device(device)
    choose_ops("compiled", chosen)
    encoder = load_clip(clip, device=chosen)
    config = gan_config(
        choose(GAN_PRESETS, preset), batch=batch, features=features, assignments=assignments
    )
    config = for_encoder(config, encoder)
    backbone = load_backbone(config, encoder, device=chosen)
    found = bench_train(config, encoder, device=chosen, rounds=rounds, backbone=backbone)
    if as_json:
        click.echo(json.dumps({"machine": machine(chosen), "results": asdict(found)}, indent=2))
        return
    click.echo(
        f"{machine(chosen)}; {found.dtype}\n{preset}, batch {found.batch}, augmentation with "
        f"probability {found.augment_probability:.2f}"
    )
    for name, seconds in found.seconds_per_kimg.items():
        click.echo(f"{name:28}{seconds:8.2f} s/kimg")
    click.echo(f"the step takes {found.over_convolutions:.2f} times its convolutions alone")
    click.echo(f"the reference in float32 takes {found.reference_over_trained:.2f} times the step")
    click.echo(
        f"{found.gflop_an_image:.2f} GFLOP an image in convolutions and products, which is "
        f"{100 * found.share_of_matrix_rate:.0f} % of what one large product does here "
        f"({found.matrix_gflop_a_second:.0f} GFLOP/s)"
    )
    if found.returned_over_kept is not None:
        click.echo(
            "with freed memory returned to the kernel the step would take "
            f"{found.returned_over_kept:.2f} times as long"
        )
    click.echo("where the time of its operations goes:")
    total = sum(found.parts.values())
    for name, seconds in found.parts.items():
        click.echo(f"{name:28}{seconds:8.2f} s/kimg{100 * seconds / total:6.0f} %")
