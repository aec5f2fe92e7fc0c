"""Flags and helpers that verbs share: the same flag has the same name everywhere."""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafite_shifted.errors import DEFAULT_MAX_BAD, InputError
from lafite_shifted.io.shell import absolute, expanded

if TYPE_CHECKING:
    import torch

    from training.data.embeddings.embed import EmbedReport
    from training.data.embeddings.report_file import LeftOut
    from training.loop import Progress


class ShellPath(click.Path):
    """A path that means what it means in a shell: `--out=~/runs`, which bash hands on as it is,
    lies in the home folder. `absolute`: what is recorded, and used from another folder later.
    """

    def __init__(self, *, absolute: bool = False):
        super().__init__(path_type=Path, file_okay=True)
        self._absolute = absolute

    def convert(
        self,
        value: "str | os.PathLike[str]",
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        name = os.fspath(value)
        path = absolute(name) if self._absolute else expanded(name)
        return super().convert(path, param, ctx)


FolderPath = ShellPath()
RecordedPath = ShellPath(absolute=True)


class PathOrUrl(click.ParamType):
    """A path as in `ShellPath`, or the name of something elsewhere, as a string."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return expanded(value)


class Number(click.FloatRange):
    """A finite number from `least` to `most`."""

    def __init__(
        self, least: float | None = None, most: float | None = None, *, above: bool = False
    ):
        """`above`: `least` itself is left out."""
        super().__init__(min=least, max=most, min_open=above)

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)  # pyright: ignore[reportArgumentType]
        if not isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


class Share(click.ParamType):
    """Part of a whole, as `1%` or `0.01`."""

    name = "share"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{text!r} is no share: give one from 0% to 100%, such as 1% or 0.01.")
        return share


clip_option = click.option(
    "--clip",
    default="starter",
    help="`starter`, MODEL/PRETRAINED (open_clip), hf-hub:ORG/REPO, or a folder; several with "
    "commas between are one.",
)
text_encoder_option = click.option(
    "--text-encoder",
    help="A Hugging Face encoder (folder, or Hub id such as google/flan-t5-base): the prior reads "
    "its token states instead of the CLIP's own.",
)
device_option = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
seed_option = click.option("--seed", default=0, help="Of all randomness.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
max_bad_option = click.option(
    "--max-bad",
    default=f"{100 * DEFAULT_MAX_BAD:g}%",
    type=Share(),
    help="Stop (exit 3) if a larger share cannot be read, such as 1% or 0.01.",
)
max_megapixels_option = click.option(
    "--max-megapixels",
    default=100.0,
    type=Number(0, above=True),
    help="Larger images are bad ones.",
)
ops_option = click.option(
    "--ops",
    default="auto",
    type=click.Choice(["auto", "compiled", "reference"]),
    help="Native operators: where they can be built, always, or never.",
)
dtype_option = click.option(
    "--dtype",
    default="auto",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Of activations; auto is bfloat16 where it is fast, as in training.",
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change any field of the configuration.",
)


def out_option(what: str) -> Callable[[Any], Any]:
    return click.option("--out", required=True, type=FolderPath, help=f"Folder for {what}.")


def kimg_option(help: str) -> Callable[[Any], Any]:
    return click.option("--kimg", type=Number(0, above=True), help=help)


def positive_int(name: str, *, default: int | None, help: str) -> Callable[[Any], Any]:
    return click.option(name, default=default, type=click.IntRange(min=1), help=help)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Our own warnings as one line on stderr."""

    def show(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, UserWarning):
            click.echo(f"warning: {message}", err=True)

    previous = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = previous


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callable (done, total) that draws a bar with rate and time left on stderr."""
    from tqdm import tqdm

    with tqdm(
        desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True, leave=True, disable=None
    ) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def choose_ops(mode: str, device: "torch.device", *, used: bool = True) -> None:
    """Apply --ops, and say which implementation runs on `device`; InputError where `compiled`
    cannot be had. A verb whose networks do without the operators (`used` False) builds none unless
    they are asked for.
    """
    from torch_utils.ops import native

    native.choose(mode)  # type: ignore[arg-type]  # click.Choice has checked it
    if not used and mode != "compiled":
        return
    try:
        found = native.status(device)
    except native.OperatorsMissingError as error:
        raise InputError(f"--ops compiled: {error}. Use --ops auto or --ops reference.") from error
    click.echo(f"operators: {found}", err=True)


def note_starter(clip: str | None) -> None:
    """Say what the shipped CLIP is good for, where it is the one in use."""
    if clip in (None, "starter"):
        click.echo(
            "note: the starter CLIP knows drawings and emoji. For photographs give a larger one, "
            "such as --clip ViT-B-32/laion2b_s34b_b79k (a download of 600 MB).",
            err=True,
        )


def report_embedding(report: "EmbedReport", out: Path) -> None:
    """Say what was embedded, converted and left out, by name and reason."""
    click.echo(
        f"{report.num_embedded} images embedded, {report.num_reused} reused, in {out}", err=True
    )
    if report.conversions:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(report.conversions.items()))
        click.echo(f"converted to RGB: {counts}", err=True)
    report_left_out(report.left_out, out / "report.jsonl")
    total = report.num_embedded + report.num_reused
    if total and not report.num_held_out:
        click.echo(
            "none of them is held out for evaluation: the split goes by name, caption or content, "
            "and all fall on the side of training",
            err=True,
        )


def report_left_out(left_out: "LeftOut", report: Path) -> None:
    """Say what was not used, by reason and count, and what cannot be read, by name."""
    for bad, what in (
        (left_out.bad, "images left out"),
        (left_out.captions, "captions not used"),
    ):
        if bad:
            click.echo(f"{len(bad)} {what} (all in {report}):", err=True)
        for name, reason in bad[:10]:
            click.echo(f"  {name}: {reason}", err=True)
    if left_out.not_used:
        click.echo(f"not used (all in {report}): {'; '.join(left_out.summary())}", err=True)


def show_progress(progress: "Iterator[Progress]", description: str) -> dict[str, float]:
    """Draw a bar over a training, print every logged line, in the first process: kimg, seconds a
    kimg, time left, memory, then the other values; the last logged ones.
    """
    from tqdm import tqdm

    from torch_utils import distributed

    last: dict[str, float] = {}
    if not distributed.is_main_process():
        for step in progress:
            last = step.logged or last
        return last
    with tqdm(
        desc=description,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} kimg [{elapsed}, "
        "{remaining} left, {rate_inv_fmt}{postfix}]",
        unit="kimg",
        file=sys.stderr,
        dynamic_ncols=True,
        disable=None,
    ) as bar:
        for step in progress:
            bar.total = step.total_samples / 1000
            if bar.n == 0:
                bar.initial = step.samples / 1000
            bar.update(step.samples / 1000 - bar.n)
            if step.logged:
                last = step.logged
                bar.set_postfix_str(f"{last['peak_mem_gib']:.2f} GiB", refresh=False)
                with _terminal_may_be_gone():
                    tqdm.write(_progress_line(step, last), file=sys.stdout)
    return last


@contextmanager
def _terminal_may_be_gone() -> Iterator[None]:
    """What is written to a terminal that was closed is lost, as the bar is; the run goes on, to the
    end of the step if SIGHUP is not ignored.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def _progress_line(step: "Progress", logged: dict[str, float]) -> str:
    from tqdm import tqdm

    from training.loop import MACHINE_COLUMNS

    seconds = logged["seconds_per_kimg"]
    left = tqdm.format_interval((step.total_samples - step.samples) / 1000 * seconds)
    words = [
        f"{step.samples / 1000:8.1f} kimg",
        f"{seconds:.1f} s/kimg",
        f"{left} left",
        f"{logged['peak_mem_gib']:.2f} GiB",
    ]
    words += [
        f"{name} {value:.4g}" for name, value in logged.items() if name not in MACHINE_COLUMNS
    ]
    return "  ".join(words)
