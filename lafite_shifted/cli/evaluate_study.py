"""`evaluate study`: trains small priors of every process and compares them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, Number
from lafite_shifted.cli.evaluate_report import check_own_report, numbers, typed
from lafite_shifted.cli.messages import choose_ops
from lafite_shifted.cli.progress import progress_bar, show_progress

if TYPE_CHECKING:
    from torch_utils.device import DtypeName


@click.command("study")
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
    help="Evaluate on held-out captions of these, such as of a larger cone.  [default: of those "
    "trained on]",
)
@options.device_option
@options.ops_option
@options.dtype_option
def command(
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

    The same command again resumes where it stopped.
    """
    from lafite_shifted.device import resolve_device
    from torch_utils.threads import probe_threads
    from training.prior.study import StudyConfig, run_study

    counts = tuple(int(n) for n in numbers("--steps", steps, least=1))
    chosen = resolve_device(device)
    check_own_report(out)
    choose_ops(ops, chosen, used=False)
    probe_threads(chosen)
    with progress_bar("sampling", "run") as progress:
        run_study(
            embeddings,
            out,
            StudyConfig(kimg, seeds, counts, limit, eval_embeddings, dtype),
            device=chosen,
            command=typed(),
            show=show_progress,
            progress=progress,
        )
    click.echo((out / "report.md").read_text(encoding="utf-8"), nl=False)
