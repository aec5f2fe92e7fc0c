"""What the verbs of `export` share."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import PathOrUrl
from lafite_shifted.errors import InputError

if TYPE_CHECKING:
    from lafite_shifted.prior.samplers import Sampler


def exported(
    command: Callable[..., Any], *, check: Callable[[], None] = lambda: None
) -> Callable[..., Any]:
    """MODEL, --steps, --sampler and --clip, which reach `command` as `model`, a TextToImage in
    float32 on the CPU, and `sampling`, a SamplerConfig; `check` comes before the model is loaded.
    """

    @functools.wraps(command)
    def load(
        name: str, steps: int | None, sampler: "Sampler | None", clip: str | None, **given: Any
    ) -> Any:
        check()
        from lafite_shifted.pipeline import TextToImage
        from lafite_shifted.prior.samplers import SamplerConfig

        model = TextToImage.from_pretrained(name, device="cpu", dtype="float32", clip=clip)
        return command(model=model, sampling=SamplerConfig(steps, sampler), **given)

    flags = (
        click.argument("name", metavar="MODEL", type=PathOrUrl()),
        options.positive_int(
            "--steps",
            default=None,
            help="Sampling steps of the prior, which the program has built in.  [default: 4, or "
            "its step budget]",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["ancestral", "ddim", "dpm++"]),
            help="Of the prior; by default the one that `generate` takes.",
        ),
        click.option(
            "--clip", help="Where the model's CLIP lies, if not where it was trained with."
        ),
    )
    for flag in reversed(flags):
        load = flag(load)
    return load


def exported_as_onnx(command: Callable[..., Any]) -> Callable[..., Any]:
    """`exported`, of a command that makes ONNX graphs."""
    return exported(command, check=need_onnx)


def need_onnx() -> None:
    """InputError unless the packages are there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"ONNX needs packages that are not installed ({error}). Install them: pip install "
            "'lafite-shifted[export]'."
        ) from error
