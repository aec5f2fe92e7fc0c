"""`generate`: images from sentences, one or ten thousand."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, PathOrUrl
from lafite_shifted.cli.messages import plain_warnings
from lafite_shifted.cli.prior_options import PriorFlags, prior_options
from lafite_shifted.cli.progress import progress_bar
from lafite_shifted.errors import InputError, InterruptedRunError

if TYPE_CHECKING:
    from lafite_shifted.cli.generated import Outputs
    from lafite_shifted.generation import Generation
    from lafite_shifted.pipeline import TextToImage

SIGINT = 2


@click.command("generate")
@click.argument("texts", nargs=-1)
@click.option(
    "--prompts",
    type=PathOrUrl(),
    help="A file of prompts, one a line; - is standard input, which is read too where no prompt is "
    "given.",
)
@click.option(
    "--image",
    "images",
    type=FolderPath,
    multiple=True,
    help="An image in place of a prompt: its own CLIP embedding is the condition.",
)
@options.out_option("images, manifest.jsonl and grid.png")
@options.positive_int(
    "--num-images", default=None, help="Images a prompt; image i uses seed + i.  [default: 4]"
)
@options.seeds_option
@click.option(
    "--format",
    "suffix",
    default="png",
    type=click.Choice(["png", "webp", "jpg", "jpeg"]),
    help="Of the images; grids and sheets are PNGs.",
)
@click.option(
    "--as",
    "forms",
    multiple=True,
    default=["files", "grid"],
    type=click.Choice(["files", "grid", "sheet"]),
    help="One file an image; a grid with a row a prompt; contact sheets with the names below the "
    "images. May be repeated.",
)
@click.option("--resume", is_flag=True, help="Skip the images that are there, made from the same.")
@options.batch_option(default=16, help="Images a forward pass.")
@options.truncation_option
@prior_options
@options.model_options
def command(
    texts: tuple[str, ...],
    prompts: str | None,
    images: tuple[Path, ...],
    out: Path,
    num_images: int | None,
    seed: int | Sequence[int],
    suffix: str,
    forms: tuple[str, ...],
    resume: bool,
    batch: int,
    truncation: float,
    prior: PriorFlags,
    model: options.ModelFlags,
) -> None:
    """Make images of TEXTS, with the model that ships or with yours, such as: generate "a red
    apple" "a cat" --model M --out DIR. Weights mix sentences into one: "a cat:0.7" "a tiger:0.3".
    """
    from lafite_shifted.cli.generated import Outputs, source_of_images, sources_of_prompts

    generation = prior.generation(truncation=truncation)
    if images and (texts or prompts or prior.negative or prior.no_prior):
        raise InputError("--image takes the place of sentences. Leave one of the two out.")
    if images:
        prior.refuse_sampling("--image")
    seeds = options.sample_seeds(seed, num_images, default=4)
    sources = source_of_images(images) if images else sources_of_prompts(texts, prompts)
    outputs = Outputs(out, sources, seeds, suffix=suffix, forms=forms, resume=resume)
    with plain_warnings():
        pipeline = model.load(needs_prior=not (prior.no_prior or images))
        outputs.describe(pipeline, generation)
        if outputs.num_changed:
            click.echo(
                f"{outputs.num_changed} of the images that are there were made with other "
                "settings, and are made again.",
                err=True,
            )
        _generate(pipeline, generation, outputs, batch)
    click.echo(outputs.summary())


def _generate(
    pipeline: "TextToImage", generation: "Generation", outputs: "Outputs", batch: int
) -> None:
    """All images that are not there yet; a Ctrl-C keeps what is saved."""
    from torch_utils.threads import Reprobe

    todo, total = outputs.missing(), outputs.num_missing
    sources = [outputs.sources[number].prompt for number in todo]
    stream = pipeline.stream(sources, list(todo.values()), generation, batch=batch)
    numbers, rechoose = list(todo), Reprobe(pipeline.device)
    try:
        with progress_bar("generate", "image") as progress:
            progress(0, total)
            for done, (number, seed, image) in enumerate(stream, start=1):
                outputs.add(numbers[number], seed, image)
                if done % batch == 0 or done == total:
                    outputs.flush()
                    progress(done, total)
                    rechoose()
    except KeyboardInterrupt as error:
        raise InterruptedRunError(f"Interrupted. {outputs.kept()}", SIGINT) from error
    finally:
        outputs.flush()
    outputs.finish()
