"""`train-gan`: the decoder, from images alone."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import Number, PathOrUrl, RecordedModel
from lafite_shifted.cli.messages import choose_ops, note_starter, plain_warnings, report_embedding
from lafite_shifted.cli.progress import progress_bar, show_progress
from lafite_shifted.io.starter import STARTER


@click.command("train-gan")
@click.argument("images", type=PathOrUrl())
@options.out_option("the run")
@click.option(
    "--preset",
    help="tiny (32 px), small (64 px), 256, 512 or 1024.  [default: small, with the networks of "
    "--init]",
)
@options.positive_int(
    "--resolution", default=None, help="Pixels, a power of two; overrides the preset's."
)
@options.kimg_option("Length in thousands of images.")
@options.batch_option(default=None, help="Images a step.")
@click.option(
    "--augment",
    type=click.Choice(["ada", "diffaugment", "off"]),
    help="ada: geometry and colour, as often as overfitting requires (the default).",
)
@click.option(
    "--features",
    metavar="NAME",
    help="A second discriminator on the frozen features of NAME: clip, tf_efficientnet_lite0 "
    "(extra features), a timm network (--set features.weights=FILE), or none.  [default: "
    "clip in preset small with the starter's CLIP; else none, or that of --init]",
)
@click.option(
    "--clip",
    help="As in `embed`.  [default: starter, or that of --init]",
)
@click.option(
    "--init",
    type=RecordedModel,
    metavar="MODEL",
    help="Start from the generator in a run or model folder, or from starter; and from the "
    "discriminator of a run, or of a model that was packed with it.",
)
@options.seed_option
@options.device_option
@options.ops_option
@options.threads_option
@click.option(
    "--cache-gib",
    type=Number(0),
    help="Hold decoded images in memory up to this size, else decode ahead of each step. "
    "[default: half of the free memory]",
)
@options.max_bad_option
@options.max_megapixels_option
@options.set_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print parameters, GMAC, memory and time from a short probe, and stop.",
)
def command(
    images: str,
    out: Path,
    preset: str | None,
    resolution: int | None,
    kimg: float | None,
    batch: int | None,
    augment: str | None,
    features: str | None,
    clip: str | None,
    init: Path | None,
    seed: int,
    device: str,
    ops: str,
    threads: int | None,
    cache_gib: float | None,
    max_bad: float,
    max_megapixels: float,
    assignments: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Train a decoder on IMAGES: a folder, a zip, tar shards, or the URL of shards, such as
    https://host/shard-{000..009}.tar (extra webdataset); no captions needed.

    Embeddings and statistics are made on the way, into OUT/embeddings. The same command again
    resumes where it stopped. Several processes, started by torchrun -m lafite_shifted.cli, share
    every batch; they need OUT/embeddings beforehand, but for shards at a URL.
    """
    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from torch_utils import distributed
    from torch_utils.threads import choose_threads, rechoose_threads
    from training.config import choose
    from training.data.decoding.read_image import ReadOptions
    from training.gan.augment.config import AUGMENTATIONS
    from training.gan.presets import GAN_PRESETS, default_features
    from training.gan.run import gan_config, gan_cost, open_gan_run
    from training.gan.transfer import clip_of, with_networks_of
    from training.loop import run_loop

    chosen = resolve_device(device)
    choose_ops(ops, chosen)
    resumed = (out / "checkpoints").is_dir()  # with the number that it records
    threads_line = choose_threads(threads) if chosen.type == "cpu" and not resumed else None
    is_alone = chosen.type == "cpu" and distributed.world_size() == 1
    rechoose = rechoose_threads if is_alone and threads is None else None
    base = choose(GAN_PRESETS, preset or "small")
    clip = clip or (clip_of(init, out) if init else STARTER)
    if init and preset is None:
        base = with_networks_of(init, out, base)
    elif features is None:
        features = default_features(preset or "small", clip)
    config = gan_config(
        base,
        resolution=resolution,
        kimg=kimg,
        batch=batch,
        augment=AUGMENTATIONS[augment] if augment else None,
        features=features,
        seed=seed,
        assignments=assignments,
    )
    encoder = load_clip(clip, device=chosen)
    note_starter(clip)
    if dry_run:
        for line in gan_cost(config, images, encoder, device=chosen, cache_gib=cache_gib):
            click.echo(line)
        return
    with distributed.group(time_limit_s=config.run.time_limit_s):
        with plain_warnings(), progress_bar("embedding", "img") as progress:
            trainer, run, report = open_gan_run(
                config,
                images,
                out,
                encoder,
                device=chosen,
                cache_gib=cache_gib,
                options=ReadOptions(max_bad, max_megapixels, progress),
                init=init,
            )
        if distributed.is_main_process():
            report_embedding(report, out / "embeddings")
            lines = [*trainer.kept, *config.reasons(), *trainer.notes]
            click.echo("\n".join(lines + ([threads_line] if threads_line else [])), err=True)
            click.echo(f"{len(trainer.data.images)} images, {trainer.data.cache}", err=True)
        with plain_warnings():
            show_progress(run_loop(trainer, config.run, run), "train-gan", rechoose=rechoose)
    if distributed.is_main_process():
        click.echo(
            f"generator in {out}, grids in {out / 'grids'}. Next: lafite-shifted pack --gan {out} "
            "--out MODEL"
        )
