"""`evaluate model`: the whole chain, sentence to image, on held-out captioned images."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, ModelFolder, PathOrUrl
from lafite_shifted.cli.evaluate_report import check_own_report, numbers, typed
from lafite_shifted.cli.judges import (
    inception_option,
    judge_options,
    load_inception,
    load_judges,
)
from lafite_shifted.cli.messages import choose_ops, plain_warnings, report_embedding
from lafite_shifted.cli.progress import progress_bar

if TYPE_CHECKING:
    from torch_utils.device import DtypeName


@click.command("model")
@click.argument("model", type=PathOrUrl())
@click.argument("images", type=FolderPath)
@options.out_option("report.json, report.md and grid.png")
@click.option(
    "--baseline",
    type=ModelFolder,
    metavar="PRIOR",
    help="Also the prior in this run of `train-prior` or model folder, with the same generator.",
)
@click.option("--steps", default="1,2,4,8", help="Numbers of sampling steps of the priors.")
@options.positive_int("--count", default=None, help="At most so many images.  [default: all]")
@options.positive_int(
    "--per-prompt", default=4, help="Images of one sentence that diversity is measured on."
)
@click.option(
    "--embeddings",
    type=FolderPath,
    help="Of IMAGES, made by `embed` with captions.  [default: made in OUT/embeddings]",
)
@judge_options
@inception_option
@click.option("--clip", help="The model's CLIP, where it lies elsewhere now.")
@click.option("--text-encoder", help="The prior's text encoder, likewise.")
@options.seed_option
@options.device_option
@options.ops_option
@options.dtype_option
@options.max_bad_option
@options.max_megapixels_option
@options.json_option
def command(
    model: str,
    images: Path,
    out: Path,
    baseline: Path | None,
    steps: str,
    count: int | None,
    per_prompt: int,
    embeddings: Path | None,
    judge: str,
    judge_clip: str | None,
    inception: Path | None,
    clip: str | None,
    text_encoder: str | None,
    seed: int,
    device: str,
    ops: str,
    dtype: "DtypeName",
    max_bad: float,
    max_megapixels: float,
    as_json: bool,
) -> None:
    """Evaluate MODEL (a model folder, starter or a Hub id, as `generate` takes it) from sentence to
    image, on the held-out images of IMAGES that have captions. Judges that took no part tell
    whether images fit their sentences (R-precision among 100), how far they are from real ones, and
    how diverse those of one sentence are. In rows: the text embedding as condition, mean
    regression, the prior in several numbers of steps, the true image embedding; then real images.
    """
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from lafite_shifted.pipeline import TextToImage
    from torch_utils.threads import probe_threads
    from training.chain.evaluate import ChainConfig, evaluate_chain
    from training.chain.report import chain_grid, chain_report, write_chain_report
    from training.chain.rows import samples_of, with_prior
    from training.chain.setup import check_judges, eval_set_of, split_notes
    from training.data.decoding.read_image import ReadOptions
    from training.gan.run import gan_data_for
    from training.metrics.judged import JudgedSet

    counts = [int(n) for n in numbers("--steps", steps, least=1)]
    chosen = resolve_device(device)
    check_own_report(out)
    choose_ops(ops, chosen)
    probe_threads(chosen)
    network = load_inception(inception, chosen)
    with plain_warnings():
        whole = TextToImage.from_pretrained(
            model, device=device, dtype=dtype, clip=clip, text_encoder=text_encoder
        )
        judges = load_judges(judge, judge_clip, network, conditioning=whole.clip.id, device=chosen)
        check_judges(judges)
        other = with_prior(whole, baseline, dtype=dtype) if baseline else None
        with progress_bar("embedding", "img") as progress:
            reading = ReadOptions(max_bad, max_megapixels, progress)
            data, embedded = gan_data_for(whole, images, out, embeddings, options=reading)
        if embedded:
            report_embedding(embedded, out / "embeddings")
        eval_set = eval_set_of(data, count=count)
        judged = JudgedSet.of(judges, eval_set.squares, eval_set.texts, seed=seed)
        samples, notes = samples_of(whole, other, eval_set, data, steps=counts)
        notes = [*split_notes(eval_set, whole, other), *notes]
        config = ChainConfig(per_prompt, seed)
        with progress_bar("generating", "row") as progress:
            found = evaluate_chain(
                whole, samples, eval_set, data, judged, config, progress=progress
            )
    report = chain_report(
        whole, eval_set, judged, config, found, name=model, notes=notes, command=typed()
    )
    grid = chain_grid(eval_set, found)
    write_chain_report(out, report, grid)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
    else:
        click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)
