"""What verbs say on stderr beside their result: warnings, operators, what was left out."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.errors import InputError

if TYPE_CHECKING:
    import torch

    from training.data.embeddings.embed import EmbedReport
    from training.data.embeddings.report_file import LeftOut


def counted(count: int, what: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {what}{'s' * (count != 1)}"


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


def choose_ops(mode: str, device: "torch.device", *, used: bool = True) -> None:
    """Apply --ops, and say which implementation runs on `device`; InputError where `compiled`
    cannot be had. A verb whose networks do without the operators (`used` False) builds none unless
    `compiled` is chosen.
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
            "note: the starter CLIP was trained on drawings and emoji. For photographs give a "
            "larger one, such as --clip ViT-B-32/laion2b_s34b_b79k (a download of 600 MB).",
            err=True,
        )


def report_embedding(report: "EmbedReport", out: Path) -> None:
    """Say what was embedded, converted and left out, by name and reason."""
    click.echo(
        f"{counted(report.num_embedded, 'image')} embedded, {report.num_reused} reused, in {out}",
        err=True,
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
    for bad, one, what in (
        (left_out.bad, "image", "left out"),
        (left_out.captions, "caption", "not used"),
    ):
        if bad:
            click.echo(f"{counted(len(bad), one)} {what} (all in {report}):", err=True)
        for name, reason in bad[:10]:
            click.echo(f"  {name}: {reason}", err=True)
    if left_out.not_used:
        click.echo(f"not used (all in {report}): {'; '.join(left_out.summary())}", err=True)
