"""Flags that verbs share: the same flag has the same name everywhere."""

from collections.abc import Callable
from typing import Any

import click

from lafite_shifted.cli.argument_types import FolderPath, Number, Share
from lafite_shifted.errors import DEFAULT_MAX_BAD

clip_option = click.option(
    "--clip",
    default="starter",
    help="`starter`, MODEL/PRETRAINED (open_clip), hf-hub:ORG/REPO, or a folder; several with "
    "commas between are one.",
)
text_encoder_option = click.option(
    "--text-encoder",
    help="A Hugging Face encoder (folder, or Hub id such as google/flan-t5-base): it gives the "
    "token states, in place of the CLIP's own.",
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
    """--out, the folder for `what`."""
    return click.option("--out", required=True, type=FolderPath, help=f"Folder for {what}.")


def kimg_option(help: str) -> Callable[[Any], Any]:
    """--kimg, a length in thousands of images or pairs."""
    return click.option("--kimg", type=Number(0, above=True), help=help)


def batch_option(*, default: int | None, help: str) -> Callable[[Any], Any]:
    """`--batch-size`, or `--batch` for short."""
    names = ("--batch-size", "--batch", "batch")
    return click.option(*names, default=default, type=click.IntRange(min=1), help=help)


def positive_int(name: str, *, default: int | None, help: str) -> Callable[[Any], Any]:
    """The flag `name`, a whole number from 1; `default` None where it may be left out."""
    return click.option(name, default=default, type=click.IntRange(min=1), help=help)
