"""`evaluate prior`: the priors of runs on held-out captions."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, ModelFolder
from lafite_shifted.cli.evaluate_report import check_own_report, numbers, typed
from lafite_shifted.cli.messages import choose_ops
from lafite_shifted.cli.progress import progress_bar

if TYPE_CHECKING:
    from lafite_shifted.prior.samplers import Sampler
    from torch_utils.device import DtypeName


@click.command("prior")
@click.argument("runs", type=ModelFolder, nargs=-1, required=True)
@click.option(
    "--embeddings",
    required=True,
    type=FolderPath,
    help="Made by `embed` of captioned images; the held-out sixth is the evaluation set.",
)
@options.out_option("report.json, report.md and steps.png")
@click.option("--steps", default="1,2,4,8,16,64", help="Numbers of sampling steps.")
@click.option("--guidance", default="", help="Also these scales of guidance, at 8 steps.")
@click.option(
    "--sampler",
    type=click.Choice(["ancestral", "ddim", "dpm++"]),
    default="ancestral",
    help="As in `generate`.",
)
@options.positive_int("--limit", default=None, help="At most so many captions.")
@click.option(
    "--gan",
    type=ModelFolder,
    help="Judge the images that the generator in this run or model folder makes of them.",
)
@options.device_option
@options.ops_option
@options.dtype_option
def command(
    runs: tuple[Path, ...],
    embeddings: Path,
    out: Path,
    steps: str,
    guidance: str,
    sampler: "Sampler",
    limit: int | None,
    gan: Path | None,
    device: str,
    ops: str,
    dtype: "DtypeName",
) -> None:
    """Compare the priors in RUNS (of `train-prior`, or model folders), trainings of the same kind
    as one line: cosine to the true image embedding, Frechet and kernel distance of the sets,
    recall, intra-set cosine and time; beside them the text embedding itself, the nearest training
    caption's image, an unrelated pair, and real against real.
    """
    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.model_folder import find_part, load_generator
    from torch_utils.threads import probe_threads
    from training.data.embeddings.embedding_set import EmbeddingSet
    from training.prior.eval_set import EvalSet
    from training.prior.evaluate import (
        load_priors,
        reference_rows,
        report,
        sampler_configs_of,
        through,
        unchanged,
    )
    from training.prior.report import write_report

    sampler_configs = sampler_configs_of(
        [int(n) for n in numbers("--steps", steps, least=1)],
        numbers("--guidance", guidance, least=0),
        sampler,
    )
    data = EmbeddingSet(embeddings)
    eval_set = EvalSet.of(data, limit=limit)
    chosen, decode = resolve_device(device), unchanged
    check_own_report(out)
    choose_ops(ops, chosen, used=gan is not None)
    probe_threads(chosen)
    priors = load_priors(runs, data, chosen, dtype=dtype)
    if gan:
        generator = load_generator(find_part(gan, "generator"), device=chosen, dtype=dtype)
        decode = through(generator, load_clip(generator.encoder_id.model, device=chosen))
    start = time.monotonic()
    with progress_bar("sampling", "run") as progress:
        rows = reference_rows(eval_set, decode=decode)
        rows += report(priors, eval_set, sampler_configs, decode=decode, progress=progress)
    write_report(out, rows, eval_set, command=typed(), seconds=time.monotonic() - start)
    click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)
