"""`evaluate`: metrics of a model on held-out data."""

import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.messages import choose_ops, plain_warnings, report_embedding
from lafite_shifted.cli.parameters import FolderPath, Number
from lafite_shifted.cli.progress import progress_bar, show_progress

if TYPE_CHECKING:
    from lafite_shifted.prior.diffusion import Sampler
    from torch_utils.device import DtypeName

REPORT_FILES = ("report.json", "report.md", "grid.png", "steps.png")


@click.group("evaluate", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Metrics on held-out data, beside baselines and real images."""


@command.command("prior")
@click.argument("runs", type=FolderPath, nargs=-1, required=True)
@click.option(
    "--embeddings",
    required=True,
    type=FolderPath,
    help="Made by `embed` of captioned images; the held-out sixth is asked.",
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
    type=FolderPath,
    help="Judge the images that the generator in this run or model folder makes of them.",
)
@options.device_option
@options.ops_option
@options.dtype_option
def prior(
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
        [int(n) for n in _numbers("--steps", steps, least=1)],
        _numbers("--guidance", guidance, least=0),
        sampler,
    )
    data = EmbeddingSet(embeddings)
    eval_set = EvalSet.of(data, limit=limit)
    chosen, decode = resolve_device(device), unchanged
    _check_own_report(out)
    choose_ops(ops, chosen, used=gan is not None)
    priors = load_priors(runs, data, chosen, dtype=dtype)
    if gan:
        generator = load_generator(find_part(gan, "generator"), device=chosen, dtype=dtype)
        decode = through(generator, load_clip(generator.encoder_id.model, device=chosen))
    start = time.monotonic()
    with progress_bar("sampling", "run") as progress:
        rows = reference_rows(eval_set, decode=decode)
        rows += report(priors, eval_set, sampler_configs, decode=decode, progress=progress)
    write_report(out, rows, eval_set, command=_typed(), seconds=time.monotonic() - start)
    click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)


@command.command("study")
@click.argument("embeddings", type=FolderPath)
@options.out_option("the trainings, report.json, report.md and steps.png")
@click.option(
    "--kimg",
    type=Number(0, above=True),
    default=100.0,
    help="Length of every training.",
)
@options.positive_int("--seeds", default=3, help="Trainings of each process.")
@click.option("--steps", default="1,2,4,8,16,64", help="Numbers of sampling steps.")
@options.positive_int("--limit", default=None, help="At most so many captions.")
@click.option(
    "--eval-embeddings",
    type=FolderPath,
    metavar="EMBEDDINGS",
    help="Held-out captions of these are asked, such as of a larger cone.  [default: of those "
    "trained on]",
)
@options.device_option
@options.ops_option
@options.dtype_option
def study(
    embeddings: Path,
    out: Path,
    kimg: float,
    seeds: int,
    steps: str,
    limit: int | None,
    eval_embeddings: Path | None,
    device: str,
    ops: str,
    dtype: "DtypeName",
) -> None:
    """Train small priors of every process on EMBEDDINGS and compare them: shifted with full and
    with diagonal covariance, clusters, and the baseline, at equal network, schedule and budget.

    The same command again goes on where it stopped.
    """
    from lafite_shifted.device import resolve_device
    from training.prior.study import StudyConfig, run_study

    counts = tuple(int(n) for n in _numbers("--steps", steps, least=1))
    chosen = resolve_device(device)
    _check_own_report(out)
    choose_ops(ops, chosen, used=False)
    with progress_bar("sampling", "run") as progress:
        run_study(
            embeddings,
            out,
            StudyConfig(kimg, seeds, counts, limit, eval_embeddings, dtype),
            device=chosen,
            command=_typed(),
            show=show_progress,
            progress=progress,
        )
    click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)


@command.command("gan")
@click.argument("model", type=FolderPath)
@click.argument("images", type=FolderPath)
@options.out_option("report.json, report.md and grid.png")
@click.option("--best", is_flag=True, help="Of a run: the best generator instead of the last.")
@options.positive_int("--count", default=None, help="At most so many images.  [default: all]")
@click.option(
    "--embeddings",
    type=FolderPath,
    help="Of IMAGES, made by `embed`, such as RUN/embeddings.  [default: made in OUT/embeddings]",
)
@click.option("--clip", help="The generator's CLIP, where it lies elsewhere now.")
@click.option(
    "--inception",
    type=FolderPath,
    metavar="FILE",
    help="Also the Frechet distance of Inception features, by torch-fidelity's weights in FILE.",
)
@click.option(
    "--compare",
    type=FolderPath,
    multiple=True,
    help="The report.json of another generator, on the same images, to set beside.",
)
@options.device_option
@options.ops_option
@options.dtype_option
@options.max_bad_option
@options.max_megapixels_option
@options.json_option
def gan(
    model: Path,
    images: Path,
    out: Path,
    best: bool,
    count: int | None,
    embeddings: Path | None,
    clip: str | None,
    inception: Path | None,
    compare: tuple[Path, ...],
    device: str,
    ops: str,
    dtype: "DtypeName",
    max_bad: float,
    max_megapixels: float,
    as_json: bool,
) -> None:
    """How well the generator in MODEL (a run of `train-gan`, or a model folder) makes the held-out
    images of IMAGES from their embeddings: cosine of CLIP(G(h)) to h, Frechet and kernel
    distance of the sets, recall of the right one, precision and recall of the manifold, intra-set
    cosine (low: diverse), cosine to the nearest training image at the same size. Beside it stand
    the held-out images themselves at the generator's size, as a perfect one would make them, and
    real training images: those nearest to the held-out ones, and others.
    """
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.model_folder import find_part, load_generator
    from lafite_shifted.pipeline import TextToImage
    from training.data.decoding.read_image import ReadOptions
    from training.gan.evaluate import EvalSet
    from training.gan.report import (
        evaluate_gan,
        read_metrics,
        references_of,
        write_gan_report,
    )
    from training.gan.run import gan_data_for
    from training.metrics.inception import Inception

    chosen = resolve_device(device)
    _check_own_report(out)
    choose_ops(ops, chosen)
    judge = Inception.load(inception, device=chosen) if inception else None
    generator = load_generator(
        find_part(model / "best" if best else model, "generator"), device=chosen, dtype=dtype
    )
    whole = TextToImage(
        load_clip(clip or generator.encoder_id.model, device=chosen), generator, None
    )
    with plain_warnings(), progress_bar("embedding", "img") as progress:
        data, report = gan_data_for(
            whole,
            images,
            out,
            embeddings,
            options=ReadOptions(max_bad, max_megapixels, progress),
        )
    if report:
        report_embedding(report, out / "embeddings")
    eval_set = EvalSet.of(data, count=count)
    references = references_of(eval_set, judge)
    others = {str(path): read_metrics(path, references) for path in compare}
    found, grid = evaluate_gan(whole, eval_set, inception=judge, name=str(model), command=_typed())
    write_gan_report(out, found, grid, against=others)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)


@command.command("curves")
@click.argument("runs", type=FolderPath, nargs=-1, required=True)
@click.option("--out", type=FolderPath, required=True, help="The figure, a PNG.")
def curves(runs: tuple[Path, ...], out: Path) -> None:
    """Draw what the RUNS of `train-gan` measured while they trained: Frechet distance, cosine,
    recall and the nearest training image, beside real images.
    """
    from lafite_shifted.errors import InputError
    from lafite_shifted.io.files import read_json_lines
    from training.gan.curves import curves_figure
    from training.metrics.plots import save_figure

    logs = {}
    for run in runs:
        log = run / "log.jsonl"
        rows = read_json_lines(log) if log.is_file() else []
        if not any(name.endswith("_fd_clip") and "samples" in row for row in rows for name in row):
            raise InputError(
                f"{run} has measured nothing: it is no run of `train-gan` that has come to its "
                "first evaluation. Give another, or train on."
            )
        logs[str(run)] = rows
    save_figure(out, curves_figure(logs))
    click.echo(f"{out}")


def _check_own_report(out: Path) -> None:
    """InputError where what a report would be written over is another program's."""
    from lafite_shifted.errors import InputError
    from lafite_shifted.io.files import read_json

    found = [path for name in REPORT_FILES if (path := out / name).exists()]
    record = None
    with suppress(InputError):  # no JSON, or none at all
        record = read_json(out / "report.json")
    ours = isinstance(record, dict) and {"rows", "command"} <= record.keys()
    if found and not ours:
        raise InputError(
            f"{found[0]} was not written by lafite-shifted, and stays as it is. Choose another "
            "--out, or move it away."
        )


def _typed() -> str:
    """The command as it was given."""
    return shlex.join(["lafite-shifted", *sys.argv[1:]])


def _numbers(name: str, text: str, *, least: float) -> list[float]:
    from math import isfinite

    from lafite_shifted.errors import InputError

    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"{name} {text!r}: give numbers with commas, such as 1,2,4.") from error
    fits = all(isfinite(n) and n >= least and not (least and n % 1) for n in found)
    if not fits or (least and not found):
        raise InputError(f"{name} {text!r}: give numbers from {least:g}, such as 1,2,4.")
    return found
