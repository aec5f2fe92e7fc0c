"""`train-prior`: text to image embedding."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, RecordedModel
from lafite_shifted.cli.messages import choose_ops, note_starter, plain_warnings, report_embedding
from lafite_shifted.cli.progress import progress_bar, show_progress


@click.command("train-prior")
@click.argument("images", type=FolderPath)
@options.out_option("the run")
@click.option("--preset", default="base", help="tiny, base, or corgi (the paper's size).")
@click.option(
    "--process",
    type=click.Choice(["shifted", "clusters", "baseline"]),
    help="Start from N(mu, Sigma), from one for each cluster, or from N(0, I / D).",
)
@options.kimg_option("Length in thousands of pairs.")
@options.batch_option(default=None, help="Pairs a step.")
@click.option(
    "--clip", help="As in `embed`.  [default: starter, or the one that made the embeddings]"
)
@options.text_encoder_option
@click.option(
    "--init",
    type=RecordedModel,
    metavar="PRIOR",
    help="Start from the prior in a run or model folder, such as one of the mse objective "
    "for the energy objective.",
)
@options.seed_option
@options.device_option
@options.ops_option
@options.max_bad_option
@options.max_megapixels_option
@options.set_option
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print parameters, captions, memory and time from a short probe, and stop.",
)
def command(
    images: Path,
    out: Path,
    preset: str,
    process: str | None,
    kimg: float | None,
    batch: int | None,
    clip: str | None,
    text_encoder: str | None,
    init: Path | None,
    seed: int,
    device: str,
    ops: str,
    max_bad: float,
    max_megapixels: float,
    assignments: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Train a prior on IMAGES with captions: a folder, or embeddings made by `embed`.

    The same command again resumes where it stopped. Several processes, started by torchrun -m
    lafite_shifted.cli, share every batch; they need embeddings.
    """
    from lafite_shifted.device import resolve_device
    from torch_utils import distributed
    from training.config import choose
    from training.data.decoding.read_image import ReadOptions
    from training.loop import run_loop
    from training.prior.presets import PRIOR_PRESETS
    from training.prior.run import embeddings_for, open_prior_run, prior_config, prior_cost

    chosen = resolve_device(device)
    choose_ops(ops, chosen, used=False)
    config = prior_config(
        choose(PRIOR_PRESETS, preset),
        process=process,
        kimg=kimg,
        batch=batch,
        seed=seed,
        assignments=assignments,
    )
    if dry_run:
        for line in prior_cost(config, images, clip, text_encoder, device=chosen):
            click.echo(line)
        return
    with plain_warnings(), progress_bar("embedding", "img") as progress:
        data, report = embeddings_for(
            images,
            out,
            clip,
            text_encoder=text_encoder,
            device=chosen,
            options=ReadOptions(max_bad, max_megapixels, progress),
        )
    if report:
        note_starter(clip)
        report_embedding(report, out / "embeddings")
    with distributed.group(time_limit_s=config.run.time_limit_s):
        trainer, run = open_prior_run(config, data, out, device=chosen, init=init)
        if distributed.is_main_process():
            for line in trainer.notes:
                click.echo(line, err=True)
        show_progress(run_loop(trainer, config.run, run()), "train-prior")
    if distributed.is_main_process():
        click.echo(
            f"prior in {out}. Join it with a generator: lafite-shifted pack --gan RUN --prior "
            f"{out} --out MODEL"
        )
