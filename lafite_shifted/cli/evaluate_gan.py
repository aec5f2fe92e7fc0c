"""`evaluate gan`: a generator on held-out images."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, ModelFolder
from lafite_shifted.cli.evaluate_report import check_own_report, typed
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


@click.command("gan")
@click.argument("model", type=ModelFolder)
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
@judge_options
@inception_option
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
def command(
    model: Path,
    images: Path,
    out: Path,
    best: bool,
    count: int | None,
    embeddings: Path | None,
    clip: str | None,
    judge: str,
    judge_clip: str | None,
    inception: Path | None,
    compare: tuple[Path, ...],
    device: str,
    ops: str,
    dtype: "DtypeName",
    max_bad: float,
    max_megapixels: float,
    as_json: bool,
) -> None:
    """Evaluate the generator in MODEL (a run of `train-gan`, a model folder, or starter) on the
    held-out images of IMAGES, generated from their embeddings. By judges that took no part: kernel
    and Frechet distance of the sets, precision and recall of the manifold, R-precision. By the
    generator's CLIP: cosine of CLIP(G(h)) to h, the same distances, retrieval of the right one,
    intra-set cosine (low: diverse), cosine to the nearest training image at the same size. Beside
    it stand the held-out images themselves at the generator's size, as a perfect one would generate
    them, and real training images: those nearest to the held-out ones, and others.
    """
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.io.starter import model_name
    from lafite_shifted.model_folder import find_part, load_generator
    from lafite_shifted.pipeline import TextToImage
    from torch_utils.threads import probe_threads
    from training.data.decoding.read_image import ReadOptions
    from training.gan.evaluate import EvalSet
    from training.gan.report import (
        evaluate_gan,
        read_metrics,
        references_of,
        write_gan_report,
    )
    from training.gan.run import gan_data_for
    from training.metrics.judged import JudgedSet

    chosen = resolve_device(device)
    check_own_report(out)
    choose_ops(ops, chosen)
    probe_threads(chosen)
    network = load_inception(inception, chosen)
    generator = load_generator(
        find_part(model / "best" if best else model, "generator"), device=chosen, dtype=dtype
    )
    judges = load_judges(
        judge, judge_clip, network, conditioning=generator.encoder_id, device=chosen
    )
    whole = TextToImage(
        load_clip(clip or generator.encoder_id.model, device=chosen), generator, None
    )
    with plain_warnings():
        with progress_bar("embedding", "img") as progress:
            reading = ReadOptions(max_bad, max_megapixels, progress)
            data, report = gan_data_for(whole, images, out, embeddings, options=reading)
        if report:
            report_embedding(report, out / "embeddings")
        eval_set = EvalSet.of(data, count=count)
        judged = JudgedSet.of(judges, eval_set.squares, eval_set.texts)
    references = references_of(eval_set, network, judged)
    others = {str(path): read_metrics(path, references) for path in compare}
    found, grid = evaluate_gan(
        whole, eval_set, judged=judged, inception=network, name=model_name(model), command=typed()
    )
    write_gan_report(out, found, grid, against=others)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)
