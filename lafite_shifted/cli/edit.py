"""`edit`: an image changed by words."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import NumberList
from lafite_shifted.cli.messages import counted, plain_warnings
from lafite_shifted.cli.prior_options import PriorFlags, prior_options


@click.command("edit")
@click.argument("image")
@click.option("--from", "source", required=True, help="What the image shows, such as 'an apple'.")
@click.option("--to", "target", required=True, help="What it shall show, such as 'a pear'.")
@click.option(
    "--strength",
    default="0.15,0.3,0.45,0.6",
    type=NumberList(0, 1),
    help="From 0, the image, to 1; several with commas between make several images.",
)
@options.out_option("the images, strip.png and manifest.jsonl")
@options.seed_option
@options.truncation_option
@prior_options
@options.model_options
def command(
    image: str,
    source: str,
    target: str,
    strength: tuple[float, ...],
    out: Path,
    seed: int,
    truncation: float,
    prior: PriorFlags,
    model: options.ModelFlags,
) -> None:
    """Change IMAGE, a file, from what it shows to something else: its embedding turns by the
    difference of two sentences. Give latents.safetensors of `project` to keep the rest of it.
    """
    from lafite_shifted.cli.edited import Argument, EditedFolder
    from lafite_shifted.cli.settings import settings_of

    generation = prior.generation(truncation=truncation)
    given = Argument(image)
    folder = EditedFolder(out, [f"edit-{number:.3f}.png" for number in strength])
    with plain_warnings():
        pipeline = model.load()
        found = pipeline.edit(
            given.end(pipeline),
            source,
            target,
            strength=strength,
            seed=seed,
            generation=generation,
        ).latents
    images = pipeline.render_latents(found)
    record = {"image": image, "from": source, "to": target, "seed": seed}
    settings = settings_of(pipeline, generation, from_text=True)
    records = [record | {"strength": number} for number in strength]
    folder.save(images, records, before=given.shown(images[0].width), settings=settings)
    click.echo(f"{counted(len(images), 'image')} and strip.png in {out}")
