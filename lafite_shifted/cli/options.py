"""Flags that verbs share: the same flag has the same name everywhere."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from lafite_shifted.cli.argument_types import FolderPath, Number, PathOrUrl, SeedList, Share
from lafite_shifted.errors import DEFAULT_MAX_BAD, InputError
from lafite_shifted.io.starter import STARTER

if TYPE_CHECKING:
    from lafite_shifted.pipeline import TextToImage
    from torch_utils.device import DtypeName

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
seeds_option = click.option(
    "--seed", default=0, type=SeedList(), help="One (image i uses seed + i), a list 1,5,9, or 0-7."
)
model_option = click.option(
    "--model",
    default=STARTER,
    type=PathOrUrl(),
    help="Model folder (see `pack`), a Hugging Face Hub id, or the small one that ships.",
)
truncation_option = click.option(
    "--truncation",
    type=Number(-10, 10),
    default=1.0,
    help="Pulls w towards its mean below 1.",
)
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


class _Threads(click.ParamType):
    """auto, or a number from 1."""

    name = "auto|N"
    MOST = 1024  # OpenMP ends the process where the system gives it no more

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        """None for auto."""
        if value is None or value == "auto":
            return None
        return click.IntRange(min=1, max=self.MOST).convert(value, param, ctx)


threads_option = click.option(
    "--threads",
    type=_Threads(),
    help="Of the CPU: a number, or auto: a short probe chooses, at the start, every five minutes, "
    "and when steps become slow, unless OMP_NUM_THREADS does. A resumed run begins with its own. "
    "Only with a number is a run repeated to the bit.  [default: auto]",
)


def out_option(what: str) -> Callable[[Any], Any]:
    """--out, the folder for `what`."""
    return click.option("--out", required=True, type=FolderPath, help=f"Folder for {what}.")


def kimg_option(help: str) -> Callable[[Any], Any]:
    """--kimg, a length in thousands of images or pairs."""
    return click.option("--kimg", type=Number(0, above=True), help=help)


def batch_option(*, default: int | None, help: str) -> Callable[[Any], Any]:
    """--batch-size, in samples."""
    kind = click.IntRange(min=1)
    return click.option("--batch-size", "batch", default=default, type=kind, help=help)


def positive_int(name: str, *, default: int | None, help: str) -> Callable[[Any], Any]:
    """The flag `name`, a whole number from 1; `default` None where it may be left out."""
    return click.option(name, default=default, type=click.IntRange(min=1), help=help)


@dataclass(frozen=True)
class ModelFlags:
    """The flags that say which model, where and how it computes."""

    model: str
    device: str
    ops: str
    dtype: "DtypeName"
    clip: str | None
    text_encoder: str | None

    def load(self, *, needs_prior: bool = True) -> "TextToImage":
        """The model; says which operators run, and what it means that there is no prior."""
        from lafite_shifted.cli.messages import choose_ops
        from lafite_shifted.device import resolve_device
        from lafite_shifted.pipeline import TextToImage
        from torch_utils.threads import probe_threads

        chosen = resolve_device(self.device)
        choose_ops(self.ops, chosen)
        probe_threads(chosen)
        model = TextToImage.from_pretrained(
            self.model,
            device=self.device,
            dtype=self.dtype,
            clip=self.clip,
            text_encoder=self.text_encoder,
        )
        if model.prior is None and needs_prior:
            click.echo(
                f"{self.model} has no prior: conditioning on the text embedding itself. Add one "
                "with `pack --prior`.",
                err=True,
            )
        return model


def sample_seeds(
    seed: int | Sequence[int], num_images: int | None, *, default: int
) -> Sequence[int]:
    """Those of --seed and --num-images, `default` images where neither says how many; InputError
    where they say different things.
    """
    if isinstance(seed, int):
        return range(seed, seed + (num_images or default))
    if num_images not in (None, len(seed)):
        raise InputError(
            f"--seed names {len(seed)} seeds, which are as many images, and --num-images says "
            f"{num_images}. Leave --num-images out."
        )
    return seed


def animation_options(*, default: str | None) -> Callable[[Any], Any]:
    """--animation and --fps."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--fps", default=24, type=click.IntRange(1, 50), help="Frames a second."
        )(command)
        return click.option(
            "--animation",
            default=default,
            type=click.Choice(["webp", "gif", "mp4"]),
            help="Format of the animation; mp4 needs the extra `video`.",
        )(command)

    return add


def gathered(
    options: Sequence[Callable[[Any], Any]], kind: type, name: str, command: Callable[..., Any]
) -> Callable[..., Any]:
    """`command` with these options, which reach it as one argument `name`, a `kind` of them."""

    @functools.wraps(command)
    def gather(**given: Any) -> Any:
        own = {field.name: given.pop(field.name) for field in fields(kind)}
        return command(**given, **{name: kind(**own)})

    for option in reversed(options):
        gather = option(gather)
    return gather


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--model, --device, --ops, --dtype, --clip, --text-encoder, as `model`: a ModelFlags."""
    options = (
        model_option,
        device_option,
        ops_option,
        dtype_option,
        click.option(
            "--clip", help="Where the model's CLIP lies, if not where it was trained with."
        ),
        click.option("--text-encoder", help="Where the prior's text encoder lies, likewise."),
    )
    return gathered(options, ModelFlags, "model", command)
